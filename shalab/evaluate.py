"""What a text costs: every byte is charged -ln p(byte | all bytes before it)."""

import math
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.device import Precision, to_host
from shalab.errors import InputError
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
    context    bytes before each piece that are read, but not charged, so that state and memory are
               those of a reader who has come from there; None takes `warmup_bytes(model)`

    Byte i is predicted from byte i - 1 and the state, so `begin` is at least 1.
    """
    if not 1 <= begin < end <= len(data):
        raise InputError(f"charged bytes must lie within 1 to {len(data)} and be at least one, got {begin} to {end}")
    if window < 1 or n_streams < 1:
        raise InputError(f"window and n_streams must be at least 1, got {window} and {n_streams}")
    if context is not None and context < 0:
        raise InputError(f"context must be at least 0, got {context}")
    piece = math.ceil((end - begin) / n_streams)
    starts = [begin + piece * s for s in range(n_streams)]
    read = min(begin - 1, warmup_bytes(model) if context is None else context)
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


def warmup_bytes(model: SHARNN) -> int:
    """Bytes to read before charging so that memory and hidden state have forgotten where reading began."""
    return max(16_384, 2 * model.max_context)


def evaluate(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    window: int = 1024,
    n_streams: int = 1,
    context: int | None = None,
    stop: threading.Event | None = None,
) -> float:
    """Bits per byte of data[begin:end] given what precedes it; arguments as of `charges`.

    The first byte of a file has nothing before it and is charged log2(V) bits. NaN if `stop` was set.
    """
    nats = math.log(model.config.vocab_size) if begin == 0 else 0.0
    if end - max(begin, 1) > 0:
        for part in charges(model, data, max(begin, 1), end, precision, window, n_streams, context):
            if stop is not None and stop.is_set():
                return math.nan
            nats += part.sum().item()
    return bits_per_byte(nats, end - begin)
