"""The network's prediction mixed with counts of what followed the same bytes earlier in the text.

A network with fixed weights forgets a name that returns after a megabyte; counting does not. Three predictions of the
next byte are mixed: the network's, that of the counts alone, and the network's as corrected by long contexts. The
weights of the mixture are learned while reading, from each byte after it has been charged.
"""

import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from shalab.device import Precision, to_host
from shalab.evaluate import predictions
from shalab.metrics import bits_per_byte
from shalab.model import SHARNN

ORDERS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 24)  # bytes of context that are looked up
LONG = 7  # from this place in ORDERS on, counts correct the network's prediction
TABLE = 1 << 20  # places per order in which the last position of a context is kept
LATEST = 32  # occurrences of a context that are looked at, the newest first; COMMON of those of one and two bytes
COMMON = 256
HISTORY = 1 << 24  # bytes of which it is known where their contexts occurred before, so that memory has a limit
LR = 0.003  # of the mixture's weights
PARTS = ("network", "counts", "network and long contexts")


@dataclass(frozen=True)
class Found:
    """What followed earlier occurrences of the last `ORDERS[place]` bytes."""

    place: int
    symbols: np.ndarray  # (U,) the different bytes
    counts: np.ndarray  # (U,) how often each came, half a count more for the newest
    n: int  # occurrences that were looked at


class Contexts:
    """Where each context occurred in a text of known length, of which some has been read.

    A context is found by a checksum of its bytes and compared byte by byte, so that two of one checksum are never
    taken for each other. Several readers may fill the text from different places; all look up in the same tables.
    """

    def __init__(self, n_bytes: int):
        self.text = bytearray(n_bytes)
        kind = "i" if n_bytes < 1 << 31 else "q"
        self.newest = [array(kind, [-1]) * TABLE for _ in ORDERS]  # by checksum: where such a context last ended
        # By place: where one of that checksum ended before. Places further apart than HISTORY share an entry.
        self.before = [array(kind, [-1]) * min(n_bytes, HISTORY) for _ in ORDERS]

    def add(self, place: int, byte: int, begin: int = 0) -> None:
        """`byte` has been read at `place`, by a reader who started at `begin`."""
        for order, newest, before in zip(ORDERS, self.newest, self.before, strict=True):
            if place - begin < order:
                break
            key = zlib.crc32(self.text[place - order : place]) % TABLE
            before[place % HISTORY], newest[key] = newest[key], place
        self.text[place] = byte

    def look(self, place: int, begin: int = 0) -> list[Found]:
        """What followed the contexts that end before `place`, from the shortest to the longest that occurred."""
        found: list[Found] = []
        text = self.text
        for i, order in enumerate(ORDERS):
            if place - begin < order:
                break
            context = text[place - order : place]
            earlier = self.newest[i][zlib.crc32(context) % TABLE]
            before, n = self.before[i], 0
            counts: dict[int, float] = {}
            limit = COMMON if order < 3 else LATEST
            for _ in range(4 * limit):  # also where other contexts share the checksum
                if earlier < 0 or n == limit:
                    break
                if text[earlier - order : earlier] == context:
                    symbol = text[earlier]
                    counts[symbol] = counts.get(symbol, 0.0) + (1.0 if n else 1.5)
                    n += 1
                earlier = before[earlier % HISTORY]
            if not n:
                break
            found.append(Found(i, np.array(list(counts)), np.array(list(counts.values())), n))
        return found


