"""The blocks' LSTM (Hochreiter & Schmidhuber 1997), PyTorch's own."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from shalab.device import on_cpu
from shalab.door import door

# T window, B streams, D width


@door
def recurrent(lstm: nn.Module, x: Tensor, hidden: tuple[Tensor, Tensor] | None):
    """lstm(x, hidden): x (T, B, D) -> h of every step (T, B, D), and the last (h, c), (1, B, D) each.

        i, f, g, o = split(W_x x_t + W_h h_t-1 + b);   i, f, o = sigmoid(i, f, o), g = tanh(g)
        c_t = f c_t-1 + i g;   h_t = o tanh(c_t)

    hidden: (h, c) of the step before, in any number format; None for zeros.
    """
    if hidden is not None:
        h, c = hidden
        hidden = h.to(x.dtype), c.to(x.dtype)
    # On a CPU, autocast does not cover the LSTM: there it computes in the format of its weights.
    with torch.autocast(x.device.type, enabled=False) if on_cpu(x) else nullcontext():
        return lstm(x, hidden)
