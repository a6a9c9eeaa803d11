"""Boom: a feed-forward layer with one matrix instead of two."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab.device import stock
from shalab.dropout import Dropout

# D width, H Boom width, a multiple of D


def gelu(u: Tensor) -> Tensor:
    """The sigmoid approximation u * sigmoid(1.702 u) (Hendrycks & Gimpel 2016, section 2), as the paper's code."""
    return u * torch.sigmoid(1.702 * u)


class Boom(nn.Module):
    """(..., D) -> (..., D): widen to H, then fold: the H / D chunks of width D are summed.

    A Transformer's feed-forward layer needs a second matrix to come back to D; the fold needs none.
    """

    def __init__(self, d_model: int, d_boom: int, dropout: float):
        super().__init__()
        self.widen = nn.Linear(d_model, d_boom)
        self.dropout = dropout

    def forward(self, x: Tensor, drop: Dropout) -> Tensor:
        d_model = x.shape[-1]
        if not plain_linear(self.widen):
            return fold(drop(gelu(self.widen(x)), self.dropout), d_model)
        # gelu(u) = silu(1.702 u) / 1.702: with the inner factor before the matrix and the outer one behind the fold,
        # silu passes over the widest tensor once, where gelu's three operations do so three times.
        x = F.silu(F.linear(1.702 * x, self.widen.weight, 1.702 * self.widen.bias))  # (..., H)
        return fold(drop(x, self.dropout), d_model) / 1.702


def plain_linear(layer: nn.Module) -> bool:
    """Whether it is PyTorch's own linear layer, unwatched, with a bias."""
    return stock(layer, nn.Linear) and layer.bias is not None


def fold(x: Tensor, d_model: int) -> Tensor:
    """Sums the chunks of width D: (..., H) -> (..., D)"""
    return x.unflatten(-1, (-1, d_model)).sum(-2)  # (..., H / D, D) -> (..., D)
