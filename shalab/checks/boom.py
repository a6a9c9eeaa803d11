"""Exercises of notebook 04."""

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu as exact_gelu

from shalab import boom
from shalab.checks import _array, difference, exercise

# D width, H Boom width, C = H / D chunks


def _wide(generator):
    for n_streams, d_model, chunks in ((2, 3, 5), (3, 5, 2)):
        yield torch.randn(n_streams, d_model * chunks, generator=generator), d_model


@exercise(
    _wide,
    mistakes={
        "neighbours summed": (
            lambda x, d_model: x.unflatten(-1, (d_model, -1)).sum(-1),
            "A chunk is D neighbours. Number i of the result adds the numbers in places i, D + i, 2 D + i, ...",
        ),
        "sums of chunks": (
            lambda x, d_model: x.unflatten(-1, (-1, d_model)).sum(-1),
            "That is one number per chunk. Add chunk to chunk, not the numbers inside a chunk: D numbers remain.",
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


def _layers(generator):
    """Feed-forward layers without a negative number in their second matrix."""
    for d_model, d_inner in ((2, 3), (3, 5)):
        w1, b1 = (torch.randn(shape, generator=generator) for shape in ((d_inner, d_model), (d_inner,)))
        yield w1, b1, torch.rand(d_model, d_inner, generator=generator)


def _does_not_imitate(results):
    """Compares outputs, not weights: a Boom layer stays the same whatever the order of its chunks."""
    generator = torch.Generator().manual_seed(0)
    for result, (w1, b1, w2) in zip(results, list(_layers(generator)), strict=True):
        d_model, rows = len(w2), w2.numel()
        if not isinstance(result, tuple | list) or len(result) != 2:
            return "expected two parts, weight and bias"
        try:
            weight, bias = (torch.tensor(_array(part)).float() for part in result)
        except (TypeError, ValueError):
            return "expected numbers"
        if weight.shape != (rows, d_model) or bias.shape != (rows,):
            shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            return f"expected shapes {(rows, d_model)} and {(rows,)}, got {shapes}"
        x = torch.randn(100, d_model, generator=generator)
        imitated = boom.fold(torch.relu(x @ weight.T + bias), d_model)
        if fault := difference(imitated, torch.relu(x @ w1.T + b1) @ w2.T):
            return f"the two layers differ: {fault}"
    return None


def _imitation(w1, b1, w2, of_weight=True, of_bias=True, by_output=False):
    """Row i of chunk j is row j of w1 times w2[i, j], with one thing done differently."""
    factors = w2.T[:, :, None]  # (H, D, 1): chunk, output
    weight = factors * w1[:, None, :] if of_weight else w1[:, None, :].expand(-1, len(w2), -1)  # (H, D, D)
    bias = w2.T * b1[:, None] if of_bias else b1[:, None].expand(-1, len(w2))  # (H, D)
    if by_output:
        weight, bias = weight.transpose(0, 1), bias.T  # (D, H, ...)
    return weight.flatten(0, 1), bias.flatten()


@exercise(
    _layers,
    mistakes={
        "no second matrix": (
            lambda w1, b1, w2: _imitation(w1, b1, w2, of_weight=False, of_bias=False),
            "The copies are right. Each still has to be multiplied by its number in w2, inside the ReLU.",
        ),
        "bias not multiplied": (
            lambda w1, b1, w2: _imitation(w1, b1, w2, of_bias=False),
            "a relu(u) = relu(a u), and u has two parts: w1 x and b1. Both are multiplied by a.",
        ),
        "by outputs": (
            lambda w1, b1, w2: _imitation(w1, b1, w2, by_output=True),
            "The rows are right, their order is not: the fold adds every D-th row, so D neighbours are D different "
            "outputs, one from each.",
        ),
    },
    fault=_does_not_imitate,
)
def imitate(w1: Tensor, b1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """A ReLU layer's w1 (H, D), b1 (H,) and w2 (D, H), nowhere negative -> weight (H D, D), bias (H D,) of Boom"""
    return _imitation(w1, b1, w2)
