"""What a text costs a model that goes on learning while it reads it, as compressors do (Krause et al. 2018)."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.device import Precision, to_host
from shalab.errors import AT_LEAST_0, COUNT, FRACTION, refuse, wrong
from shalab.evaluate import check_range, context_bytes
from shalab.metrics import bits_per_byte
from shalab.model import SHARNN, State

# T window, V vocabulary


@dataclass(frozen=True)
class Dynamic:
    """How a model goes on learning while it is evaluated (Krause et al. 2018, arXiv 1709.07432, with the
    root mean square of the gradients for each weight)."""

    lr: float = 2e-4  # step size, in units of a weight's update when its gradient is as large as usual
    window: int = 16  # bytes that are charged before the weights learn from them
    beta: float = 0.999  # of the moving average of squared gradients

    def __post_init__(self):
        refuse(wrong(AT_LEAST_0, lr=self.lr) + wrong(COUNT, window=self.window) + wrong(FRACTION, beta=self.beta))


class Learner:
    """A copy of a model, in evaluation mode, that learns from every window after it was charged.

    state: after the windows read so far
    """

    def __init__(self, model: SHARNN, precision: Precision, dynamic: Dynamic):
        self.precision, self.dynamic = precision, dynamic
        self.model = precision.place(copy.deepcopy(model).eval())
        # Adam without momentum: gradient over root mean square, which its bias correction gets right from the start.
        self.optimizer = torch.optim.Adam(self.model.parameters(), dynamic.lr, betas=(0.0, dynamic.beta), eps=1e-6)
        self.state: State | None = None

    def read(self, ids: Tensor, learn: bool = True) -> Tensor:
        """A window and the byte before it, ids (T + 1, S) -> nats of the window (T, S).

        learn: False only shows how large each weight's gradients usually are.
        """
        ids = self.precision.place(ids)
        self.model.zero_grad()
        with torch.enable_grad():
            with self.precision.autocast():
                logits, self.state = self.model(ids[:-1], self.state)  # (T, S, V)
            nats = F.cross_entropy(logits.flatten(0, 1).float(), ids[1:].flatten(), reduction="none")
            with self.precision.switches():
                nats.mean().backward()
        self.optimizer.param_groups[0]["lr"] = self.dynamic.lr if learn else 0.0
        self.optimizer.step()
        return nats.detach().view(ids[1:].shape)


def dynamic_charges(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    dynamic: Dynamic | None = None,
    context: int | None = None,
) -> Iterator[Tensor]:
    """`charges` by a `Learner`: float64 (T,) each. The context before `begin` teaches nothing yet.

    One stream and one pass, as a compressor reads: no byte's charge depends on a byte after it.
    """
    dynamic = dynamic or Dynamic()
    read = context_bytes(model, data, begin, end, context)
    learner, window = Learner(model, precision, dynamic), dynamic.window
    starts = [*range(begin - read, begin, window), *range(begin, end, window), end]
    for low, high in itertools.pairwise(starts):
        ids = torch.from_numpy(data[low - 1 : high].astype(np.int64))[:, None]  # (T + 1, 1)
        nats = learner.read(ids, learn=low >= begin)
        if low >= begin:
            yield to_host(nats[:, 0]).double()


def dynamic_evaluate(
    model: SHARNN,
    data: np.ndarray,
    bounds: list[int],
    precision: Precision,
    dynamic: Dynamic | None = None,
    context: int | None = None,
) -> list[float]:
    """Bits per byte of each slice bounds[i]:bounds[i + 1], read in one pass with `dynamic_charges`."""
    for begin, end in itertools.pairwise(bounds):
        check_range(data, begin, end, 1)
    nats = torch.cat(list(dynamic_charges(model, data, bounds[0], bounds[-1], precision, dynamic, context)))
    sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
    return [bits_per_byte(part.sum().item(), len(part)) for part in nats.split(sizes)]
