"""Exercises of notebook 06."""

import math

import torch

from shalab.checks import exercise
from shalab.schedules import cosine


def _windows(generator):
    for n in (3, 7):
        n_bytes = torch.randint(5, 100, (n,), generator=generator).tolist()
        yield [value.item() for value in torch.rand(n, generator=generator) + 1], n_bytes


def _in_nats(loss_nats, n_bytes):
    return sum(loss * n for loss, n in zip(loss_nats, n_bytes, strict=True)) / sum(n_bytes)


@exercise(
    _windows,
    mistakes={
        "mean of means": (
            lambda loss_nats, n_bytes: sum(loss_nats) / len(loss_nats) / math.log(2),
            "A window of 5 bytes would count as much as one of 1,024. Add up nats, add up bytes, divide once.",
        ),
        "nats for bits": (_in_nats, "That is in nats. A bit is ln 2 nats."),
        "sum of means": (
            lambda loss_nats, n_bytes: sum(loss_nats) / sum(n_bytes) / math.log(2),
            "The losses are means: each has to be multiplied by its window's bytes before they are added.",
        ),
    },
)
def split_bpc(loss_nats: list[float], n_bytes: list[int]) -> float:
    """Mean nats per byte of each window and the windows' sizes -> bits per byte of the whole split"""
    return _in_nats(loss_nats, n_bytes) / math.log(2)


def _steps(generator):
    for total, warm in ((100, 10), (53, 7)):
        for step in (0, 1, warm - 1, warm, total // 2, total - 1):
            yield step, total, warm, 1e-2


def _cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


def _unwarmed(step, total_steps, warmup_steps, peak):
    return peak * _cosine(max(0, step - warmup_steps) / (total_steps - warmup_steps))


def _late(step, total_steps, warmup_steps, peak):
    return _unwarmed(step, total_steps, warmup_steps, peak) * min(1, step / warmup_steps)


def _from_the_start(step, total_steps, warmup_steps, peak):
    return peak * min(1, (step + 1) / warmup_steps) * _cosine(step / total_steps)


@exercise(
    _steps,
    mistakes={
        "no warm-up": (_unwarmed, "The first warmup_steps steps rise linearly to the peak."),
        "a first step that does nothing": (
            _late,
            "Step 0 already moves: its rate is peak / warmup_steps. Step warmup_steps - 1 is the first at the peak.",
        ),
        "a fall that begins with the warm-up": (
            _from_the_start,
            "The cosine begins where the warm-up ends: progress is 0 at step warmup_steps and 1 at total_steps.",
        ),
    },
)
def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine to zero; steps count from 0"""
    return peak * cosine(step, total_steps, warmup_steps)


def _runs(generator):
    yield 900_000, 16, 64, 1
    yield 90_000_000, 16, 1024, 3
    yield 1_009, 7, 13, 2


@exercise(
    _runs,
    mistakes={
        "one stream": (
            lambda n_bytes, batch_size, bptt, n_epochs: n_epochs * math.ceil((n_bytes - 1) / bptt),
            "batch_size streams are read side by side: an update takes a window from each of them.",
        ),
        "a last window dropped": (
            lambda n_bytes, batch_size, bptt, n_epochs: n_epochs * ((n_bytes // batch_size - 1) // bptt),
            "What is left at the end of the streams is shorter than bptt, but it is read too: round up.",
        ),
        "epochs run together": (
            lambda n_bytes, batch_size, bptt, n_epochs: math.ceil(n_epochs * (n_bytes // batch_size - 1) / bptt),
            "Each epoch ends with a short window of its own: round up first, then multiply.",
        ),
    },
)
def n_updates(n_bytes: int, batch_size: int, bptt: int, n_epochs: int) -> int:
    """Updates in n_epochs passes over n_bytes bytes, in windows of exactly bptt bytes per stream.

    A stream of n bytes has n - 1 positions: its last byte is only ever predicted.
    """
    return n_epochs * math.ceil((n_bytes // batch_size - 1) / bptt)
