import math

import pytest
import torch

from shalab import InputError, Lamb
from shalab.optim import adamw
from shalab.schedules import constant_then_half, cosine, linear, warmup

pytestmark = pytest.mark.usefixtures("both_ways")
SHAPES = [(3, 5), (7,), (), (2, 3, 11)]


def parameters():
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.double)) for shape in SHAPES]


def gradients(step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in SHAPES]


def textbook_lamb(w, grads, lr, b1, b2, eps, decay, floor):
    """One tensor at a time, as the equations stand."""
    m = v = torch.zeros_like(w)
    for g in grads:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        u = m / (v.sqrt() + eps) + decay * w
        w_norm, u_norm = min(w.norm().item(), 10), u.norm().item()
        r = w_norm / u_norm if w_norm and u_norm else 1.0
        r = r if floor is None else max(r, floor)
        w = w - lr * r * u
    return w, r


@pytest.mark.parametrize("floor", [None, 0.25, 3.0])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_updates_are_the_textbooks(floor, decay):
    params = parameters()
    optimizer = Lamb(params, 0.01, (0.8, 0.95), 1e-5, decay, floor)
    for step in range(7):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g
        optimizer.step()
    for i, p in enumerate(params):
        grads = [gradients(step)[i] for step in range(7)]
        w, r = textbook_lamb(parameters()[i].detach(), grads, 0.01, 0.8, 0.95, 1e-5, decay, floor)
        assert (p - w).abs().max() < 1e-12
        assert optimizer.state[p]["trust_ratio"].item() == pytest.approx(r, rel=1e-10)


def test_norms_of_weights_count_as_ten_at_most():
    """By hand: w = (24, 32) has norm 40, which counts as 10. g = 1 gives m = 1/10, sqrt(v) = 1/2, u = (1/5, 1/5)."""
    w = torch.nn.Parameter(torch.tensor([24.0, 32.0], dtype=torch.double))
    optimizer = Lamb([w], lr=0.1, betas=(0.9, 0.75), eps=1e-300, weight_decay=0.0)
    w.grad = torch.ones(2, dtype=torch.double)
    optimizer.step()
    ratio = 10 / (0.2 * math.sqrt(2))
    assert optimizer.state[w]["weight_norm"].item() == 10
    assert optimizer.state[w]["trust_ratio"].item() == pytest.approx(ratio)
    assert w.tolist() == pytest.approx([24 - 0.1 * ratio * 0.2, 32 - 0.1 * ratio * 0.2])


def test_groups_have_their_own_options_and_parameters_without_gradient_stay():
    first, second, idle, alone = (torch.nn.Parameter(torch.ones(3)) for _ in range(4))
    groups = [{"params": [first, idle], "lr": 0.0}, {"params": [second], "min_trust": None}, {"params": [alone]}]
    optimizer = Lamb(groups, lr=0.1)
    first.grad = second.grad = torch.ones(3)
    optimizer.step()
    assert (first == 1).all() and (idle == 1).all() and (alone == 1).all() and (second < 1).all()
    assert optimizer.param_groups[0]["min_trust"] == 0.25 and idle not in optimizer.state


def test_resumed_state_goes_on_bit_for_bit():
    straight, halted = parameters(), parameters()
    a, b = Lamb(straight, 0.01), Lamb(halted, 0.01)
    for step in range(5):
        for p, g in zip(straight, gradients(step), strict=True):
            p.grad = g
        a.step()
    for step in range(5):
        if step == 2:
            c = Lamb(halted, 0.5)  # the stored lr replaces this one
            c.load_state_dict(b.state_dict())
            b = c
        for p, g in zip(halted, gradients(step), strict=True):
            p.grad = g
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(straight, halted, strict=True))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -1}, "lr must be finite and at least 0, got -1"),
        ({"lr": math.nan}, "lr must be finite and at least 0, got nan"),
        ({"betas": (0.9, 1.0)}, "betas must be"),
        ({"eps": 0}, "eps must be finite and above 0, got 0"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0, got -0.1"),
        ({"min_trust": -0.1}, "min_trust must be finite and at least 0, got -0.1"),
        ({"lr": math.inf, "min_trust": math.nan}, "lr must be .* got inf; min_trust must be .* got nan"),
        ({"betas": "\n"}, r"got '\\n'"),
        ({"betas": 0.9}, "betas must be two numbers of at least 0 and below 1, got 0.9"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Lamb(parameters(), **options)


def test_schedules():
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1
    assert [constant_then_half(step, 37, 0) for step in (0, 31, 32, 36)] == [1, 1, 0.5, 0.5]
    assert cosine(0, 100, 0) == 1 and cosine(50, 100, 0) == pytest.approx(0.5) and cosine(100, 100, 0) == 0
    assert cosine(4, 104, 5) == 1 and cosine(55, 105, 5) == pytest.approx(0.5)
    assert [linear(step, 10, 0) for step in (0, 5, 10)] == [1, 0.5, 0]


def test_adamw_decays_matrices_only():
    """Without a gradient nothing but the decay moves a weight; with one, the first step is lr long in each of them."""
    matrix, vector = (torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (7,)))
    before = matrix.detach().clone(), vector.detach().clone()
    optimizer = adamw([matrix, vector], lr=0.25, weight_decay=0.1)
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(matrix, 0.975 * before[0]) and torch.equal(vector, before[1])
    optimizer = adamw([matrix, vector], lr=0.25, weight_decay=0.0)
    before = vector.detach().clone()
    matrix.grad, vector.grad = None, torch.tensor([3.0, -2.0, 1.0, -1.0, 5.0, -0.5, 7.0])
    optimizer.step()
    assert torch.allclose(vector, before - 0.25 * vector.grad.sign(), atol=1e-6)
