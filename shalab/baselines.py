"""What a model is compared with: compressors, counting, and published results. Shown, never used to train."""

import bz2
import hashlib
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from shalab.bundled import stored_result
from shalab.corpus import Corpus
from shalab.kept import kept

BLOCK = 1 << 20  # bytes handed over at a time

# Bits per byte on enwik8's test split and parameters, by larger models and longer training than a laptop's.
PUBLISHED = (
    ("LSTM, 4 layers, no attention (Merity 2019)", 1.33, "51M"),
    ("SHA-RNN, one head (Merity 2019)", 1.076, "52M"),
    ("SHA-RNN, a head in every block (Merity 2019)", 1.068, "54M"),
    ("AWD-LSTM (Merity et al. 2018)", 1.232, "47M"),
    ("LSTM, tuned (Melis et al. 2019)", 1.195, "48M"),
    ("Mogrifier LSTM (Melis et al. 2019)", 1.146, "48M"),
    ("Transformer-XL, 12 layers (Dai et al. 2019)", 1.06, "41M"),
    ("Transformer-XL, 18 layers (Dai et al. 2019)", 1.03, "88M"),
    ("Adaptive Span Transformer (Sukhbaatar et al. 2019)", 1.02, "38M"),
    ("SRU++, base (Lei 2021)", 0.974, "108M"),
    ("SRU++, large (Lei 2021)", 0.953, "195M"),
)


@dataclass(frozen=True)
class Compressor:
    """A compressor, and how much it is given of what precedes a slice.

    start   makes a new stream
    given   bytes before the slice that it compresses first; for bzip2 the size of its block, slice included
    seen    how much of what precedes the slice it can use, in words
    blocks  whether it compresses each block as if nothing preceded it
    """

    start: Callable
    given: int
    seen: str
    blocks: bool = False


COMPRESSORS = {
    "gzip -9": Compressor(lambda: zlib.compressobj(9, wbits=31), 1 << 20, "the last 32 kB"),
    "bzip2 -9": Compressor(lambda: bz2.BZ2Compressor(9), 899_981, "the last 800 to 850 kB", blocks=True),
    "xz -9e": Compressor(
        lambda: lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME), 64 << 20, "all that precedes, up to 67 MB"
    ),
}
MEASURABLE = 2000  # bytes of a slice: there, one byte more in a compressed file changes the score by 0.004
PIECE = 100_000  # bytes of a slice that share one of bzip2's blocks with what precedes them


LARGE = 10_000_000  # bytes from which on the compressors take so long that a bar tells how far they are


def compressed_size(data: np.ndarray, compressor: str, tell: Callable[[int], object] = lambda n: None) -> int:
    """Bytes that (N,) uint8 data takes, compressed as a stream, so that memory does not grow with N.

    tell: called with the size of each block that has been read
    """
    stream, size = COMPRESSORS[compressor].start(), 0
    for begin in range(0, len(data), BLOCK):
        block = data[begin : begin + BLOCK].tobytes()
        size += len(stream.compress(block))
        tell(len(block))
    return size + len(stream.flush())


def compressor_bpc(
    data: np.ndarray, begin: int, end: int, compressor: str, tell: Callable[[int], object] = lambda n: None
) -> float:
    """Bits per byte of data[begin:end] given what precedes it, as far as the compressor can look back.

    What it compresses is prefix and slice together, and the prefix alone; the difference is the slice's price. bzip2
    gets the slice in pieces, each in one block with as much of what precedes it as fits. A somewhat shorter prefix
    changes its score by up to 0.05 on enwik6, in either direction.
    """
    n_added = 0
    for start, low, high in _pieces(data, begin, end, compressor):
        n_added += compressed_size(data[start:high], compressor, tell)
        n_added -= compressed_size(data[start:low], compressor, tell)
    return 8 * n_added / (end - begin)


def _pieces(data: np.ndarray, begin: int, end: int, compressor: str) -> list[tuple[int, int, int]]:
    """start, low, high of each: data[start:low] precedes what is charged, data[low:high]."""
    method = COMPRESSORS[compressor]
    if not method.blocks:
        return [(max(0, begin - method.given), begin, end)]
    bounds = [(low, min(low + PIECE, end)) for low in range(begin, end, PIECE)]
    return [(_block_start(data, high, method.given), low, high) for low, high in bounds]


