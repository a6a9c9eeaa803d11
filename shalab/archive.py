"""A lossless compressor: the model predicts each byte, and a range coder writes down how surprising it was.

Unpacking repeats every prediction before it sees the byte, so both sides must compute the same numbers to the last bit:
with the same model, on the same kind of processor, with the same PyTorch, number of threads and format. The archive
remembers these, and the checksum of what was packed.
"""

import hashlib
import math
import platform
import struct
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shalab.device import Precision, to_host
from shalab.dynamic import Dynamic, Learner
from shalab.errors import InputError
from shalab.generate import decoder
from shalab.mixing import Mixer
from shalab.model import SHARNN, State

MAGIC = b"shlb"
# Magic, flags, streams, number of bytes, checksums of the bytes, the model and the machine. Then a checksum of all that
# and of the code, and the code.
HEADER = struct.Struct("<4sBBQ8s4s4s")
MIX, LEARN = 1, 2  # flags
FIRST = b"\n"  # every stream begins as if after a line's end
PER_STREAM = 100_000  # bytes from which on another stream is worth the start that it makes without a memory
MOST_STREAMS = 64

# S streams, V vocabulary


def default_streams(n_bytes: int) -> int:
    """More streams are faster and each knows less of what precedes it: one per 100,000 bytes, at most 64."""
    return min(MOST_STREAMS, max(1, n_bytes // PER_STREAM))


def compress(
    model: SHARNN,
    data: bytes,
    precision: Precision,
    n_streams: int | None = None,
    mix: bool = True,
    learn: bool = False,
) -> tuple[bytes, float]:
    """-> the archive, and the bits that the model charged for the bytes: the archive is hardly longer.

    n_streams  pieces of the data that are read side by side; None takes `default_streams`
    mix        with counts of what followed the same bytes earlier in the data (shalab.mixing)
    learn      goes on training a copy of the model with what has been read
    """
    encoder, _, byte = _coding()
    coder = encoder()
    n_streams = default_streams(len(data)) if n_streams is None else n_streams
    if not 1 <= n_streams <= 255:
        raise InputError(f"streams must be between 1 and 255, got {n_streams}")
    if data and max(data) >= model.config.vocab_size:
        raise InputError(f"the model knows bytes below {model.config.vocab_size}, the data has {max(data)}")
    flags = MIX * mix + LEARN * learn
    bits = 0.0

    def encode(places: list[int], probabilities: np.ndarray) -> np.ndarray:
        nonlocal bits
        symbols = np.frombuffer(data, np.uint8)[places].astype(np.int32)
        coder.encode(symbols, byte, probabilities)
        bits -= float(np.log2(probabilities[np.arange(len(symbols)), symbols]).sum())
        return symbols

    if data:
        _read_along(model, precision, len(data), n_streams, flags, "packing", encode)
    head = HEADER.pack(MAGIC, flags, n_streams, len(data), _digest(data, 8), _of_model(model), _of_machine(precision))
    payload = coder.get_compressed().astype("<u4").tobytes()
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload, bits


def decompress(model: SHARNN, archive: bytes, precision: Precision) -> bytes:
    """What was packed. InputError for what is no archive, is damaged, or was packed by another model or machine."""
    if not archive.startswith(MAGIC):
        raise InputError("this is not an archive that `shalab compress` wrote")
    head, check, payload = archive[: HEADER.size], archive[HEADER.size : HEADER.size + 4], archive[HEADER.size + 4 :]
    if check != struct.pack("<I", zlib.crc32(head + payload)):
        raise InputError("the archive is damaged or not complete")
    _, flags, n_streams, n_bytes, checksum, of_model, of_machine = HEADER.unpack(head)
    if flags > MIX + LEARN or not n_streams:
        raise InputError("another version of shalab wrote this archive")
    if of_model != _of_model(model):
        raise InputError("the archive was packed by another model: name the one that packed it with --model")
    if of_machine != _of_machine(precision):
        raise InputError(
            f"the archive was packed elsewhere, where numbers are rounded differently; here is {_machine(precision)}. "
            "Unpack it on a machine like the one that packed it, with as many threads and the same --dtype"
        )
    _, range_decoder, byte = _coding()
    coder = range_decoder(np.frombuffer(payload, "<u4").astype(np.uint32))
    try:
        data = np.zeros(n_bytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise InputError(f"the archive says that it holds {n_bytes:,} bytes, more than there is memory for") from error

    def decode(places: list[int], probabilities: np.ndarray) -> np.ndarray:
        data[places] = symbols = coder.decode(byte, probabilities)
        return symbols

    if n_bytes:
        _read_along(model, precision, n_bytes, n_streams, flags, "unpacking", decode)
    unpacked = data.tobytes()
    if _digest(unpacked, 8) != checksum:
        raise InputError(
            "what comes out is not what was packed, so nothing is written: this machine computes other numbers than "
            "the one that packed it"
        )
    return unpacked


Code = Callable[[list[int], np.ndarray], np.ndarray]


@torch.no_grad()
def _read_along(
    model: SHARNN, precision: Precision, n_bytes: int, n_streams: int, flags: int, name: str, code: Code
) -> None:
    """Predicts the next byte of each stream and is told what they were, until all are read; packing and unpacking.

    code  is given the places (S,) of the next bytes and their probabilities (S, V), and returns the bytes (S,)
    """
    piece = math.ceil(n_bytes / n_streams)
    begins = range(0, n_bytes, piece)
    network = (_Learning if flags & LEARN else decoder)(model, [FIRST] * len(begins), precision)
    logits, mixer = network.logits, Mixer(n_bytes) if flags & MIX else None
    with tqdm(total=n_bytes, unit="B", unit_scale=True, desc=name, mininterval=1, leave=False) as bar:
        for step in range(piece):
            places = [place for begin in begins if (place := begin + step) < n_bytes]
            probabilities = to_host(logits[: len(places)].float()).double().softmax(-1).numpy()  # (S, V)
            if mixer:
                rows = zip(places, probabilities, begins, strict=False)
                probabilities = np.stack([mixer.predict(*row) for row in rows])
            symbols = code(places, probabilities)
            if mixer:
                for row in zip(places, symbols.tolist(), begins, strict=False):
                    mixer.learn(*row)
            if step + 1 < piece:
                padded = np.zeros(len(begins), np.int64)  # the last stream may have ended before the others
                padded[: len(symbols)] = symbols
                logits = network.step(torch.from_numpy(padded))
            bar.update(len(places))


class _Learning:
    """As a `Decoder`, by a `Learner`, which predicts byte after byte and learns from every window once it is full."""

    def __init__(self, model: SHARNN, prompts: list[bytes], precision: Precision):
        self.learner, self.precision = Learner(model, precision, Dynamic()), precision
        self.state: State | None = None
        self.window: list[Tensor] = []  # and the byte before it, (S,) each
        self.logits = self.step(torch.tensor([prompt[-1] for prompt in prompts]))

    def step(self, ids: Tensor) -> Tensor:
        """The streams' next bytes (S,) -> logits of those after them (S, V)"""
        self.window.append(ids)
        if len(self.window) > self.learner.dynamic.window:
            self.learner.read(torch.stack(self.window))
            self.state, self.window = self.learner.state, [ids]
        with self.precision.autocast():
            logits, self.state = self.learner.model(self.precision.place(ids[None]), self.state)
        return logits[0]


def _coding():
    """constriction's range coder and its model of a byte: the encoder, the decoder, the model."""
    try:
        from constriction import stream
    except ImportError:
        raise InputError("compressing needs the package constriction: pip install constriction") from None
    return stream.queue.RangeEncoder, stream.queue.RangeDecoder, stream.model.Categorical(perfect=False)


def _digest(content: bytes, n: int) -> bytes:
    return hashlib.sha256(content).digest()[:n]


def _of_model(model: SHARNN) -> bytes:
    digest = hashlib.sha256(str(model.max_context).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + to_host(tensor).contiguous().numpy().tobytes())
    return digest.digest()[:4]


def _machine(precision: Precision) -> str:
    threads = f"{torch.get_num_threads()} threads"
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{precision}, {threads}, PyTorch {torch.__version__}, numpy {np.__version__}, {processor}"


def _of_machine(precision: Precision) -> bytes:
    return _digest(_machine(precision).encode(), 4)
