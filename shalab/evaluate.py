"""What a text costs: every byte is charged -ln p(byte | all bytes before it)."""

import copy
import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.device import Precision, to_host
from shalab.errors import AT_LEAST_0, COUNT, NATURAL, RATE, InputError, refuse, wrong
from shalab.metrics import bits_per_byte
from shalab.model import SHARNN

# T window, S streams, V vocabulary


@torch.no_grad()
def charges(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    window: int = 1024,
    n_streams: int = 1,
    context: int | None = None,
) -> Iterator[Tensor]:
    """Nats of the bytes `begin` to `end` of (N,) uint8 data, window by window: float64 (T, S).

    window     bytes per stream and step
    n_streams  1 reads the range in one go. More cut it into equal pieces that are read side by side,
               faster, each warmed up by the bytes before it; places past the last piece's end cost 0.
               Of several processes each reads every so manieth piece.
    context    bytes before each piece that are read, but not charged, so that state and memory are
               those of a reader who has come from there; None takes `warmup_bytes(model)`

    Byte i is predicted from byte i - 1 and the state, so `begin` is at least 1.
    """
    read = _context(model, data, begin, end, context)
    refuse(wrong(COUNT, window=window, n_streams=n_streams))
    piece = math.ceil((end - begin) / n_streams)
    starts = [begin + piece * s for s in range(n_streams)][precision.team.rank :: precision.team.size]
    n_streams = len(starts)
    was_training = model.training
    model.eval()
    try:
        state = None
        for low in range(-read, piece, window):
            high = min(low + window, piece)
            ids = np.zeros((high - low + 1, n_streams), np.int64)
            charged = np.zeros((high - low, n_streams), bool)
            for s, start in enumerate(starts):
                row = data[max(0, start + low - 1) : max(0, min(start + high, end))]
                ids[: len(row), s] = row
                charged[max(0, -low) : max(0, end - start - low), s] = True
            ids = precision.place(torch.from_numpy(ids))
            with precision.autocast():
                logits, state = model(ids[:-1], state)  # (T, S, V)
            if charged.any():
                nats = F.cross_entropy(logits.flatten(0, 1).float(), ids[1:].flatten(), reduction="none")
                nats = to_host(nats.view(ids[1:].shape)).double() * torch.from_numpy(charged)
                yield nats[max(0, -low) :]  # (T, S)
    finally:
        model.train(was_training)


def _context(model: SHARNN, data: np.ndarray, begin: int, end: int, context: int | None) -> int:
    """Bytes to read before `begin`; InputError for a range or a context that cannot be."""
    _check_range(data, begin, end, 1)
    if context is not None:
        refuse(wrong(NATURAL, context=context))
    return min(begin - 1, warmup_bytes(model) if context is None else context)


def _check_range(data: np.ndarray, begin: int, end: int, least: int) -> None:
    if not (isinstance(begin, Integral) and isinstance(end, Integral) and least <= begin < end <= len(data)):
        raise InputError(
            f"charged bytes must lie within {least} to {len(data)} and be at least one, got {begin} to {end}"
        )


def warmup_bytes(model: SHARNN) -> int:
    """Bytes to read before charging so that memory and hidden state have forgotten where reading began."""
    return max(16_384, 2 * model.max_context)


def evaluate(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    stop: threading.Event | None = None,
    **reading: int,
) -> float:
    """Bits per byte of data[begin:end] given what precedes it; reading: window, n_streams, context of `charges`.

    The first byte of a file has nothing before it and is charged log2(V) bits. NaN if `stop` was set.
    """
    _check_range(data, begin, end, 0)
    nats = math.log(model.config.vocab_size) if begin == 0 and precision.team.first else 0.0
    if end - max(begin, 1) > 0:
        for part in charges(model, data, max(begin, 1), end, precision, **reading):
            if stop is not None and stop.is_set():
                nats = math.nan
                break
            nats += part.sum().item()
    return bits_per_byte(precision.team.sum(nats), end - begin)


@dataclass(frozen=True)
class Dynamic:
    """How a model goes on learning while it is evaluated (Krause et al. 2018, arXiv 1709.07432, with the
    root mean square of the gradients for each weight).

    lr      step size, in units of a weight's update when its gradient is as large as usual
    window  bytes that are charged before the weights learn from them
    beta    of the moving average of squared gradients
    """

    lr: float = 2e-4
    window: int = 16
    beta: float = 0.999

    def __post_init__(self):
        refuse(wrong(AT_LEAST_0, lr=self.lr) + wrong(COUNT, window=self.window) + wrong(RATE, beta=self.beta))


def dynamic_charges(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    dynamic: Dynamic | None = None,
    context: int | None = None,
) -> Iterator[Tensor]:
    """`charges` by a copy of the model that learns from every window after it was charged: float64 (T,) each.

    One stream and one pass, as a compressor reads: no byte's charge depends on a byte after it. Reading the
    context teaches nothing yet; it shows how large each weight's gradients usually are. `model` stays as it is.
    """
    dynamic = dynamic or Dynamic()
    read = _context(model, data, begin, end, context)
    model = precision.place(copy.deepcopy(model).eval())
    # Adam without momentum: gradient over root mean square, which its bias correction gets right from the start.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.0, dynamic.beta), eps=1e-6)
    window = dynamic.window
    starts = [*range(begin - read, begin, window), *range(begin, end, window), end]
    state = None
    for low, high in itertools.pairwise(starts):
        ids = precision.place(torch.from_numpy(data[low - 1 : high].astype(np.int64)))  # (T + 1,)
        with torch.enable_grad():
            with precision.autocast():
                logits, state = model(ids[:-1, None], state)  # (T, 1, V)
            nats = F.cross_entropy(logits[:, 0].float(), ids[1:], reduction="none")  # (T,)
            optimizer.zero_grad()
            with precision.switches():
                nats.mean().backward()
        if low >= begin:
            yield to_host(nats.detach()).double()
            optimizer.param_groups[0]["lr"] = dynamic.lr
        optimizer.step()


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
        _check_range(data, begin, end, 1)
    nats = torch.cat(list(dynamic_charges(model, data, bounds[0], bounds[-1], precision, dynamic, context)))
    sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
    return [bits_per_byte(part.sum().item(), len(part)) for part in nats.split(sizes)]
