"""Bytes -> parallel contiguous streams -> windows (T, B).

The file is cut into B equal pieces that are read side by side. Window after window, every stream
goes on where it stopped, so that the model's state stays valid. The cursor is one integer, which is
all that a checkpoint has to keep.
"""

import numpy as np
import torch
from torch import Tensor

from shalab.errors import COUNT, InputError, refuse, wrong


class Streams:
    """B contiguous streams over (N,) uint8 data.

    n_positions: bytes that each stream can be asked to predict, (N // B) - 1.
    share: the streams that are read here, all by default.
    """

    def __init__(self, data: np.ndarray, batch_size: int, share: slice = slice(None)):
        refuse(wrong(COUNT, batch_size=batch_size))
        length = len(data) // batch_size
        if length < 2:
            raise InputError(
                f"{len(data)} training bytes cannot feed {batch_size} streams of at least 2 bytes: "
                f"use a larger file or --batch-size {max(1, len(data) // 2)} or less"
            )
        self.n_positions = length - 1
        self._streams = data[: length * batch_size].reshape(batch_size, length)[share]  # (B, N // B), a view

    def window(self, cursor: int, bptt: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one window: x, y int64, (T, B) each, with T = bptt or what is left of the streams."""
        ids = self._streams[:, cursor : cursor + bptt + 1].T.astype(np.int64)  # (T + 1, B)
        ids = torch.from_numpy(ids)
        return ids[:-1], ids[1:]


def draw_bptt(bptt: int, generator: torch.Generator) -> int:
    """A window length near `bptt`, or with probability 0.05 near half of it; at least 5, at most `bptt`.

    N(bptt, 5) or N(bptt / 2, 5): the paper's training code. Varying the cut points keeps truncated
    backpropagation from always blinding the same bytes.
    """
    half = torch.rand((), generator=generator).item() < 0.05
    mean = bptt / 2 if half else bptt
    length = round(mean + 5 * torch.randn((), generator=generator).item())
    return min(max(length, min(5, bptt)), bptt)
