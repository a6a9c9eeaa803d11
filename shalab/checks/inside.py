"""Exercises of notebook 07."""

import math

import torch
from torch import Tensor

from shalab.attention import attention_mask, attention_weights
from shalab.checks import exercise

# T window, D width, M bytes in memory, K = M + T


def _weights(generator: torch.Generator, bptt: int, n_keys: int) -> Tensor:
    q, k = (torch.randn(n, 3, generator=generator) for n in (bptt, n_keys))
    return attention_weights(q, k)


def _lift(weights, match, visible=attention_mask):
    visible = visible(*weights.shape)
    expected = (match & visible).sum(1) / visible.sum(1)  # (T,)
    return (weights * match).sum(1).mean() / expected.mean()


def _matches(generator):
    for bptt, n_keys in ((5, 7), (3, 11)):
        yield _weights(generator, bptt, n_keys), torch.rand(bptt, n_keys, generator=generator) < 0.4


@exercise(
    _matches,
    mistakes={
        "the future counts as a choice": (
            lambda weights, match: _lift(weights, match, lambda *shape: torch.ones(shape, dtype=torch.bool)),
            "The plain average spreads over the places that the query can see: leave the later ones out.",
        ),
        "the mean weight": (
            lambda weights, match: weights[match].mean(),
            "Add the weights of a query's matching places, and divide by what the plain average would put there.",
        ),
        "upside down": (
            lambda weights, match: 1 / _lift(weights, match),
            "Above 1 should mean that the head prefers these places: divide its share by the plain average's.",
        ),
    },
)
def lift(weights: Tensor, match: Tensor) -> Tensor:
    """weights (T, K), match (T, K) bool -> () how many times as much weight as by the plain average"""
    return _lift(weights, match)


def _mean_age(weights, n_memory=None, first=0):
    bptt, n_keys = weights.shape
    n_memory = n_keys - bptt if n_memory is None else n_memory
    ages = n_memory + torch.arange(bptt)[:, None] - torch.arange(n_keys) + first  # (T, K)
    return (weights * ages).sum(1)


@exercise(
    lambda generator: ((_weights(generator, bptt, n_keys),) for bptt, n_keys in ((5, 7), (3, 11))),
    mistakes={
        "the place, not the age": (
            lambda weights: (weights * torch.arange(weights.shape[1])).sum(1),
            "That is the mean column. The age is counted back from the query's own column.",
        ),
        "the memory is forgotten": (
            lambda weights: _mean_age(weights, n_memory=0),
            "Query t is in column M + t, with M = K - T: the memory comes before the window.",
        ),
        "counted from 1": (lambda weights: _mean_age(weights, first=1), "The query's own byte has age 0."),
    },
)
def mean_age(weights: Tensor) -> Tensor:
    """weights (T, K) -> (T,) in bytes"""
    return _mean_age(weights)


@exercise(
    lambda generator: (tuple(torch.randn(2, d_model, generator=generator)) for d_model in (3, 5)),
    mistakes={
        "no sigmoid": (
            lambda query_gate, key_gate: query_gate * key_gate / math.sqrt(len(key_gate)),
            "A gate is the sigmoid of its parameter: multiply sigmoid(q_s) by sigmoid(k_s).",
        ),
        "one sigmoid of the product": (
            lambda query_gate, key_gate: torch.sigmoid(query_gate * key_gate) / math.sqrt(len(key_gate)),
            "Each gate has its own sigmoid, and the two are multiplied afterwards.",
        ),
        "added": (
            lambda query_gate, key_gate: (
                (torch.sigmoid(query_gate) + torch.sigmoid(key_gate)) / math.sqrt(len(key_gate))
            ),
            "One gate multiplies q, the other k, and the score multiplies q with k: the gates multiply, too.",
        ),
        "not scaled": (
            lambda query_gate, key_gate: torch.sigmoid(query_gate) * torch.sigmoid(key_gate),
            "The scale is missing: the score is also divided by the square root of D.",
        ),
    },
)
def query_scale(query_gate: Tensor, key_gate: Tensor) -> Tensor:
    """The parameters q_s and k_s, (D,) each -> (D,): the score is the sum over D of LN_q(W_q h) * context * this"""
    return torch.sigmoid(query_gate) * torch.sigmoid(key_gate) / math.sqrt(len(key_gate))


def _value_gates(generator):
    for d_model in (3, 5):
        yield (
            torch.randn(d_model, generator=generator),
            torch.randn(2 * d_model, d_model, generator=generator),
            torch.randn(2 * d_model, generator=generator),
        )


def _without_rows(vector, weight, bias, rows):
    weight, bias = weight.clone(), bias.clone()
    weight[rows], bias[rows] = 0, 0
    return vector, weight, bias


def _first_half(vector):
    return slice(None, len(vector))


def _second_half(vector):
    return slice(len(vector), None)


def _still_open(results: list) -> str | None:
    """What keeps the gate from being 0 everywhere; there is more than one way to shut it."""
    for result, d_model in zip(results, (3, 5), strict=True):
        try:
            vector, weight, bias = (torch.as_tensor(part, dtype=torch.double) for part in result)
        except (TypeError, ValueError):
            return "expected three tensors: vector, weight and bias"
        if (vector.shape, weight.shape, bias.shape) != ((d_model,), (2 * d_model, d_model), (2 * d_model,)):
            return "vector, weight and bias must keep their shapes, (D,), (2D, D) and (2D,)"
        c, f = (weight @ torch.sigmoid(vector) + bias).chunk(2)
        gate = torch.sigmoid(f) * torch.tanh(c)
        if not gate.abs().max() < 1e-6:
            return f"the gate that they make is still {gate.abs().max():.2g} somewhere"
    return None


@exercise(
    _value_gates,
    fault=_still_open,
    mistakes={
        "only the vector": (
            lambda vector, weight, bias: (0 * vector, weight, bias),
            "sigmoid(0) is a half, and W and b still make a gate of it. For which c is tanh(c) zero?",
        ),
        "the forget half": (
            lambda vector, weight, bias: _without_rows(vector, weight, bias, _second_half(vector)),
            "With f = 0 the gate is half of tanh(c), not 0. It is c, the first D rows, that must become 0.",
        ),
        "the bias stays": (
            lambda vector, weight, bias: (vector, _without_rows(vector, weight, bias, _first_half(vector))[1], bias),
            "c = W sigmoid(v) + b: without its rows of W, c is still b.",
        ),
    },
)
def silence(vector: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """vector (D,), weight (2D, D), bias (2D,) -> three of the same shapes with which overparam gives 0 everywhere"""
    return _without_rows(vector, weight, bias, _first_half(vector))


def _temperatures(generator):
    for n, temperature in ((5, 0.5), (7, 2.0)):
        yield 2 * torch.randn(n, generator=generator), temperature


@exercise(
    _temperatures,
    mistakes={
        "multiplied": (
            lambda logits, temperature: (logits * temperature).softmax(-1),
            "A low temperature should make the likeliest byte likelier: divide the logits by it.",
        ),
        "too late": (
            lambda logits, temperature: logits.softmax(-1) / temperature,
            "Those do not add up to 1. Divide the logits, before the softmax.",
        ),
        "not normalised": (
            lambda logits, temperature: (logits / temperature).exp(),
            "Probabilities add up to 1: softmax divides by the sum.",
        ),
    },
)
def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits (V,), temperature above 0 -> probabilities (V,)"""
    return (logits / temperature).softmax(-1)
