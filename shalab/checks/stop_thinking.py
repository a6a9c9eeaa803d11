"""Exercises of notebook 08."""

import math
from collections.abc import Callable

import torch

from shalab.checks import exercise


@exercise(
    mistakes={
        "the one that read more in the second": (
            (1, 1, 2, 2),
            "In the second both read the same bytes. Ask what the slower one was given more of.",
        ),
        "the short schedule forgotten": (
            (1, 2, 2, 1),
            "In the fourth the rate of contestant 2 has fallen to zero by then, that of contestant 1 has not: "
            "a score in the middle of a schedule is worse than one at its end.",
        ),
        "the number of trials forgotten": (
            (1, 2, 1, 2),
            "In the third only one of the two was searched for, on the very split that is reported.",
        ),
        "updates for bytes": (
            (2, 2, 2, 2),
            "In the first both make as many updates. An update of contestant 1 reads more bytes.",
        ),
    }
)
def favoured() -> tuple[int, int, int, int]:
    """Which contestant each of the four protocols favours, 1 or 2"""
    return 1, 2, 2, 2


def _paired(ours, theirs, t, n_of: Callable[[int], int] = lambda n: n - 1, root=True, t_of: Callable = lambda t: t):
    difference = ours - theirs
    spread = (((difference - difference.mean()) ** 2).sum() / n_of(len(difference))).sqrt()
    return difference.mean(), t_of(t) * spread / (math.sqrt(len(difference)) if root else 1)


def _two_spreads(ours, theirs, t):
    n = len(ours)
    return (ours - theirs).mean(), t * math.sqrt((ours.var() + theirs.var()) / n)


def _by_seed(generator: torch.Generator):
    """Scores of three and of five seeds, with the t of as many."""
    for n, t in ((3, 4.303), (5, 2.776)):
        luck = torch.randn(n, generator=generator)
        noise = torch.randn(2, n, generator=generator)
        yield 2.2 + 0.03 * luck + 0.01 * noise[0], 2.3 + 0.03 * luck + 0.01 * noise[1], t


@exercise(
    _by_seed,
    mistakes={
        "two spreads instead of one": (
            _two_spreads,
            "Take the differences first, seed by seed, and then their spread: what a seed does to both drops out.",
        ),
        "theirs minus ours": (
            lambda ours, theirs, t: _paired(theirs, ours, t),
            "The other way round: ours minus theirs, so that below zero means fewer bits for ours.",
        ),
        "divided by n": (
            lambda ours, theirs, t: _paired(ours, theirs, t, n_of=lambda n: n),
            "The mean was computed from the same differences: divide the sum of squares by n - 1.",
        ),
        "spread of one seed": (
            lambda ours, theirs, t: _paired(ours, theirs, t, root=False),
            "That is how far one seed strays. The mean of n strays less: divide by the root of n.",
        ),
        "1.96 for t": (
            lambda ours, theirs, t: _paired(ours, theirs, t, t_of=lambda t: 1.96),
            "1.96 is for very many seeds. With few, the spread itself is uncertain: use the t that is given.",
        ),
    },
)
def paired(ours, theirs, t) -> tuple:
    """Bits per byte by seed, (n,) each, and t -> mean of ours minus theirs, half the width of its interval"""
    return _paired(ours, theirs, t)


def _line(x, y, at):
    x, y = x.double(), y.double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return y.mean() + slope * (at - x.mean())


def _gaps(generator: torch.Generator):
    """Gaps that shrink with the length of the run, and one length more."""
    for n in (3, 4):
        minutes = torch.cumsum(torch.rand(n, generator=generator) + 0.5, 0)
        yield minutes, 0.6 - 0.1 * minutes.log2() + 0.02 * torch.randn(n, generator=generator), 2 * minutes[-1].item()


@exercise(
    _gaps,
    mistakes={
        "a line through the minutes": (
            _line,
            "Learning slows down: each doubling brings about as much as the one before. Draw the line through the "
            "logarithm of the minutes, of `at` too.",
        ),
        "the logarithm forgotten at the end": (
            lambda minutes, gaps, at: _line(minutes.log2(), gaps, at),
            "The line is through logarithms: take the logarithm of `at`, too.",
        ),
        "the last gap": (
            lambda minutes, gaps, at: gaps[-1],
            "That would mean that nothing changes any more. Draw the line through all points.",
        ),
        "the last two points": (
            lambda minutes, gaps, at: _line(minutes[-2:].log2(), gaps[-2:], math.log2(at)),
            "All points count, by least squares; two of them alone follow their noise.",
        ),
    },
)
def gap_later(minutes, gaps, at) -> float:
    """minutes and gaps (n,), at: a number of minutes -> the gap there, on the line through (log minutes, gap)"""
    return _line(minutes.log2(), gaps, math.log2(at))
