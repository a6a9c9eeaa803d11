"""Exercises of notebook 03."""

import math

import torch
from torch import Tensor

from shalab.attention import attention_mask, last_rows
from shalab.checks import exercise

# T window, D width, M bytes in memory, K = M + T


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _weights(q, k, mask=attention_mask, scale=math.sqrt, dim=-1):
    """The weights with one thing done differently."""
    scores = q @ k.T / scale(q.shape[-1])
    return scores.masked_fill(~mask(*scores.shape), -math.inf).softmax(dim)


def _weights_with(**change):
    return lambda q, k: _weights(q, k, **change)


def _everything(bptt, n_keys):
    return torch.ones(bptt, n_keys, dtype=torch.bool)


def _queries(generator):
    for bptt, n_memory, d_model in ((3, 4, 5), (7, 2, 11)):
        yield _random(generator, bptt, d_model), _random(generator, n_memory + bptt, d_model)


@exercise(
    _queries,
    mistakes={
        "no mask": (_weights_with(mask=_everything), "A query may not look at bytes that come after it."),
        "the memory is masked as well": (
            _weights_with(mask=lambda bptt, n_keys: attention_mask(n_keys, n_keys)[:bptt]),
            "Query t is row M + t of the context, so that it sees the whole memory and the window up to itself.",
        ),
        "the own byte is hidden": (
            _weights_with(mask=lambda bptt, n_keys: _everything(bptt, n_keys).tril(n_keys - bptt - 1)),
            "Query t has already read byte t and may look at it: only later ones are the future.",
        ),
        "not scaled": (_weights_with(scale=lambda d_model: 1), "Divide the scores by the square root of D."),
        "divided by D": (_weights_with(scale=lambda d_model: d_model), "By its square root, not by D itself."),
        "softmax over the queries": (
            _weights_with(mask=_everything, dim=0),
            "The weights of one query add up to 1: the softmax runs over the keys, the last axis.",
        ),
    },
)
def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """q (T, D), k (K, D) -> (T, K)"""
    return _weights(q, k)


def _matrices(generator):
    for d_model in (3, 5):
        yield _random(generator, d_model, d_model), _random(generator, d_model, d_model)


@exercise(
    _matrices,
    mistakes={
        "the transposed matrix": (
            lambda w_query, w_key: w_query.T @ w_key,
            "nn.Linear computes x W^T. Write (h W_q^T)(c W_k^T)^T, gather what stands before c^T, and transpose it.",
        ),
        "no transposition": (
            lambda w_query, w_key: w_key @ w_query,
            "The score is h W_q^T W_k c^T: the key's matrix stands there without a transposition, so W comes with one.",
        ),
        "the other order": (
            lambda w_query, w_key: w_query @ w_key,
            "h meets W_q first. What is applied last stands leftmost in W.",
        ),
    },
)
def absorb(w_query: Tensor, w_key: Tensor) -> Tensor:
    """Two matrices (D, D) -> the one (D, D) with which bare keys give the same scores"""
    return w_key.T @ w_query


def _remember(memory, window, max_context):
    context = torch.cat([last_rows(memory, max_context - len(window)), window])
    return context, last_rows(context, max_context)


def _python_slices(memory, window, max_context):
    context = torch.cat([memory[-(max_context - len(window)) :], window])
    return context, context[-max_context:]


def _cut_afterwards(memory, window, max_context):
    context = torch.cat([memory, window])
    return context, last_rows(context, max_context)


def _oldest(memory, window, max_context):
    context = torch.cat([memory[: max(0, max_context - len(window))], window])
    return context, context[:max_context]


def _windows(generator):
    for n_memory, bptt, max_context in ((7, 3, 8), (0, 2, 5), (5, 3, 3), (6, 5, 2), (3, 2, 11)):
        yield _random(generator, n_memory, 2), _random(generator, bptt, 2), max_context


@exercise(
    _windows,
    mistakes={
        "nothing becomes everything": (
            _python_slices,
            "Where max_context equals T no memory is left, but x[-0:] is all of x. Count from the front: "
            "x[max(0, len(x) - n):] with n at least 0.",
        ),
        "cut only afterwards": (
            _cut_afterwards,
            "Memory and window together may be max_context rows: cut the memory before the window joins it.",
        ),
        "the oldest stay": (_oldest, "The rows that are nearest to the window stay, the oldest go."),
    },
)
def remember(memory: Tensor, window: Tensor, max_context: int) -> tuple[Tensor, Tensor]:
    """memory (M, D), window (T, D) -> the context (K, D) that is attended to and the next memory"""
    return _remember(memory, window, max_context)


@exercise(
    lambda generator: ((3, 7, 5), (11, 13, 2)),
    mistakes={
        "keys and values through matrices": (
            lambda bptt, n_keys, d_model: 2 * bptt * d_model**2 + 4 * n_keys * d_model**2 + 4 * bptt * n_keys * d_model,
            "That is a head that computes keys and values anew. Here the context itself is key and value.",
        ),
        "multiply-adds": (
            lambda bptt, n_keys, d_model: bptt * d_model**2 + 2 * bptt * n_keys * d_model,
            "A multiplication and an addition are two operations.",
        ),
        "only the scores": (
            lambda bptt, n_keys, d_model: 2 * bptt * d_model**2 + 2 * bptt * n_keys * d_model,
            "The weights are then multiplied with the context once more.",
        ),
    },
)
def flops(bptt: int, n_keys: int, d_model: int) -> int:
    """Operations of one window's matrix products, counted without the mask"""
    return 2 * bptt * d_model**2 + 4 * bptt * n_keys * d_model


def _overparam(vector, weight, bias, first="c", squash=torch.sigmoid):
    one, other = (weight @ squash(vector) + bias).chunk(2)
    c, f = (one, other) if first == "c" else (other, one)
    return torch.sigmoid(f) * torch.tanh(c)


def _vectors(generator):
    for d_model in (3, 5):
        yield (
            _random(generator, d_model), _random(generator, 2 * d_model, d_model), _random(generator, 2 * d_model),
        )  # fmt: skip


@exercise(
    _vectors,
    mistakes={
        "c and f swapped": (
            lambda vector, weight, bias: _overparam(vector, weight, bias, first="f"),
            "The first D numbers are c, which goes through tanh; the last D are f, the gate.",
        ),
        "the bare vector goes in": (
            lambda vector, weight, bias: _overparam(vector, weight, bias, squash=lambda vector: vector),
            "The matrix sees sigmoid(v_s), not v_s.",
        ),
    },
)
def overparam(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """vector (D,), weight (2D, D), bias (2D,) -> (D,)"""
    return _overparam(vector, weight, bias)
