"""Exercises of notebook 00."""

import bz2

import numpy as np
import torch

from shalab.checks import exercise

# N bytes


def _probabilities(generator):
    for n in (5, 11):
        yield (torch.rand(n, generator=generator).double().numpy() * 0.98 + 0.01,)


@exercise(
    _probabilities,
    mistakes={
        "nats for bits": (lambda p: -np.log(p).mean(), "That is in nats. A bit is a logarithm to base 2: np.log2."),
        "minus forgotten": (lambda p: np.log2(p).mean(), "A price is never negative: -log2(p)."),
        "sum for mean": (
            lambda p: -np.log2(p).sum(),
            "That is the price of the whole text in bits. Divide by the number of its bytes.",
        ),
        "log of the mean": (
            lambda p: -np.log2(p.mean()),
            "Every byte is charged by itself: first the logarithms, then their mean.",
        ),
    },
)
def bits_per_byte(p: np.ndarray) -> float:
    """p (N,), the probability that each byte of a text was given before it came -> bits per byte"""
    return -np.log2(p).mean()


def _once(counts, pairs, n):
    counts[pairs] += n


def _bigram(train, text, added=1.0, axis=1, before=slice(None, -1), after=slice(1, None), count=np.add.at):
    counts = np.full((256, 256), added)
    count(counts, (train[:-1], train[1:]), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = counts / counts.sum(axis, keepdims=True)
        return -np.log2(p[text[before], text[after]]).mean()


def _bigram_with(**change):
    return lambda train, text: _bigram(train, text, **change)


def _letters(generator):
    for n_train, n_text in ((401, 53), (307, 71)):
        bytes_ = torch.randint(97, 102, (n_train + n_text,), generator=generator).numpy().astype(np.uint8)
        bytes_ = np.minimum(bytes_, np.roll(bytes_, 1))  # so that a byte says something about the next
        bytes_[n_train:][:2] = (120, 121)  # a pair that training has not seen
        yield bytes_[:n_train], bytes_[n_train:]


@exercise(
    _letters,
    mistakes={
        "nothing added": (
            _bigram_with(added=0.0),
            "A pair that training has not seen gets probability 0 and costs infinitely much: start every count at 1.",
        ),
        "each pair counted once": (
            _bigram_with(count=_once),
            "`table[first, second] += 1` counts a pair once, however often it occurs: use np.add.at.",
        ),
        "divided along the wrong axis": (
            _bigram_with(axis=0),
            "What follows a given byte must have probabilities that sum to 1: divide each row by its own sum.",
        ),
        "pairs the wrong way round": (
            _bigram_with(before=slice(1, None), after=slice(None, -1)),
            "The row of the table is the byte before, the column is the byte after.",
        ),
    },
)
def bigram(train: np.ndarray, text: np.ndarray) -> float:
    """Bits per byte of text[1:] when each byte is predicted from the one before it, counted in `train`, (N,) uint8."""
    return _bigram(train, text)


READ = 840_000  # bytes of the prefix, so that a text of up to 50,000 fits into the same block of bzip2


def _size(data: bytes) -> int:
    return len(bz2.compress(data))


def _phrases(generator):
    for n_prefix, n_text in ((700, 300), (250_000, 500)):  # the second prefix is longer than a block
        draws = torch.randint(7, (n_prefix + n_text,), generator=generator).tolist()
        words = [("the ", "town ", "of ", "is ", "a ", "[[link]] ", "\n")[draw] for draw in draws]
        yield "".join(words[:n_prefix]).encode(), "".join(words[n_prefix:]).encode()


def _longer(prefix, text):
    return _size(prefix[-READ:] + text) - _size(prefix[-READ:])


@exercise(
    _phrases,
    mistakes={
        "the text by itself": (
            lambda prefix, text: 8 * _size(text) / len(text),
            "The compressor starts from nothing here. It should have read the prefix first, as our models have.",
        ),
        "the whole prefix": (
            lambda prefix, text: 8 * (_size(prefix + text) - _size(prefix)) / len(text),
            "A long prefix fills a block of bzip2, and the next block starts from nothing: use prefix[-840_000:].",
        ),
        "the prefix charged as well": (
            lambda prefix, text: 8 * _size(prefix[-READ:] + text) / len(text),
            "Subtract the size of the compressed prefix alone.",
        ),
        "divided by everything": (
            lambda prefix, text: 8 * _longer(prefix, text) / len(prefix[-READ:] + text),
            "Only the text is charged, so divide by the bytes of the text.",
        ),
        "bytes for bits": (
            lambda prefix, text: _longer(prefix, text) / len(text),
            "Sizes are in bytes, and a byte has 8 bits.",
        ),
    },
)
def given(prefix: bytes, text: bytes) -> float:
    """Bits per byte of `text` under bz2, for a reader who has the prefix's last 840,000 bytes already."""
    return 8 * _longer(prefix, text) / len(text)
