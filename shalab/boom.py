"""Boom: a feed-forward layer with one matrix instead of two."""

import torch
from torch import Tensor, nn

from shalab.door import door
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

    @door
    def forward(self, x: Tensor, drop: Dropout) -> Tensor:
        return fold(drop(gelu(self.widen(x)), self.dropout), x.shape[-1])


def fold(x: Tensor, d_model: int) -> Tensor:
    """Sums the chunks of width D: (..., H) -> (..., D)"""
    return x.unflatten(-1, (-1, d_model)).sum(-2)  # (..., H / D, D) -> (..., D)
