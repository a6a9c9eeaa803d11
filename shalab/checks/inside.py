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
            "A head that took the plain average would spread over the places it can see: leave the masked ones out.",
        ),
        "the mean weight": (
            lambda weights, match: weights[match].mean(),
            "Add the weights of a query's matching places, and divide by what the plain average would put there.",
        ),
        "upside down": (
            lambda weights, match: 1 / _lift(weights, match),
            "Above 1 should mean that the head prefers these places: its share stands above the plain average's.",
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
            "Query t stands in column M + t, with M = K - T: the memory lies before the window.",
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
            "What multiplies is sigmoid(q_s) and sigmoid(k_s); the parameters are what goes into the sigmoid.",
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
            "The square root of D is part of what multiplies.",
        ),
    },
)
def query_scale(query_gate: Tensor, key_gate: Tensor) -> Tensor:
    """The parameters q_s and k_s, (D,) each -> (D,): the score is the sum over D of LN_q(W_q h) * context * this"""
    return torch.sigmoid(query_gate) * torch.sigmoid(key_gate) / math.sqrt(len(key_gate))
