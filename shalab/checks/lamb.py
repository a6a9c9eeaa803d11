"""Exercises of notebook 05."""

import math

import torch
from torch import Tensor

from shalab.checks import exercise


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


@exercise(
    mistakes={
        "rounded": (3.16, "Right, but rounded. Write the expression, so that Python computes all its digits."),
        "no root": (100.0, "The update divides by the square root of v, and v starts at 0.001 g²."),
        "the corrected step": (1.0, "That is Adam's first step: the correction makes m = g and v = g²."),
        "only m": (0.1, "m is 0.1 g, but v is too small as well: 0.001 g² instead of g²."),
        "upside down": (0.001**0.5 / 0.1, "Divide the uncorrected step by the corrected one, not the other way round."),
    }
)
def first_step() -> float:
    """How many times longer the first step is without bias correction; b1 = 0.9, b2 = 0.999, eps = 0"""
    return 0.1 / 0.001**0.5


def _ratio(w, u, limit=10.0, at_zero=1.0, upside_down=False):
    w_norm, u_norm = w.norm().clamp(max=limit), u.norm()
    if w_norm == 0 or u_norm == 0:
        return torch.tensor(at_zero) if at_zero is not None else w_norm / u_norm
    return u_norm / w_norm if upside_down else w_norm / u_norm


def _ratio_with(**change):
    return lambda w, u: _ratio(w, u, **change)


def _tensors(generator):
    yield 0.1 * _random(generator, 3, 5), _random(generator, 3, 5)
    yield 20 * _random(generator, 7), _random(generator, 7)
    yield torch.zeros(2, 3), _random(generator, 2, 3)
    yield _random(generator, 2, 3), torch.zeros(2, 3)


@exercise(
    _tensors,
    mistakes={
        "upside down": (
            _ratio_with(upside_down=True),
            "A small tensor takes small steps: divide |w| by |u|, not |u| by |w|.",
        ),
        "norm not limited": (_ratio_with(limit=math.inf), "|w| counts as at most 10: torch.clamp(..., max=10)."),
        "nothing for zeros": (
            _ratio_with(at_zero=None),
            "Where |w| or |u| is 0 the quotient says nothing: there the ratio is 1.",
        ),
        "zero for zeros": (
            _ratio_with(at_zero=0.0),
            "A tensor that starts at zero would stay zero forever. Where either norm is 0, the ratio is 1.",
        ),
    },
)
def trust_ratio(w: Tensor, u: Tensor) -> Tensor:
    """w and u of the same shape -> (), min(|w|, 10) / |u|, and 1 where either norm is 0"""
    return _ratio(w, u)


def _steps(start, end, lr):
    return math.ceil(math.log(end / start) / math.log(1 + lr))


def _growths(generator):
    return (0.1, 10.0, 0.01), (0.5, 4.0, 0.002), (1.0, 2.0, 0.1)


@exercise(
    _growths,
    mistakes={
        "steps of one length": (
            lambda start, end, lr: math.ceil((end - start) / (lr * start)),
            "The step grows with the tensor: it is lr times the norm that the tensor has by then.",
        ),
        "steps of the last length": (
            lambda start, end, lr: math.ceil((end - start) / (lr * end)),
            "Only the last step is that long. Each is lr times the norm that the tensor has by then.",
        ),
        "rounded down": (
            lambda start, end, lr: math.floor(math.log(end / start) / math.log(1 + lr)),
            "After that many steps the tensor is not there yet: round up.",
        ),
    },
)
def steps_to_grow(start: float, end: float, lr: float) -> int:
    """The fewest updates of ordinary LAMB in which a norm can grow from `start` to `end`, at most 10"""
    return _steps(start, end, lr)


def _update(w, m, v, g, step, lr, min_trust, floor=max, correct=False, decay_in_update=True, root=True):
    """Min-trust LAMB with one thing done differently."""
    b1, b2, eps, weight_decay = 0.9, 0.999, 1e-6, 0.01
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m_hat, v_hat = (m / (1 - b1**step), v / (1 - b2**step)) if correct else (m, v)
    u = m_hat / ((v_hat.sqrt() if root else v_hat) + eps)
    if decay_in_update:
        u = u + weight_decay * w
    r = floor(_ratio(w, u).item(), min_trust)
    return w - lr * r * u, m, v


def _with(**change):
    return lambda *arguments: _update(*arguments, **change)


def _moving(generator):
    """Tensors whose ratio lies under the floor and above it, at the first step and at a later one."""
    for size, step in ((0.01, 1), (5.0, 3)):
        w, m, g = size * _random(generator, 3, 5), 0.1 * _random(generator, 3, 5), _random(generator, 3, 5)
        yield w, (m if step > 1 else 0 * m), (m**2 if step > 1 else 0 * m), g, step, 0.02, 0.25


@exercise(
    _moving,
    mistakes={
        "a ceiling for a floor": (
            _with(floor=min),
            "The ratio is at least min_trust: max, although it sounds like min.",
        ),
        "no floor": (_with(floor=lambda r, _: r), "That is ordinary LAMB. The ratio is at least min_trust."),
        "bias correction": (_with(correct=True), "Adam divides by 1 - b1^t and 1 - b2^t; this optimizer does not."),
        "no weight decay": (
            _with(decay_in_update=False),
            "Add weight_decay * w to u, before you take the norm of u.",
        ),
        "no root": (_with(root=False), "u divides m by sqrt(v) + eps."),
    },
)
def min_trust_step(w, m, v, g, step, lr, min_trust) -> tuple[Tensor, Tensor, Tensor]:
    """One update of one tensor; b1 = 0.9, b2 = 0.999, eps = 1e-6, weight_decay = 0.01 -> the next w, m, v"""
    return _update(w, m, v, g, step, lr, min_trust)
