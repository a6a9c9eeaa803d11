"""Dropout whose masks cost little on a CPU.

*Gain.* PyTorch draws one Bernoulli number per element on one thread: with that the laptop preset's update took 1.4
times as long in bfloat16 on one machine and 1.2 times in float32 on another (`assets/bench`). Here one pool of random
bytes is drawn per forward pass and every mask is a slice of it, at a random place.
*Conditions.* A CPU; a GPU draws random numbers as fast as it multiplies.
"""

import math

import torch
from torch import Tensor

from shalab.device import on_cpu
from shalab.door import stands_in_for
from shalab.dropout import Dropout, dropout

POOL = 1 << 20  # elements; 4 MiB as float32, small enough for a large cache


@stands_in_for(
    dropout, "pooled masks", "1.8 to 2.1 times, laptop's update, with 'constant memory', which needs it", "on a CPU"
)
class Masks(Dropout):
    """Draws from PyTorch's global generator, as PyTorch's dropout does, with two differences on a CPU.

    p is rounded to a multiple of 1/256. And while a mask of up to half a pool has independent elements, the parts of a
    larger one, and two masks of a pass, may share random bits, at unrelated elements.
    """

    def __init__(self, training: bool):
        super().__init__(training)
        self._pools: dict[tuple[float, torch.dtype], Tensor] = {}
        self._bytes: Tensor | None = None

    def __call__(self, x: Tensor, p: float) -> Tensor:
        if not self.training or p == 0:
            return x
        if not on_cpu(x):
            return super().__call__(x, p)
        mask = self.mask(x.shape, p, x.dtype)
        return x * mask[0].view(x.shape) if len(mask) == 1 else _Times.apply(x, mask)

    def mask(self, shape: tuple[int, ...], p: float, dtype: torch.dtype) -> list[Tensor]:
        """Factors for `times`, on the CPU: 0 with probability p, else 1 / (1 - p); [] where nothing is dropped.

        Views of the pool, so that a mask takes no memory, each of at most half of it: the other half is the choice
        of where it begins. Some rows each, or a part of one where a row is longer than that.
        """
        if not self.training or p == 0:
            return []
        n_rows, width = math.prod(shape[:-1]), shape[-1]
        columns = min(width, POOL // 2)
        rows = POOL // 2 // columns
        return [
            self._slice(min(rows, n_rows - row) * n_columns, p, dtype).view(-1, n_columns)
            for row in range(0, n_rows, rows)
            for column in range(0, width, columns)
            for n_columns in [min(columns, width - column)]
        ]

    def prepare_recomputation(self) -> None:
        """Draws the pool, unless it is there: before a block whose masks are to be drawn once more later."""
        self._drawn()

    def _drawn(self) -> Tensor:
        if self._bytes is None:  # 64-bit draws, eight bytes each; the default range would leave out the sign bit
            self._bytes = torch.empty(POOL // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.uint8).float()
        return self._bytes

    def _slice(self, n: int, p: float, dtype: torch.dtype) -> Tensor:
        drawn = self._drawn()
        if (p, dtype) not in self._pools:
            threshold = min(max(1, round(p * 256)), 255)
            self._pools[p, dtype] = drawn.ge(threshold).to(dtype).mul_(256 / (256 - threshold))
        begin = int(torch.randint(POOL - n + 1, ()))
        return self._pools[p, dtype][begin : begin + n]


def times(x: Tensor, mask: list[Tensor]) -> Tensor:
    """x (..., D) multiplied by a mask of `Dropout.mask`, without gradient."""
    if not mask:
        return x
    rows = x.reshape(-1, x.shape[-1])  # (N, D)
    if len(mask) == 1:
        return (rows * mask[0]).view(x.shape)
    result = torch.empty(rows.shape, dtype=x.dtype)
    row = column = 0
    for part in mask:
        block = slice(row, row + part.shape[0]), slice(column, column + part.shape[1])
        torch.mul(rows[block], part, out=result[block])
        column += part.shape[1]
        if column == rows.shape[1]:
            row, column = row + part.shape[0], 0
    return result.view(x.shape)


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, mask):
        ctx.mask = mask
        return times(x, mask)

    @staticmethod
    def backward(ctx, d_result):
        return times(d_result, ctx.mask), None