class Mixer:
    """Three predictions of the next byte, mixed by weights that are learned while reading.

    The mixture is p(s) proportional to the product of p_i(s)^w_i, with weights w of its own for each length of the
    longest context that was found (Mahoney 2005, here for whole bytes). A byte has to be predicted before it is
    learned from.

    n_bytes: of the text, all that will be predicted or only learned from
    """

    def __init__(self, n_bytes: int):
        self.contexts = Contexts(n_bytes)
        self.weights = np.full((len(ORDERS) + 1, len(PARTS)), 1 / len(PARTS))
        self.seen_before: dict[tuple, tuple[float, float]] = {}
        self._last: dict[int, tuple[list[Found], np.ndarray, np.ndarray]] = {}

    def predict(self, place: int, network: np.ndarray, begin: int = 0) -> np.ndarray:
        """network (V,), its probabilities of the byte at `place` -> the mixture's, (V,) float64, that sum to 1"""
        found = self.contexts.look(place, begin)
        network = network.astype(np.float64)
        counted = self._corrected(np.full(len(network), 1 / len(network)), found, 0)
        corrected = self._corrected(network, found, LONG)
        parts = np.log(np.stack([network, counted, corrected]) + 1e-7)  # (3, V)
        mixed = self.weights[len(found)] @ parts
        mixed = np.exp(mixed - mixed.max())
        mixed = mixed / mixed.sum()
        self._last[place] = found, parts, mixed
        return mixed

    def learn(self, place: int, byte: int, begin: int = 0) -> np.ndarray:
        """`byte` came at a place that was predicted -> what each part would have charged for it, nats (3,)"""
        found, parts, mixed = self._last.pop(place)
        for first in (0, LONG):
            for entry in found[first:]:
                key = self._key(entry, first)
                hits, tries = self.seen_before.get(key, (0.5, 1.0))
                hits, tries = hits + (byte in entry.symbols), tries + 1
                self.seen_before[key] = (hits / 2, tries / 2) if tries > 400 else (hits, tries)
        self.weights[len(found)] += LR * (parts[:, byte] - parts @ mixed)  # the gradient of ln p(byte)
        self.contexts.add(place, byte, begin)
        return -parts[:, byte]

    def _corrected(self, p: np.ndarray, found: list[Found], first: int) -> np.ndarray:
        """p (V,) corrected by ever longer contexts: the bytes that followed one share what such contexts have earned.

        How much of the probability bytes that were seen before deserve is learned, for each order, number of different
        bytes and number of occurrences.
        """
        for entry in found[first:]:
            hits, tries = self.seen_before.get(self._key(entry, first), (0.5, 1.0))
            share = min(max(hits / tries, 1e-4), 1 - 1e-6)
            seen = p[entry.symbols]
            rest = p * ((1 - share) / max(1 - seen.sum(), 1e-9))
            rest[entry.symbols] = share * (entry.counts + 2 * seen / seen.sum()) / (entry.counts.sum() + 2)
            p = rest / rest.sum()
        return p

    @staticmethod
    def _key(entry: Found, first: int) -> tuple[int, int, int, int]:
        return first, entry.place, min(len(entry.symbols), 6), min(entry.n.bit_length(), 6)


def mixed_charges(
    data: np.ndarray, begin: int, end: int, network: Iterator[np.ndarray]
) -> Iterator[tuple[float, np.ndarray]]:
    """Nats of each byte `begin` to `end` of (N,) uint8 data: the mixture's, and each part's (3,).

    The counts know all bytes before `begin`, the last HISTORY of them; nobody has mixed yet.

    network: for each of these bytes its probabilities (V,) by the network, which has read no byte after it
    """
    start = max(0, begin - HISTORY)
    mixer = Mixer(end - start)
    for place in range(start, begin):
        mixer.contexts.add(place - start, int(data[place]))
    for place, probabilities in zip(range(begin, end), network, strict=True):
        byte = int(data[place])
        price = -float(np.log(mixer.predict(place - start, probabilities)[byte]))
        yield price, mixer.learn(place - start, byte)


def network_predictions(*reading, **options) -> Iterator[np.ndarray]:
    """The network's probabilities (V,) of each byte that `evaluate.predictions` reads in one stream."""
    for logits, _, _ in predictions(*reading, **options):
        yield from to_host(logits[:, 0].float()).double().softmax(-1).numpy()


def mixed_evaluate(
    model: SHARNN, data: np.ndarray, begin: int, end: int, precision: Precision, **reading: int | None
) -> tuple[float, list[float]]:
    """Bits per byte of data[begin:end] by the mixture, and by each of PARTS alone; `begin` is at least 1.

    reading: window and context of `evaluate.predictions`
    """
    network = network_predictions(model, data, begin, end, precision, **reading)
    charged = tqdm(mixed_charges(data, begin, end, network), total=end - begin, unit="B", mininterval=1, leave=False)
    nats, parts = zip(*charged, strict=True)
    n_bytes = end - begin
    return bits_per_byte(sum(nats), n_bytes), [bits_per_byte(part, n_bytes) for part in np.sum(parts, 0).tolist()]
