"""Exercises of notebook 09."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from shalab.checks import exercise


def _min_gru(z, candidate, before, step: Callable = lambda z, h, new: (1 - z) * h + z * new):
    hs, h = [], before
    for z_t, new in zip(z, candidate, strict=True):
        h = step(z_t, h, new)
        hs.append(h)
    return torch.stack(hs)


def _gates(generator: torch.Generator):
    """Gates and candidates of some steps, and what was remembered before them."""
    for n_steps, width in ((5, 3), (7, 2)):
        z = torch.rand(n_steps, width, generator=generator)
        candidate, before = (torch.randn(n, width, generator=generator) for n in (n_steps, 1))
        yield z, candidate, before[0]


@exercise(
    _gates,
    mistakes={
        "the gate the other way round": (
            lambda z, candidate, before: _min_gru(1 - z, candidate, before),
            "z is the share of what is new: where z is 1, nothing is left of the step before.",
        ),
        "what came before is forgotten": (
            lambda z, candidate, before: _min_gru(z, candidate, torch.zeros_like(before)),
            "The first step needs `before`: without it every window begins as if nothing preceded it.",
        ),
        "every step starts from before": (
            lambda z, candidate, before: (1 - z) * before + z * candidate,
            "Each step goes on from the one right before it, and only the first one from `before`.",
        ),
        "nothing is taken away": (
            lambda z, candidate, before: _min_gru(z, candidate, before, lambda z, h, new: h + z * new),
            "What is new takes the place of what was there: multiply the old h by 1 - z.",
        ),
    },
)
def min_gru(z, candidate, before):
    """z, candidate (T, D), before (D,) -> h of every step (T, D)"""
    return _min_gru(z, candidate, before)


def _softened(student, teacher, t, soften=True, turned=False, factor: Callable = lambda t: t**2, mean=False):
    log_p = F.log_softmax(teacher / t, -1)
    log_q = F.log_softmax(student / (t if soften else 1), -1)
    if turned:
        log_p, log_q = log_q, log_p
    apart = log_p.exp() * (log_p - log_q)
    return factor(t) * (apart.mean() if mean else apart.sum(-1).mean())


def _logits(generator: torch.Generator):
    for n_bytes, n_symbols, t in ((3, 5, 2.0), (4, 6, 3.0)):
        student, teacher = 3 * torch.randn(2, n_bytes, n_symbols, generator=generator)
        yield student, teacher, t


@exercise(
    _logits,
    mistakes={
        "the student's logits were not softened": (
            lambda student, teacher, t: _softened(student, teacher, t, soften=False),
            "Both are divided by t, or a student that agrees with its teacher would still be charged.",
        ),
        "the wrong way round": (
            lambda student, teacher, t: _softened(student, teacher, t, turned=True),
            "Weigh by what the teacher thinks likely: the sum is over p log(p / q), and p is the teacher's.",
        ),
        "without t squared": (
            lambda student, teacher, t: _softened(student, teacher, t, factor=lambda t: 1.0),
            "Softened logits give gradients that shrink like 1 / t squared: multiply by t squared.",
        ),
        "once t": (
            lambda student, teacher, t: _softened(student, teacher, t, factor=lambda t: t),
            "The factor is t squared: one t from the division, one because softened predictions differ less.",
        ),
        "mean over symbols": (
            lambda student, teacher, t: _softened(student, teacher, t, mean=True),
            "Sum over the symbols; the mean is over the bytes of the text.",
        ),
    },
)
def softened(student, teacher, t):
    """logits of student and teacher (N, V), temperature t -> t^2 times the mean KL(teacher || student), in nats"""
    return _softened(student, teacher, t)


def _from_lengths(lengths, predict, cost: Callable = lambda p: -p.log2(), seen: Callable = lambda ids: ids):
    ids: list[int] = []
    for length in lengths:
        ids.append(int((cost(predict(seen(ids))) - length).abs().argmin()))
    return torch.tensor(ids)


def _priced(generator: torch.Generator):
    """Code lengths of a text by a model of five symbols that looks at the last one and at how many there were."""
    for n in (4, 9):
        table = torch.rand(n, 5, 5, generator=generator, dtype=torch.double) + 0.05

        def predict(ids, table=table):
            p = table[len(ids), ids[-1] if ids else 0]
            return p / p.sum()

        ids: list[int] = []
        lengths = []
        for symbol in torch.randint(5, (n,), generator=generator).tolist():
            lengths.append(-predict(ids)[symbol].log2())
            ids.append(symbol)
        yield torch.stack(lengths), predict


@exercise(
    _priced,
    mistakes={
        "the likeliest each time": (
            lambda lengths, predict: _from_lengths(0 * lengths, predict),
            "That is what the model would have written. Take the symbol whose price is the length that you were given.",
        ),
        "nats for bits": (
            lambda lengths, predict: _from_lengths(lengths, predict, cost=lambda p: -p.log()),
            "The lengths are bits: use the logarithm to base 2.",
        ),
        "always from the beginning": (
            lambda lengths, predict: torch.tensor(
                [int((-predict([]).log2() - length).abs().argmin()) for length in lengths]
            ),
            "Each price was made with all symbols before it in view: hand `predict` those that you have recovered.",
        ),
    },
)
def from_lengths(lengths, predict):
    """lengths (N,), bits of each symbol; predict: list of the symbols before -> probabilities (V,) -> symbols (N,)"""
    return _from_lengths(lengths, predict)
