"""The quasi-recurrent layer (Bradbury et al. 2016, arXiv 1611.01576) that SHAQ puts in place of the SHA-RNN's LSTMs
(Bharwani et al. 2021, arXiv 2108.08207): a convolution over two bytes, then gates and nothing else.
"""

import torch
from torch import Tensor, nn

from shalab.laboratory.recurrences.scan import scan

# T window, B streams, D width


class QuasiRecurrent(nn.Module):
    """z, f, o = split(W [x_t-1, x_t] + b);   z = tanh(z), f, o = sigmoid(f, o)
    c_t = f c_t-1 + (1 - f) z;   h_t = o c_t

    Before the first byte of a text x is zeros. D is the width.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.linear = nn.Linear(2 * d_model, 3 * d_model)

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor] | None = None):
        """x (T, B, D) -> h of every step (T, B, D), and what the next step needs: the last x and c, (1, B, D) each"""
        last, c = hidden or (torch.zeros_like(x[:1]), None)
        both = torch.cat([torch.cat([last, x[:-1]]), x], -1)  # (T, B, 2D)
        z, f, o = self.linear(both).chunk(3, -1)
        f = torch.sigmoid(f)
        c = scan(f, (1 - f) * torch.tanh(z), c)  # (T, B, D)
        return torch.sigmoid(o) * c, (x[-1:], c[-1:])
