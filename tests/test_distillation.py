"""A student is taught by what the teacher says at its own places, and by nothing else."""

import math

import pytest
import torch
from torch.nn import functional as F

from shalab.laboratory import distillation
from shalab.laboratory.contestants import TOY, contestant
from shalab.laboratory.distillation import predictions_of, price, scores_of, softened, teach


def test_the_softened_loss_by_hand():
    """Teacher 3 : 1, student 1 : 1, at t = 1: 0.75 ln 1.5 + 0.25 ln 0.5. At t = 2 the teacher is sqrt(3) : 1."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert softened(student, teacher, 1.0).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    p = 3**0.5 / (3**0.5 + 1)
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p))
    assert softened(student, teacher, 2.0).item() == pytest.approx(expected)
    assert softened(teacher, teacher.half(), 4.0).item() == pytest.approx(0, abs=1e-5)


def test_the_gradient_keeps_its_size_when_it_is_softened():
    torch.manual_seed(0)
    student, teacher = torch.randn(50, 256), torch.randn(50, 256)
    norms = [
        torch.autograd.grad(softened(student.requires_grad_(), teacher, t), student)[0].norm() for t in (4.0, 64.0)
    ]
    assert norms[0] / norms[1] == pytest.approx(1, rel=0.1)


def test_the_teachers_predictions_are_those_of_one_long_reading():
    student, teacher = contestant("one head", TOY, 0.01), contestant("one head", TOY, 0.01, seed=1).model.eval()
    found = predictions_of(teacher, student, 50, window=13)
    x, _ = student.windows.streams.window(0, 50)
    torch.testing.assert_close(found.float(), teacher(x)[0].detach(), atol=2e-2, rtol=1e-2)
    assert found.shape == (50, TOY.batch_size, 256)


def test_with_nothing_to_say_a_teacher_changes_no_update_of_the_trainers():
    own, taught = contestant("a copier", TOY, 0.01), contestant("a copier", TOY, 0.01)
    for _ in range(4):
        own.update()
        teach(taught, torch.zeros(500, TOY.batch_size, 256), 2.0, weight=0.0)
    assert own.n_bytes == taught.n_bytes and own.step == taught.step
    for a, b in zip(own.model.parameters(), taught.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_window_is_taught_by_the_predictions_of_its_own_places(monkeypatch):
    seen = []
    monkeypatch.setattr(distillation, "softened", lambda logits, targets, t: seen.append(targets) or logits.sum() * 0)
    student = contestant("no head", TOY, 0.01)
    places = torch.arange(500.0)[:, None, None].expand(500, TOY.batch_size, 256)
    for _ in range(3):
        teach(student, places, 2.0)
    assert torch.cat(seen)[:, 0, 0].tolist() == [*range(student.windows.cursor)]


def test_a_student_that_is_taught_alone_by_a_teacher_comes_closer_to_it():
    student, teacher = contestant("one head", TOY, 0.05), contestant("one head", TOY, 0.01, seed=1).model.eval()
    predictions = predictions_of(teacher, student, 600)

    def apart() -> float:
        x, _ = student.windows.streams.window(500, 60)
        with torch.no_grad():
            return F.kl_div(
                student.model(x)[0].log_softmax(-1), teacher(x)[0].softmax(-1), reduction="batchmean"
            ).item()

    before = apart()
    for _ in range(15):
        teach(student, predictions, 1.0, weight=1.0)
    assert apart() < 0.5 * before


def test_the_price_by_hand():
    """A taught byte takes 3 and 5 for the teacher, a byte alone takes 2: 4 times as many."""
    assert price({"alone": [2, 2, 2], "taught": [3, 1, 3], "teacher": [5, 3, 50]}) == 4.0


def test_scores_are_those_of_the_chosen_temperature_in_the_order_of_the_seeds():
    runs = [
        {"student": "no head", "way": way, "temperature": t, "seed": seed, "valid": valid}
        for way, t, seed, valid in (
            ("taught", 2.0, 1, 3.1), ("taught", 2.0, 0, 3.0), ("taught", 4.0, 0, 9.0),
            ("alone, equal bytes", None, 0, 4.0),
        )
    ]  # fmt: skip
    found = {"students": {"no head": {"temperature": 2.0}}, "runs": runs}
    assert scores_of(found, "no head", "taught") == [3.0, 3.1]
    assert scores_of(found, "no head", "alone, equal bytes") == [4.0]
