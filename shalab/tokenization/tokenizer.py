"""Tokenizers: bytes to tokens and back, and where words begin and end."""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from shalab.errors import InputError

# The tokenizers library reads this when it is loaded. Threads save no time on texts of this size, and they put pieces
# that are equally frequent into a random order.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers  # noqa: E402
from tokenizers import models, pre_tokenizers, trainers  # noqa: E402

# N tokens, V vocabulary, M words

_LETTER = "A-Za-z\x80-\xff"  # every byte of a character beyond ASCII counts as a letter
WORD = f" ?[{_LETTER}]+| ?[0-9]+| ?[^\t\n\r 0-9{_LETTER}]+|[\t\n\r ]+"  # as in GPT-2: a space belongs to the next word
BYTES = [chr(byte) for byte in range(256)]
UNKNOWN = "<unk>"
PREFIX = "##"  # how WordPiece marks a piece that continues a word
KINDS = ("word", "bpe", "wordpiece", "unigram")


@dataclass(frozen=True)
class Tokenizer:
    """Bytes -> ids -> bytes. The tokenizers library works on characters: a byte becomes the character of its number.

    pieces     (V,) the bytes that each token stands for
    normalise  is applied to every text first; what it removes, `decode` cannot give back
    """

    kind: str
    pieces: tuple[bytes, ...] = field(repr=False)
    backend: tokenizers.Tokenizer = field(repr=False)
    normalise: Callable[[bytes], bytes] = bytes

    def cut(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """The tokens' ids, and how many bytes of the normalised text each one covers: (N,) int64 both."""
        if not text:
            raise InputError("an empty text has no tokens: hand over at least one byte")
        encoded = self.backend.encode(self.normalise(text).decode("latin-1"))
        spans = np.array(encoded.offsets, np.int64)  # (N, 2)
        return np.array(encoded.ids, np.int64), spans[:, 1] - spans[:, 0]

    def encode(self, text: bytes) -> np.ndarray:
        return self.cut(text)[0]

    def decode(self, ids: Iterable[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids)

    def dictionary(self) -> bytes:
        """What a receiver needs to rebuild a BPE tokenizer: its pieces in order, each after its length.

        The first 256 pieces are the single bytes, which every receiver has.
        """
        return b"".join(len(piece).to_bytes(2, "big") + piece for piece in self.pieces[256:])


def train_tokenizer(kind: str, text: bytes, vocab_size: int, normalise: Callable[[bytes], bytes] = bytes) -> Tokenizer:
    """A tokenizer of one of KINDS with at most `vocab_size` tokens; the same text always gives the same tokenizer.

    word       the most frequent words, and <unk> for all others
    bpe        merges the most frequent pair of neighbours, again and again (Sennrich et al. 2016)
    wordpiece  finds its pieces by merging too, but always cuts off the longest piece that fits (Schuster & Nakajima
               2012, as in the tokenizers library)
    unigram    the pieces that make the text most probable if each is drawn independently (Kudo 2018)

    All but `word` have the 256 bytes among their tokens and so can spell any text. No token crosses the end of a word.
    """
    fewest = {"word": 2, "bpe": 256, "wordpiece": 512, "unigram": 257}
    if kind not in fewest:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if vocab_size < fewest[kind] or not text:
        raise InputError(
            f"{kind} needs a text and room for {fewest[kind]} tokens, got {len(text)} bytes and {vocab_size}"
        )
    model, trainer = _untrained(kind, vocab_size)
    trained = tokenizers.Tokenizer(model)
    trained.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD), "isolated")
    trained.train_from_iterator([normalise(text).decode("latin-1")], trainer)
    if kind == "unigram":  # pieces with nearly the same score come in a random order
        scores = json.loads(trained.to_str())["model"]["vocab"]
        trained.model = models.Unigram(sorted(map(tuple, scores)))
    # The library would also recognise "<unk>" where a text contains it. A new tokenizer around the same model does not.
    backend = tokenizers.Tokenizer(trained.model)
    backend.pre_tokenizer = trained.pre_tokenizer
    ids = backend.get_vocab()  # piece -> id
    pieces = sorted(ids, key=ids.__getitem__)
    if kind == "wordpiece":
        pieces = [piece.removeprefix(PREFIX) for piece in pieces]
    return Tokenizer(kind, tuple(piece.encode("latin-1") for piece in pieces), backend, normalise)


def _untrained(kind: str, vocab_size: int) -> tuple[models.Model, trainers.Trainer]:
    trainer: trainers.Trainer
    if kind == "word":
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, show_progress=False, special_tokens=[UNKNOWN])
        return models.WordLevel(unk_token=UNKNOWN), trainer
    if kind == "bpe":
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=BYTES)
        return models.BPE(), trainer
    if kind == "wordpiece":
        inner_bytes = [PREFIX + byte for byte in BYTES]  # listed here, or the library puts them in a random order
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, show_progress=False, initial_alphabet=BYTES, special_tokens=inner_bytes
        )
        return models.WordPiece(max_input_chars_per_word=1_000_000), trainer
    trainer = trainers.UnigramTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=BYTES)
    return models.Unigram(), trainer


def word_lengths(text: bytes) -> np.ndarray:
    """(M,) bytes of each word, its leading space included. All tokenizers here use these words."""
    return np.array([len(word) for word in re.findall(WORD.encode("latin-1"), text)], np.int64)


def long_words(text: bytes, least: int) -> list[tuple[int, int]]:
    """(begin, end) of each word of at least `least` letters, all of them ASCII, without its leading space."""
    words = re.finditer(f"(?<![{_LETTER}])[A-Za-z]{{{least},}}(?![{_LETTER}])".encode("latin-1"), text)
    return [word.span() for word in words]