def _block_start(data: np.ndarray, end: int, n_block: int) -> int:
    """Where the longest part of data[:end] begins that fits into one of bzip2's blocks.

    Before bzip2 fills a block it writes, after the first four of four or more equal bytes, how many more there are: so
    each such run takes a byte more.
    """
    start = max(0, end - n_block)
    same = data[start + 1 : end] == data[start : end - 1]
    four = same[2:] & same[1:-1] & same[:-2]  # whether four equal bytes begin here
    n_runs = int(four[:1].sum() + (four[1:] & ~four[:-1]).sum())
    return max(0, end - n_block + n_runs)


def unigram_bpc(data: np.ndarray, begin: int, end: int) -> float:
    """Bits per byte of data[begin:end] under the byte frequencies of data[:begin], one added to each count."""
    counts = _histogram(data[:begin]) + 1
    bits = -np.log2(counts / counts.sum())
    return float(_histogram(data[begin:end]) @ bits) / (end - begin)


def _histogram(data: np.ndarray) -> np.ndarray:
    """(256,) counts. Block by block, since numpy widens what it counts to 64 bits."""
    counts = np.zeros(256, np.int64)
    for begin in range(0, len(data), BLOCK):
        counts += np.bincount(data[begin : begin + BLOCK], minlength=256)
    return counts


def baselines(data: np.ndarray, bounds: dict[str, tuple[int, int]]) -> dict[str, tuple[float, float]]:
    """Name -> (valid, test) bits per byte: uniform, unigram, gzip, bzip2, xz.

    Minutes for enwik8, with a bar, but only once: the scores are kept in the cache folder. Splits of less than
    MEASURABLE bytes are too short to compare compressors, whose files grow by whole bytes.
    """
    key = {
        "sha256": hashlib.sha256(np.ascontiguousarray(data).data).hexdigest(),
        "bounds": [bounds["valid"], bounds["test"]],
        "compressors": {name: [method.given, method.blocks, _version(name)] for name, method in COMPRESSORS.items()},
        "piece": PIECE,
        "measurable": MEASURABLE,
    }
    found = kept("baselines", key, lambda: _baselines(data, bounds["valid"], bounds["test"]))
    return {name: (valid, test) for name, (valid, test) in found.items()}


def _version(compressor: str) -> str:
    """Tells one version of a compressor from another that compresses differently; Python knows the number of zlib's."""
    stream = COMPRESSORS[compressor].start()
    sample = b"".join(b"%d %d\n" % (n, n * n % 97) for n in range(5000))
    return hashlib.sha256(stream.compress(sample) + stream.flush()).hexdigest()[:16]


def _baselines(data: np.ndarray, *splits: tuple[int, int]) -> dict[str, list[float]]:
    found = {"uniform": [8.0 for _ in splits], "unigram": [unigram_bpc(data, *split) for split in splits]}
    if min(end - begin for begin, end in splits) < MEASURABLE:
        return found
    pieces = [piece for name in COMPRESSORS for split in splits for piece in _pieces(data, *split, name)]
    n_bytes = sum(high - start + low - start for start, low, high in pieces)
    with tqdm(total=n_bytes, unit="B", unit_scale=True, mininterval=1, disable=len(data) < LARGE) as bar:
        for name in COMPRESSORS:
            bar.set_description(name)
            found[name] = [compressor_bpc(data, *split, name, bar.update) for split in splits]
    return found


def archivers(corpus: Corpus) -> dict[str, tuple[float, float]]:
    """Name -> (valid, test) bits per byte of stronger archivers, from a stored result.

    Empty for all texts but enwik6 and notebook 10's tune book.
    """
    for name in ("archivers", "tune_book"):
        stored = stored_result(name)
        if corpus.sha256 == stored["data_sha256"]:
            return {name: tuple(row["bpc"]) for name, row in stored["archivers"].items()}
    return {}
