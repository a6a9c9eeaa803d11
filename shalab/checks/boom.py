"""Exercises of notebook 04."""

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu

from shalab import boom
from shalab.checks import exercise

# D width, H Boom width, C = H / D chunks


def _wide(generator):
    for n_streams, d_model, chunks in ((2, 3, 5), (3, 5, 2)):
        yield torch.randn(n_streams, d_model * chunks, generator=generator), d_model


@exercise(
    _wide,
    mistakes={
        "neighbours summed": (
            lambda x, d_model: x.unflatten(-1, (d_model, -1)).sum(-1),
            "A chunk is D numbers that stand side by side. Number i of the result is i + (D + i) + (2 D + i) + ...",
        ),
        "sums of chunks": (
            lambda x, d_model: x.unflatten(-1, (-1, d_model)).sum(-1),
            "That is one number per chunk. Sum over the chunks, not inside them: D numbers remain.",
        ),
        "mean": (
            lambda x, d_model: x.unflatten(-1, (-1, d_model)).mean(-2),
            "Boom adds the chunks up and does not divide.",
        ),
    },
)
def fold(x: Tensor, d_model: int) -> Tensor:
    """x (B, H) -> (B, D), the sum of the chunks of width D"""
    return boom.fold(x, d_model)


@exercise(
    lambda generator: ((3, 15), (64, 256), (1024, 4096)),
    mistakes={
        "no biases": (
            lambda d_model, d_boom: (d_model * d_boom, 2 * d_model * d_boom),
            "Every matrix has a bias: H numbers after widening, D after the way back.",
        ),
        "a matrix for the fold": (
            lambda d_model, d_boom: (2 * d_model * d_boom + d_boom + d_model,) * 2,
            "The fold is a sum of chunks; nothing in it is learned.",
        ),
        "one bias too many": (
            lambda d_model, d_boom: (d_model * d_boom + d_boom + d_model, 2 * d_model * d_boom + d_boom + d_model),
            "Boom's only bias has H numbers: there is none after the fold.",
        ),
    },
)
def count_parameters(d_model: int, d_boom: int) -> tuple[int, int]:
    """Parameters of Boom, and of a feed-forward layer as wide"""
    return d_model * d_boom + d_boom, 2 * d_model * d_boom + d_boom + d_model


@exercise(
    lambda generator: ((3, 15), (5, 10)),
    mistakes={
        "transposed": (
            lambda d_model, d_boom: torch.eye(d_model).repeat(d_boom // d_model, 1),
            "S maps H numbers to D, so it has D rows and H columns.",
        ),
        "neighbours summed": (
            lambda d_model, d_boom: torch.eye(d_model).repeat_interleave(d_boom // d_model, 1),
            "Row i has its ones in the columns i, D + i, 2 D + i, ...: identity matrices side by side.",
        ),
        "mean": (
            lambda d_model, d_boom: torch.eye(d_model).repeat(1, d_boom // d_model) * d_model / d_boom,
            "Boom adds the chunks up and does not divide: the entries are 0 and 1.",
        ),
        "all ones": (
            lambda d_model, d_boom: torch.ones(d_model, d_boom),
            "That adds up everything for each output. Number i takes only number i of each chunk.",
        ),
    },
)
def fold_matrix(d_model: int, d_boom: int) -> Tensor:
    """S, (D, H), such that fold(x) = S x"""
    return torch.eye(d_model).repeat(1, d_boom // d_model)


def _lowest(activation, chunks):
    return chunks * activation(torch.linspace(-3, 3, 60_001, dtype=torch.double)).min().item()


@exercise(
    lambda generator: ((1,), (4,), (7,)),
    mistakes={
        "no limit": (
            lambda chunks: -math.inf,
            "Each of the C numbers that are added up has passed through gelu, which has a lowest value.",
        ),
        "zero": (
            lambda chunks: 0.0,
            "That is ReLU's. gelu dips below zero before it comes back: look for its minimum.",
        ),
        "one chunk": (
            lambda chunks: _lowest(boom.gelu, 1),
            "That is the lowest value of one gelu; an output is the sum of one number from every chunk.",
        ),
        "another gelu": (
            lambda chunks: _lowest(exact_gelu, chunks),
            "That is the exact GELU. This model uses u * sigmoid(1.702 u); shalab.boom.gelu computes it.",
        ),
    },
)
def lowest_output(chunks: int) -> float:
    """The lowest value that an output of Boom can have, whatever its weights are"""
    return _lowest(boom.gelu, chunks)
