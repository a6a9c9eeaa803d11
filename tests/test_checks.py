"""Every check is proved three ways: a blank passes politely, the solution is right, each mistake gets its own hint."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from shalab import checks
from shalab.checkpoint import load_checkpoint
from shalab.checks import Check, attention, difference, enwik8_run, exercise, inside
from shalab.device import Precision
from shalab.presets import Budget
from shalab.run import Run

CHECKS = {check.key: check for notebook in checks.exercises().values() for check in notebook}
every_check = pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
MISTAKES = [(check, mistake) for check in CHECKS.values() for mistake in check.mistakes]


@every_check
def test_a_blank_passes_politely(check):
    def unwritten(*arguments):
        raise NotImplementedError

    blanks = [None, ...] if check.inputs is None else [None, ..., lambda *_: ..., lambda *_: (1, ...), unwritten]
    for blank in blanks:
        assert check(blank).outcome == "open"
    assert not Path(checks.PROGRESS_FILE).exists()


FUNCTIONS = [check for check in CHECKS.values() if check.inputs]


@pytest.mark.parametrize("check", FUNCTIONS, ids=lambda check: check.key)
def test_a_forgotten_return_is_told(check):
    def written(*arguments):
        result = check.reference(*arguments)  # noqa: F841

    assert repr(check(written)) == f"✘ {check.name} returned nothing: is the return missing?"


def test_dots_that_wait_to_be_replaced_are_told_from_those_of_an_index():
    def in_a_value(x):
        y = ...  # noqa: F841

    def alone(x):
        """What is to be done"""
        ...

    def passed(x):
        pass

    def of_an_index(x):
        y = x[..., None]  # noqa: F841

    def with_an_index(x):
        return x[..., None].mean()

    for stub in (in_a_value, alone, passed, lambda x: None, lambda x: ...):
        assert mean(stub).outcome == "open"
    assert "is the return missing" in mean(of_an_index).message
    assert "expected 2 parts" in difference(None, (1, 2)) and "NoneType" in difference((1, None), (1, 2))
    assert mean(with_an_index).outcome == "right"


FORMS = {
    "numpy": lambda x: np.asarray(x),
    "torch": lambda x: torch.as_tensor(x),
    "learned": lambda x: torch.as_tensor(x).double().requires_grad_(),
    "half as exact": lambda x: np.asarray(x).astype(np.float32),
    "lists": lambda x: np.asarray(x).tolist(),
}


@every_check
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_right_answer_is_right_in_every_form(check, form):
    def answer(*arguments):
        result = check.reference(*arguments)
        return [form(part) for part in result] if isinstance(result, tuple) else form(result)

    verdict = check(answer if check.inputs else answer())
    assert verdict.outcome == "right", verdict


@every_check
def test_the_reference_is_right_and_remembered(check):
    verdict = check(check.reference() if check.inputs is None else check.reference)
    assert verdict.outcome == "right" and verdict.message.startswith(f"{check.name} is right.")
    assert Path(checks.PROGRESS_FILE).read_text(encoding="utf-8") == f'[\n "{check.key}"\n]\n'
    course = checks.exercises()
    n_here, n_course = len(course[check.notebook]), sum(map(len, course.values()))
    assert f"Done: 1 of {n_here} in this notebook, 1 of {n_course} in the course." in verdict.message


@pytest.mark.parametrize("check, mistake", MISTAKES, ids=[f"{check.key}: {name}" for check, name in MISTAKES])
def test_a_typical_mistake_gets_its_own_hint(check, mistake):
    wrong, hint = check.mistakes[mistake]
    verdict = check(wrong)
    assert (verdict.outcome, verdict.mistake) == ("wrong", mistake)
    assert verdict.message == f"{check.name}: {mistake}. {hint}"
    assert not Path(checks.PROGRESS_FILE).exists()


@every_check
def test_every_check_knows_two_mistakes_with_different_hints(check):
    hints = [hint for _, hint in check.mistakes.values()]
    assert len(set(hints)) == len(hints) >= 2


@exercise(
    lambda generator: ((torch.randn(n, generator=generator),) for n in (3, 5)),
    mistakes={"sum": (lambda x: x.sum(), "Divide."), "raised": (lambda x: x.mean("no"), "No text.")},
)
def mean(x):
    """x (N,) -> ()"""
    return x.mean()


@exercise(mistakes={"times": (21, "Add."), "minus": (4, "Add.")})
def ten():
    return 10


@pytest.fixture(autouse=True)
def of_the_course(monkeypatch):
    """The two exercises above count as a notebook of the course."""
    course = checks.exercises()
    monkeypatch.setattr(checks, "exercises", lambda: course | {"test_checks": [mean, ten]})


def test_an_error_in_the_readers_code_is_told_in_one_line_with_its_place():
    def answer(x):
        y = x + 1
        return (y @ torch.zeros(2, 2)).sum()

    verdict = mean(answer)
    assert verdict.outcome == "stopped" and "Traceback" not in verdict.message
    first, second = verdict.message.splitlines()
    assert first.startswith("mean stopped: RuntimeError: ")
    line = answer.__code__.co_firstlineno + 2
    assert second == f"in line {line}: return (y @ torch.zeros(2, 2)).sum()"


def test_a_wrong_number_of_arguments_is_told():
    assert re.search(r"stopped: TypeError: .*takes 0 positional arguments", mean(lambda: 1).message)


def test_a_mistake_is_also_known_by_its_error():
    assert mean(lambda x: x.mean("no")).mistake == "raised"


def test_what_is_no_typical_mistake_is_told_by_its_first_difference():
    assert "expected shape (), got (1,)" in mean(lambda x: x.mean(0, keepdim=True)).message
    assert re.search(r"expected -?\d\S*, got -?\d", mean(lambda x: x.mean() + 1).message)


def test_function_and_value_are_not_mixed_up():
    assert "without calling it" in mean(3.0).message
    assert "the value" in ten(lambda: 10).message
    assert ten(10.0).outcome == "right" and ten(21).mistake == "times"
    assert ten(11).message == "ten: 11 is not the answer."


def test_inputs_are_the_same_whatever_the_answer_does_to_them():
    def spoils(x):
        value = x.mean()
        torch.rand(5)
        x.zero_()
        return value

    state = torch.get_rng_state()
    assert mean(spoils).outcome == "right"
    assert torch.equal(state, torch.get_rng_state())


def test_numpy_and_lists_are_as_good_as_tensors():
    assert mean(lambda x: np.mean(x.numpy())).outcome == "right"
    assert not difference(np.array([3.0, 2.0])[::-1], [2.0, 3.0])
    assert not difference(torch.tensor([2.0], requires_grad=True), torch.tensor([2.0]))
    assert not difference([b"a", "b"], (b"a", "b"))
    assert difference([b"a", b"b"], [b"a", b"c"]) == "part 1: expected b'c', got b'b'"
    assert difference("3", 3) == "expected int, got str"
    assert not difference(float("nan"), torch.tensor(torch.nan))
    assert difference(2.001, 2.0) and not difference(2.00001, 2.0)


def test_a_folder_that_cannot_be_written_costs_no_mark(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    verdict = mean(mean.reference)
    assert verdict.outcome == "right" and "could not be kept" in verdict.message
    assert verdict.message.endswith("cannot be written (Permission denied).")


@pytest.mark.parametrize("content", [b"5", b'{"a": 1}', b'[1, "a", [2]]', b"\xff", b'"abc"', b"", b"null", None])
def test_progress_that_something_else_wrote_does_no_harm(content, capsys):
    if content is None:
        Path(checks.PROGRESS_FILE).mkdir()
    else:
        Path(checks.PROGRESS_FILE).write_bytes(content)
    checks.progress()
    assert mean(mean.reference).outcome == "right"
    checks.progress()
    assert capsys.readouterr().out.splitlines()[-1].split()[1] == ("●○" if content is not None else "○○")


def test_progress_survives_a_broken_file_and_counts(capsys):
    Path(checks.PROGRESS_FILE).write_text("{not json", encoding="utf-8")
    assert "1 of 2 in this notebook" in mean(mean.reference).message
    assert "2 of 2 in this notebook" in ten(10).message
    checks.progress()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["test_checks", "●●", "2", "of", "2"]
    assert all(" 0 of " in line for line in lines[:-1])


def test_verdicts_read_as_text_and_as_html():
    verdict = Check(ten.reference, None, {})("<b>")
    assert repr(verdict).startswith("✘ ten: '<b>'") and "<b>'" not in verdict._repr_html_()


def test_a_killed_run_is_judged_by_what_its_folder_holds(monkeypatch, tmp_path):
    monkeypatch.setitem(enwik8_run.SMALL, "budget", Budget(steps=6))
    one, other, stopped, unfinished = (tmp_path / name for name in ("one", "other", "stopped", "unfinished"))
    enwik8_run.train(one)
    weights = load_checkpoint(one)["model"]

    def judged(folder, weights=weights):
        return enwik8_run.compared(folder, lambda: weights)

    assert judged(one) == enwik8_run.SAME
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    next(iter(changed.values())).view(-1)[0] += 1e-7
    assert judged(one, changed) == enwik8_run.DIFFERENT
    given = {name: value for name, value in enwik8_run.SMALL.items() if name not in ("device", "dtype")}
    precision = Precision.pick("cpu", "float32")
    for _ in Run.create(other, **given | {"seed": 7}, precision=precision).events():
        pass
    assert judged(other) == enwik8_run.ANOTHER
    for folder in (stopped, unfinished):
        run = Run.create(folder, **given, precision=precision)
        for _ in run.events():
            if run.trainer.step == 3:
                run.stop.set()
    assert judged(unfinished) == enwik8_run.UNFINISHED
    for _ in Run.resume(stopped).events():
        pass
    assert judged(stopped) == enwik8_run.ASKED
    assert "holds no run" in enwik8_run.killed(tmp_path / "nowhere").message
    assert enwik8_run.killed(str(other)).mistake == "another run"


def test_a_gate_may_be_shut_in_more_than_one_way():
    def by_its_other_half(vector, weight, bias):
        return vector, weight, torch.cat([bias[: len(vector)], torch.full_like(vector, -math.inf)])

    assert inside.silence(by_its_other_half).outcome == "right"
    assert "must keep their shapes" in inside.silence(lambda *given: [part[:1] for part in given]).message
    assert "expected three tensors" in inside.silence(lambda *given: given[0].sum()).message
    ajar = inside.silence(lambda vector, weight, bias: (vector, 0 * weight, bias + 1)).message
    assert "the gate that they make is still" in ajar


def test_several_extrapolations_are_right_and_a_near_miss_is_told_with_its_tolerance():
    def of_the_last_half(n_bytes, bpc, at):
        late = n_bytes > n_bytes[-1] / 2
        slope, height = np.polyfit(np.log(n_bytes[late]), np.log(bpc[late]), 1)
        return np.exp(height + slope * np.log(at))

    def too_bold(n_bytes, bpc, at):
        return of_the_last_half(n_bytes, bpc, at) - 0.3

    assert enwik8_run.extrapolate(of_the_last_half).outcome == "right"
    assert re.search(r"guess was 1\.3\d, and 0\.11 either way would pass", enwik8_run.extrapolate(too_bold).message)
    assert "expected a number" in enwik8_run.extrapolate(lambda *_: "1.5").message
    lines = [{"event": "step", "n_bytes": 1000 * n, "bpc": 8 * n**-0.2} for n in range(1, 91)]
    assert "near enough" in enwik8_run.own_guess(enwik8_run.extrapolate.reference, lines)
    assert "too far away" in enwik8_run.own_guess(lambda *_: 9, lines)
    assert enwik8_run.own_guess(lambda *_: ..., lines) == "extrapolate has no guess yet"
    assert "wait for more" in enwik8_run.own_guess(enwik8_run.extrapolate.reference, lines[:20])


def test_any_delay_of_one_byte_is_right_and_what_is_none_is_told_in_numbers():
    def delayed(steep=3.0, forget=-3.0, places=((2, 1.0),)):
        def answer(w_x, w_h, bias, source):
            w_x, w_h = torch.zeros_like(w_x), torch.zeros_like(w_h)
            for row, weight in places:
                w_h[row, source] = weight * steep
            return w_x, w_h, [5, forget, 0, 5]

        return attention.delay(answer)

    assert delayed().outcome == delayed(steep=0.5, forget=-9.0).outcome == "right"
    assert re.search(r"correlation of -0\.9\d, and more than 0\.95 is wanted", delayed(steep=-3.0).message)
    assert re.search(r"correlation of 0\.[5-8]\d", delayed(forget=0.5).message)  # smeared over several bytes
    assert "expected w_x and w_h" in attention.delay(lambda w_x, w_h, bias, source: (w_x, w_h)).message
    assert "correlation of nan" in delayed(places=()).message
