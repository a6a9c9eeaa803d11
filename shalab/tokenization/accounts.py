"""Accounts: what a result claims a text costs, and who pays for which byte when the text has to come back in full."""

import copy
import lzma
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from shalab.errors import InputError
from shalab.metrics import NATS_PER_BIT, bits_per_byte, perplexity

# N tokens, V vocabulary, R symbols of a repair


@dataclass(frozen=True)
class Claim:
    """What a table would publish about one text, and what is needed to check it.

    text        the raw bytes that were to be predicted
    nats        (N,) what the model charged for each token
    decoded     the text that the tokens and the repair give back
    dictionary  what the receiver must be sent because it was made from the text itself
    known       what the receiver has already: the training text
    repair      (R,) what a model charged for the symbols that restore what the tokens leave out
    """

    name: str
    text: bytes = field(repr=False)
    nats: np.ndarray = field(repr=False)
    decoded: bytes = field(repr=False)
    dictionary: bytes = field(default=b"", repr=False)
    known: bytes = field(default=b"", repr=False)
    repair: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def perplexity(self) -> float:
        return perplexity(self.nats.sum(), len(self.nats))

    @property
    def claimed_bits_per_byte(self) -> float:
        """The tokens' bits alone, over the bytes of the raw text."""
        return bits_per_byte(self.nats.sum(), len(self.text))

    def bits(self) -> dict[str, float]:
        """All the bits that a receiver needs to restore the raw text. A better code might need fewer for some parts.

        tokens      what the model charged
        dictionary  compressed, for a receiver who has `known`
        repair      what a model charged for it; if the text is still not restored, also the text itself, compressed for
                    a receiver who has `known` and `decoded`
        length      the number of tokens (Elias 1975); if it were free, the number alone could carry the text
        """
        repair = float(self.repair.sum()) / NATS_PER_BIT
        if self.decoded != self.text:
            repair += _bits_after(self.known + self.decoded, self.text)
        return {
            "tokens": float(self.nats.sum()) / NATS_PER_BIT,
            "dictionary": _bits_after(self.known, self.dictionary) if self.dictionary else 0.0,
            "repair": repair,
            "length": _elias(len(self.nats)),
        }


def honest_bits_per_byte(claim: Claim) -> float:
    """Tokens, dictionary, repair and length together, over the bytes of the raw text."""
    return sum(claim.bits().values()) / len(claim.text)


def verified_nats(predict: Callable[[tuple[int, ...]], np.ndarray], ids: Sequence[int]) -> np.ndarray:
    """(N,) what somebody else's model charges for tokens, each predicted from the ids before it and nothing else.

    predict: ids so far -> (V,) probabilities. Raises InputError where they are negative, sum to more than 1, or give
    the token that came no probability.
    """
    ids = tuple(map(int, ids))
    nats = []
    for place, token in enumerate(ids):
        p = np.asarray(predict(ids[:place]), float)
        if p.ndim != 1 or not 0 <= token < len(p):
            raise InputError(f"expected (V,) probabilities with V above {token} at token {place}, got shape {p.shape}")
        if not (p >= 0).all() or p.sum() > 1 + 1e-6:
            raise InputError(
                f"expected probabilities from 0 that sum to 1 at token {place}, got a sum of {p.sum():.6g}: normalise"
            )
        if p[token] == 0:
            raise InputError(f"token {place} was given probability 0 and came: leave some for every token")
        nats.append(-np.log(p[token]))
    return np.array(nats)


def judge(attack, text: bytes, known: bytes = b"") -> Claim:
    """What somebody else's tokenizer and model claim about a text that they have not seen.

    attack: encode(bytes) -> ids, decode(ids) -> bytes, predict(ids so far) -> (V,) probabilities, and `dictionary`,
    bytes, if it needs one. A copy of the object, made before it sees the text, plays the receiver: it decodes and
    predicts. What the attack writes to its class or to global variables reaches the copy too, and is not caught.
    known: the training text, which helps to compress a repair or a dictionary.
    """
    receiver = copy.deepcopy(attack)
    ids = attack.encode(text)
    dictionary = getattr(attack, "dictionary", b"")
    nats = verified_nats(receiver.predict, ids)
    return Claim(type(attack).__name__, text, nats, receiver.decode(ids), dictionary, known)


def table(claims: Iterable[Claim]) -> str:
    """One line for each claim: what would be published, and what the text really takes."""
    lines = [f"{'':<26}{'tokens':>8}{'perplexity':>12}{'claimed':>9}{'honest':>8}  bits per byte; kept quiet"]
    for claim in claims:
        bits = claim.bits()
        kept_quiet = ", ".join(
            f"{name} {bits[name] / len(claim.text):.2f}" for name in ("dictionary", "repair") if bits[name]
        )
        lines.append(
            f"{claim.name:<26}{len(claim.nats):>8,}{claim.perplexity:>12,.2f}{claim.claimed_bits_per_byte:>9.3f}"
            f"{honest_bits_per_byte(claim):>8.3f}  {kept_quiet}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _bits_after(known: bytes, data: bytes) -> float:
    """Bits of `data` for a receiver who has `known`, by xz's algorithm.

    The receiver compresses `known` too, and so has how the stream of both begins. What must be sent is how much of that
    beginning is right, and all that follows.
    """
    had, stream = _lzma(known), _lzma(known + data)
    same = len(os.path.commonprefix([had, stream]))
    return _elias(len(had) - same + 1) + 8.0 * (len(stream) - same)


@lru_cache(maxsize=32)
def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE, preset=6 | lzma.PRESET_EXTREME)  # up to 8 MB the same as xz -9e


def _elias(n: int) -> float:
    """Bits of a whole number from 1 (Elias 1975)."""
    return 2.0 * n.bit_length() - 1
