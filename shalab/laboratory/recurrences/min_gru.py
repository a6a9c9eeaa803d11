"""minGRU (Feng et al. 2024, arXiv 2410.01201): a GRU whose gate and candidate do not see the step before."""

import torch
from torch import Tensor, nn

from shalab.laboratory.recurrences.scan import scan

# T window, B streams, D width


class MinGRU(nn.Module):
    """z = sigmoid(W_z x + b_z);   h_t = (1 - z) h_t-1 + z (W x_t + b)

    The form without logarithms of the paper's first appendix, whose candidate may be of either sign. D is the width.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.linear = nn.Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor] | None = None):
        """x (T, B, D) -> h of every step (T, B, D), and the last one twice, as blocks carry pairs: (1, B, D) each"""
        z, candidate = self.linear(x).chunk(2, -1)
        z = torch.sigmoid(z)
        h = scan(1 - z, z * candidate, hidden[0] if hidden else None)
        return h, (h[-1:], h[-1:])
