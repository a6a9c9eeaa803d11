"""What a model is compared with: compressors, counting, and published results. For display only."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 1 << 20

# Bits per byte on enwik8's test split and parameters, by larger models and longer training than a laptop's.
PUBLISHED = (
    ("LSTM, 4 layers, no attention (Merity 2019)", 1.33, "51M"),
    ("SHA-RNN, one head (Merity 2019)", 1.076, "52M"),
    ("SHA-RNN, a head in every block (Merity 2019)", 1.068, "54M"),
    ("AWD-LSTM (Merity et al. 2018)", 1.232, "47M"),
    ("Transformer-XL, 12 layers (Dai et al. 2019)", 1.06, "41M"),
    ("Transformer-XL, 18 layers (Dai et al. 2019)", 1.03, "88M"),
    ("Adaptive Span Transformer (Sukhbaatar et al. 2019)", 1.02, "38M"),
)

COMPRESSORS: dict[str, Callable] = {
    "gzip -9": lambda: zlib.compressobj(9, wbits=31),
    "bzip2 -9": lambda: bz2.BZ2Compressor(9),
    "xz -9e": lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME),
}


def compressed_size(data: np.ndarray, compressor: str) -> int:
    """Bytes that (N,) uint8 data takes, compressed as a stream, so that memory does not grow with N."""
    stream = COMPRESSORS[compressor]()
    blocks = (data[begin : begin + BLOCK].tobytes() for begin in range(0, len(data), BLOCK))
    return sum(len(stream.compress(block)) for block in blocks) + len(stream.flush())


def compressor_bpc(data: np.ndarray, bounds: list[int], compressor: str) -> Iterator[float]:
    """Bits per byte of each slice bounds[i]:bounds[i + 1] *given all bytes before it*.

    That is the size of prefix and slice together less the size of the prefix, so that a compressor has
    seen what the model has seen.
    """
    before = compressed_size(data[: bounds[0]], compressor)
    for begin, end in zip(bounds, bounds[1:], strict=False):
        size = compressed_size(data[:end], compressor)
        yield 8 * (size - before) / (end - begin)
        before = size


def unigram_bpc(data: np.ndarray, begin: int, end: int) -> float:
    """Bits per byte of data[begin:end] under the byte frequencies of data[:begin], one added to each count."""
    counts = _histogram(data[:begin]) + 1
    bits = -np.log2(counts / counts.sum())
    return float(_histogram(data[begin:end]) @ bits) / (end - begin)


def _histogram(data: np.ndarray) -> np.ndarray:
    """(256,) counts, block by block: numpy would widen the whole file to 64 bits."""
    return sum(np.bincount(data[i : i + BLOCK], minlength=256) for i in range(0, len(data), BLOCK))


def baselines(data: np.ndarray, bounds: dict[str, tuple[int, int]]) -> dict[str, tuple[float, float]]:
    """Name -> (valid, test) bits per byte: uniform, unigram, gzip, bzip2, xz."""
    (begin, middle), (_, end) = bounds["valid"], bounds["test"]
    result = {
        "uniform": (8.0, 8.0),
        "unigram": (unigram_bpc(data, begin, middle), unigram_bpc(data, middle, end)),
    }
    for compressor in COMPRESSORS:
        result[compressor] = tuple(compressor_bpc(data, [begin, middle, end], compressor))
    return result
