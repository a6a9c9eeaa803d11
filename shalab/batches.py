"""Bytes -> B parallel streams -> windows (T, B).

The file is cut into B equal pieces that are read side by side. From window to window every stream continues where it
stopped, so that the model's state stays valid. A checkpoint only has to keep the cursor and the random generator.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shalab.errors import COUNT, InputError, refuse, wrong


class Streams:
    """B contiguous streams over (N,) uint8 data.

    n_positions  bytes that each stream has to predict, (N // B) - 1
    own          the streams that this process reads, all by default
    """

    def __init__(self, data: np.ndarray, batch_size: int, own: slice = slice(None)):
        refuse(wrong(COUNT, batch_size=batch_size))
        length = len(data) // batch_size
        if length < 2:
            raise InputError(
                f"{len(data)} training bytes cannot feed {batch_size} streams of at least 2 bytes: "
                f"use a larger file or --batch-size {max(1, len(data) // 2)} or less"
            )
        self.n_positions = length - 1
        self._streams = data[: length * batch_size].reshape(batch_size, length)[own]  # (B, N // B), a view

    def window(self, cursor: int, bptt: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one window: x, y int64, (T, B) each, with T = bptt or what is left of the streams."""
        ids = torch.from_numpy(self._streams[:, cursor : cursor + bptt + 1].T.astype(np.int64))  # (T + 1, B)
        return ids[:-1], ids[1:]


def draw_bptt(bptt: int, generator: torch.Generator) -> int:
    """A window length near `bptt`, or with probability 0.05 near half of it; at least 5, at most `bptt`.

    N(bptt, 5) or N(bptt / 2, 5), as in the paper's code. Windows of varying length do not cut the gradient at the same
    bytes in every epoch.
    """
    half = torch.rand((), generator=generator).item() < 0.05
    mean = bptt / 2 if half else bptt
    length = round(mean + 5 * torch.randn((), generator=generator).item())
    return min(max(length, min(5, bptt)), bptt)


class Windows:
    """The windows of all epochs, in order.

    bptt, vary  window length; if vary is True it is drawn by `draw_bptt`
    place       moves a tensor to the device
    cursor      bytes of each stream that this epoch has read
    """

    def __init__(self, streams: Streams, bptt: int, vary: bool, seed: int, place: Callable[[Tensor], Tensor]):
        self.streams, self.bptt, self.vary, self.place, self.cursor = streams, bptt, vary, place, 0
        self.generator = torch.Generator().manual_seed(seed)
        self._next: tuple | None = None  # position, the generator's state before it was drawn, x, y

    def prefetch(self) -> None:
        """Draws the next window and starts moving it to the device. A checkpoint before and after it is the same."""
        if self._next is None:
            random_state = self.generator.get_state()
            begin = self.cursor if self.cursor < self.streams.n_positions else 0
            bptt = draw_bptt(self.bptt, self.generator) if self.vary else self.bptt
            self._next = begin, random_state, *map(self.place, self.streams.window(begin, bptt))

    def next(self) -> tuple[Tensor, Tensor, bool]:
        """x, y (T, B) on the device, and whether they begin an epoch."""
        self.prefetch()
        assert self._next
        (begin, _, x, y), self._next = self._next, None
        self.cursor = begin + len(x)
        return x, y, begin == 0

    def random_state(self) -> Tensor:
        """The generator's state before the next window was drawn, whether it has been fetched already or not."""
        return self._next[1] if self._next else self.generator.get_state()

    def set_random_state(self, state: Tensor) -> None:
        self._next = None
        self.generator.set_state(state)


@functools.cache  # a second or more for the paper's
def steps_in_epochs(n_train: int, config, epochs: float, seed: int) -> int:
    """Updates that `epochs` passes over n_train bytes take by this TrainConfig: draws the window lengths in advance."""
    n_positions = n_train // config.batch_size - 1
    generator = torch.Generator().manual_seed(seed)
    windows = read = 0
    while read < round(n_positions * epochs):
        length = draw_bptt(config.bptt, generator) if config.vary_bptt else config.bptt
        read += min(length, n_positions - read % n_positions)  # an epoch's last window is what is left
        windows += 1
    return math.ceil(windows / config.accumulate)
