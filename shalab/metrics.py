"""Units: a model is charged in nats, a file is measured in bits per byte."""

import math

NATS_PER_BIT = math.log(2)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Total nats over a text of `n_bytes` bytes -> bits per byte ("bpc").

    Sum first, divide once: the mean of per-window means is wrong as soon as windows differ in length.
    """
    return nats / n_bytes / NATS_PER_BIT


def perplexity(nats: float, n_tokens: int) -> float:
    """Total nats over `n_tokens` tokens -> perplexity per token, which depends on what a token is; inf above 1e308."""
    try:
        return math.exp(nats / n_tokens)
    except OverflowError:
        return math.inf
