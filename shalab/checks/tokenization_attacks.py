"""Exercises of notebook 01."""

import math

import numpy as np

from shalab import metrics
from shalab.checks import exercise
from shalab.tokenization import best_nats, marginal_nats


def _charged(generator):
    for text, n in (("Zoë's café", 3), ("日本 (Nippon)", 5), ("plain", 2)):
        yield np.array([0.5, 2.25, 1.0, 3.5, 0.125])[:n], text.encode()


@exercise(
    _charged,
    mistakes={
        "nats for bits": (
            lambda nats, text: nats.sum() / len(text),
            "The charges are in nats, -ln p. One bit is ln 2 nats: divide by NATS_PER_BIT.",
        ),
        "per token": (
            lambda nats, text: nats.mean() / metrics.NATS_PER_BIT,
            "That is bits per token. Divide the sum by the bytes of the text, len(text).",
        ),
        "characters for bytes": (
            lambda nats, text: metrics.bits_per_byte(nats.sum(), len(text.decode())),
            "A character outside ASCII takes two to four bytes. `text` is bytes already: len(text), not decoded.",
        ),
        "times ln 2": (
            lambda nats, text: nats.sum() * metrics.NATS_PER_BIT / len(text),
            "A bit is less than a nat, so there are more bits than nats: divide by ln 2.",
        ),
    },
)
def bits_per_byte(nats: np.ndarray, text: bytes) -> float:
    """nats (N,) of the tokens, text in bytes -> bits per byte"""
    return metrics.bits_per_byte(nats.sum(), len(text))


@exercise(
    lambda generator: [(4.0, 700, 150), (96.5, 5901, 4072), (3.0, 11, 13)],
    mistakes={
        "the same": (
            lambda ppl, n_tokens, n_words: ppl,
            "The sum of the nats stays the same, but it is now divided by n_words words, not by n_tokens tokens.",
        ),
        "times the number of tokens in a word": (
            lambda ppl, n_tokens, n_words: ppl * n_tokens / n_words,
            "Nats add up, but perplexities multiply: one factor for each token of the word.",
        ),
        "upside down": (
            lambda ppl, n_tokens, n_words: ppl ** (n_words / n_tokens),
            "The exponent is upside down. There are n_tokens / n_words tokens in a word.",
        ),
        "nats, not perplexity": (
            lambda ppl, n_tokens, n_words: math.log(ppl) * n_tokens / n_words,
            "Those are the nats of a word. Take the exponential.",
        ),
    },
)
def word_perplexity(ppl: float, n_tokens: int, n_words: int) -> float:
    """Perplexity per token -> per word of the same text"""
    return ppl ** (n_tokens / n_words)


def _greedy(text, prices):
    nats, begin = 0.0, 0
    while begin < len(text):
        end = next(end for end in range(len(text), begin, -1) if text[begin:end] in prices)
        nats, begin = nats + prices[text[begin:end]], end
    return nats


def _spellings(generator):
    prices = {b"a": 1.5, b"b": 1.25, b"ab": 2.0, b"ba": 1.75, b"aba": 2.5, b"bb": 3.0}
    for text in (b"a", b"ab", b"abab", b"abbaba", b"aabababb"):
        yield text, prices


@exercise(
    _spellings,
    mistakes={
        "the best segmentation alone": (
            best_nats,
            "You kept only the cheapest way to reach each place. Add up the probabilities of all of them.",
        ),
        "the longest piece first": (_greedy, "That is one segmentation, and a greedy one. Add up all of them."),
        "a probability": (
            lambda text, prices: math.exp(-marginal_nats(text, prices)),
            "That is the probability itself. The answer is in nats: minus its logarithm.",
        ),
        "sign": (lambda text, prices: -marginal_nats(text, prices), "A price is -ln p: it is positive."),
    },
)
def all_segmentations(text: bytes, prices: dict[bytes, float]) -> float:
    """-ln of the summed probability of all segmentations; prices: piece -> -ln p"""
    return marginal_nats(text, prices)
