"""What a text costs: every byte is charged -ln p(byte | all bytes before it)."""

import math
import threading
from collections.abc import Iterator
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.device import Precision, to_host
from shalab.errors import COUNT, NATURAL, InputError, refuse, wrong
from shalab.metrics import bits_per_byte
from shalab.model import SHARNN

# T window, S streams, V vocabulary


@torch.no_grad()
def predictions(
    model: SHARNN,
    data: np.ndarray,
    begin: int,
    end: int,
    precision: Precision,
    window: int = 1024,
    n_streams: int = 1,
    context: int | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Reads the bytes `begin` to `end` of (N,) uint8 data window by window, from the first that is charged.

    Yields the logits of the window's bytes (T, S, V), these bytes (T, S) int64, and whether each is charged (T, S).

    window     bytes per stream and step
    n_streams  1 reads the range in one go. More cut it into equal pieces that are read side by side,
               faster, each warmed up by the bytes before it; places past the last piece's end are not charged.
               Of n processes each reads every n-th piece.
    context    bytes before each piece that are read but not charged, to warm up state and memory; None takes
               `warmup_bytes(model)`

    Byte i is predicted from byte i - 1 and the state, so `begin` is at least 1.
    """
    n_warmup = context_bytes(model, data, begin, end, context)
    refuse(wrong(COUNT, window=window, n_streams=n_streams))
    piece = math.ceil((end - begin) / n_streams)
    starts = (begin + piece * np.arange(n_streams))[precision.team.rank :: precision.team.size]  # (S,)
    was_training = model.training
    model.eval()
    try:
        state = None
        for low in range(-n_warmup, piece, window):  # counted from each piece's first byte
            places = starts + np.arange(low - 1, min(low + window, piece))[:, None]  # (T + 1, S)
            ids = precision.place(torch.from_numpy(data[places.clip(max=end - 1)].astype(np.int64)))
            with precision.autocast():
                logits, state = model(ids[:-1], state)  # (T, S, V)
            first = max(0, -low)  # what comes before it in the window is context
            charged = places[1 + first :] < end
            if charged.any():
                yield logits[first:], ids[1 + first :], torch.from_numpy(charged)
    finally:
        model.train(was_training)


@torch.no_grad()
def charges(*reading, **options) -> Iterator[Tensor]:
    """Nats of the bytes that `predictions` reads, window by window: float64 (T, S), 0 where none is charged."""
    for logits, ids, charged in predictions(*reading, **options):
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten(), reduction="none")
        yield to_host(nats.view(ids.shape)).double() * charged


def context_bytes(model: SHARNN, data: np.ndarray, begin: int, end: int, context: int | None) -> int:
    """Bytes to read before `begin`; InputError for a range, a context or bytes that cannot be."""
    check_range(data, begin, end, 1)
    if context is not None:
        refuse(wrong(NATURAL, context=context))
    read = min(begin - 1, warmup_bytes(model) if context is None else context)
    known = model.config.vocab_size
    if known < 256 and (largest := data[begin - read - 1 : end].max()) >= known:
        raise InputError(f"the model knows bytes below {known}, the data has {largest}")
    return read


def check_range(data: np.ndarray, begin: int, end: int, least: int) -> None:
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
    check_range(data, begin, end, 0)
    nats = math.log(model.config.vocab_size) if begin == 0 and precision.team.first else 0.0
    if end - max(begin, 1) > 0:
        for part in charges(model, data, max(begin, 1), end, precision, **reading):
            if stop is not None and stop.is_set():
                nats = math.nan
                break
            nats += part.sum().item()
    return bits_per_byte(precision.team.sum(nats), end - begin)
