"""Exercises of notebook 10."""

from collections.abc import Callable

import torch

from shalab.checks import exercise


def _mixture(p, w):
    product = (p ** w[:, None]).prod(0)
    return product / product.sum()


def _opinions(generator: torch.Generator):
    """Two and three predictions of a byte out of five, with weights that do not sum to 1."""
    for n in (2, 3):
        p = torch.randn(n, 5, generator=generator, dtype=torch.float64).softmax(-1)
        yield p, torch.rand(n, generator=generator, dtype=torch.float64) + 0.2


@exercise(
    _opinions,
    mistakes={
        "an average": (
            lambda p, w: (w[:, None] * p).sum(0) / w.sum(),
            "That adds the probabilities. Multiply them, each to the power of its weight: a byte that one of them "
            "rules out is then ruled out.",
        ),
        "not divided by the sum": (
            lambda p, w: (p ** w[:, None]).prod(0),
            "The products do not sum to 1. Divide by their sum over the bytes.",
        ),
        "the weights forgotten": (
            lambda p, w: _mixture(p, torch.ones_like(w)),
            "Every prediction has a weight, an exponent: p to the power of w. As a factor it would be the same for all "
            "bytes and drop out.",
        ),
    },
)
def mixture(p, w) -> torch.Tensor:
    """Predictions p (n, V) and weights w (n,) -> the mixture (V,): the product of p^w, divided by its sum"""
    return _mixture(p, w)


def _turn(p, w, byte, lr, sign=1, expected=True, of: Callable = torch.log):
    parts = of(p)
    pull = parts[:, byte] - (parts @ _mixture(p, w) if expected else 0)
    return w + sign * lr * pull


def _lessons(generator: torch.Generator):
    for byte, (p, w) in enumerate(_opinions(generator), 1):
        yield p, w, byte, 0.1


@exercise(
    _lessons,
    mistakes={
        "downhill": (
            lambda p, w, byte, lr: _turn(p, w, byte, lr, sign=-1),
            "That makes the byte that came less likely. The gradient is of ln p(byte): step along it, not against it.",
        ),
        "no expectation": (
            lambda p, w, byte, lr: _turn(p, w, byte, lr, expected=False),
            "The derivative of ln(sum) is missing: subtract what ln p_i is on average over the bytes, by the mixture.",
        ),
        "expected by the predictions themselves": (
            lambda p, w, byte, lr: w + lr * (p.log()[:, byte] - (p * p.log()).sum(1)),
            "The average of ln p_i is taken with the probabilities of the mixture, the same for all i.",
        ),
        "probabilities for logarithms": (
            lambda p, w, byte, lr: _turn(p, w, byte, lr, of=lambda p: p),
            "w_i multiplies ln p_i, so its derivative has logarithms, not probabilities.",
        ),
    },
)
def turn(p, w, byte, lr) -> torch.Tensor:
    """Predictions p (n, V), weights w (n,), the byte that came, a rate -> the weights after one step, (n,)"""
    return _turn(p, w, byte, lr)


def _bills(generator: torch.Generator):
    yield 3_700_000.0, 2.0, 2.5
    yield 1_000_000.0, 1.25, 2.0


@exercise(
    _bills,
    mistakes={
        "bytes for bits": (
            lambda model_bytes, ours, theirs: model_bytes / (theirs - ours),
            "The model's size is in bytes, what each byte of the text saves is in bits: a byte has eight.",
        ),
        "all of our price": (
            lambda model_bytes, ours, theirs: 8 * model_bytes / ours,
            "The model is not paid by what the text costs with it, but by what it saves: theirs minus ours.",
        ),
        "all of their price": (
            lambda model_bytes, ours, theirs: 8 * model_bytes / theirs,
            "With the model the text still costs something. Only the difference between the two prices pays for it.",
        ),
        "the other way round": (
            lambda model_bytes, ours, theirs: 8 * model_bytes / (ours - theirs),
            "A saving is theirs minus ours.",
        ),
    },
)
def break_even(model_bytes, ours, theirs) -> float:
    """A model's size in bytes, its bits per byte, a compressor's -> bytes of text at which both cost the same"""
    return 8 * model_bytes / (theirs - ours)
