"""SRU (Lei et al. 2017, arXiv 1709.02755), in the form of the paper's first version."""

import torch
from torch import Tensor, nn

from shalab.laboratory.recurrences.scan import scan

# T window, B streams, D width


class SRU(nn.Module):
    """u, f, r = split(W x_t + b);   f, r = sigmoid(f, r)
    c_t = f c_t-1 + (1 - f) u;   h_t = r tanh(c_t) + (1 - r) x_t

    Here u has a bias, too. Later versions let f and r see c_t-1, unit by unit, which no scan computes. D is the width.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.linear = nn.Linear(d_model, 3 * d_model)

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor] | None = None):
        """x (T, B, D) -> h of every step (T, B, D), and the last (h, c), (1, B, D) each; only c is read again"""
        u, f, r = self.linear(x).chunk(3, -1)
        f, r = torch.sigmoid(f), torch.sigmoid(r)
        c = scan(f, (1 - f) * u, hidden[1] if hidden else None)
        h = r * torch.tanh(c) + (1 - r) * x
        return h, (h[-1:], c[-1:])
