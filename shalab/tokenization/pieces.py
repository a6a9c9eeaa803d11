"""Pieces of a text: cut shorter, charged together, and summed over all the ways to cut a text into them."""

from collections.abc import Callable

import numpy as np

from shalab.errors import InputError

# N bytes, M pieces


def grouped(nats: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) charges of bytes -> (M,) charges of pieces, where piece i covers `lengths[i]` bytes, by the chain rule."""
    if len(lengths) == 0 or min(lengths) < 1 or sum(lengths) != len(nats):
        raise InputError(f"expected lengths of at least 1 that sum to {len(nats)}, got {sum(lengths)}")
    return np.add.reduceat(nats, np.cumsum(lengths) - lengths)


def chop(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Cuts every piece into parts of `longest` bytes and a rest. The rule is fixed, so it costs nothing to tell."""
    if longest < 1:
        raise InputError(f"longest must be at least 1, got {longest}")
    return np.array([min(longest, n - done) for n in lengths for done in range(0, n, longest)], np.int64)


def by_place(values: np.ndarray, counts: np.ndarray, n_places: int) -> np.ndarray:
    """(n_places,) the mean of all groups' first values, of their second values, and so on.

    values (N,) holds group after group, `counts` (M,) how many values each has. The last place takes all that follow.
    """
    places = np.concatenate([np.arange(count) for count in counts]).clip(max=n_places - 1)
    return np.array([values[places == place].mean() for place in range(n_places)])


def marginal_nats(text: bytes, prices: dict[bytes, float]) -> float:
    """-ln of the probability of a text, summed over all ways to cut it into pieces that are drawn independently.

    prices: piece -> -ln p. Dynamic programming: alpha_e = sum over pieces text[b:e] of alpha_b p(text[b:e]).
    """
    return _forward(text, prices, np.logaddexp.reduce)


def best_nats(text: bytes, prices: dict[bytes, float]) -> float:
    """The same for the most probable way alone (Viterbi)."""
    return _forward(text, prices, np.max)


def _forward(text: bytes, prices: dict[bytes, float], combine: Callable) -> float:
    longest = max(map(len, prices))
    log_alpha = [0.0]  # log_alpha[end] is that of text[:end]
    for end in range(1, len(text) + 1):
        ways = [
            log_alpha[begin] - prices[text[begin:end]]
            for begin in range(max(0, end - longest), end)
            if text[begin:end] in prices
        ]
        log_alpha.append(combine(ways) if ways else -np.inf)
    if log_alpha[-1] == -np.inf:
        raise InputError(f"no pieces spell this text of {len(text)} bytes: give all 256 bytes a price")
    return -float(log_alpha[-1])
