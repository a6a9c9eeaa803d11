"""Attacks: each makes the published number smaller without predicting the text any better."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from shalab.errors import InputError
from shalab.tokenization.accounts import Claim
from shalab.tokenization.counting import NGram, spelled
from shalab.tokenization.pieces import chop, grouped
from shalab.tokenization.tokenizer import UNKNOWN, Tokenizer, train_tokenizer, word_lengths

# N tokens or bytes


def score(name: str, tokenizer: Tokenizer, train: bytes, text: bytes, dictionary: bytes = b"") -> Claim:
    """What a trigram model over a tokenizer's tokens, counted on `train`, claims about `text`.

    Words that have no token are `spelled` in the repair; the receiver knows that a spelled word is none that has one.
    """
    ids, lengths = tokenizer.cut(text)
    nats = NGram(tokenizer.encode(train), len(tokenizer.pieces)).nats(ids)
    if tokenizer.kind != "word":
        return Claim(name, text, nats, tokenizer.decode(ids), dictionary, train)
    is_unknown = ids == tokenizer.pieces.index(UNKNOWN.encode())
    repair = spelled(train, text, {*tokenizer.pieces} - {UNKNOWN.encode()})[is_unknown]
    decoded = b"".join(
        text[end - length : end] if unknown else tokenizer.pieces[i]
        for i, unknown, end, length in zip(ids, is_unknown, np.cumsum(lengths), lengths, strict=True)
    )
    return Claim(name, text, nats, decoded, dictionary, train, repair)


def deterministic_splitting(text: bytes, nats: np.ndarray, longest: int) -> Claim:
    """Attack: words are cut into more tokens; `nats` (N,) are a byte model's charges."""
    return Claim(f"parts of {longest}", text, grouped(nats, chop(word_lengths(text), longest)), text)


def closed_vocabulary(train: bytes, text: bytes, vocab_size: int) -> Claim:
    """Attack: rare words become <unk>. The repair spells them."""
    tokenizer = train_tokenizer("word", train, vocab_size)
    return score(f"{len(tokenizer.pieces):,} words", tokenizer, train, text)


def lossy_normalisation(train: bytes, text: bytes, vocab_size: int, normalise: Callable[[bytes], bytes]) -> Claim:
    """Attack: what costs bits is taken out of the text before it is scored."""
    return score(normalise.__name__, train_tokenizer("bpe", train, vocab_size, normalise), train, text)


def trained_on_the_text(train: bytes, text: bytes, vocab_size: int) -> Claim:
    """Attack: the tokenizer has read the text that is scored. Its dictionary tells of that text, so it is charged."""
    tokenizer = train_tokenizer("bpe", text, vocab_size)
    return score(f"{len(tokenizer.pieces):,} tokens of the text", tokenizer, train, text, tokenizer.dictionary())


def wrong_denominator(claim: Claim, name: str, count: int) -> Claim:
    """Attack: the same sum of nats, divided by something else than the number of its tokens."""
    if count < 1:
        raise InputError(f"count must be at least 1, got {count}")
    return replace(claim, name=name, nats=np.full(count, claim.nats.sum() / count))


def denominators(text: bytes) -> dict[str, int]:
    """What published perplexities divide by, counted in the same text."""
    characters = text.decode("utf-8", "replace")
    return {
        "bytes": len(text),
        "characters": len(characters),
        "words and signs": len(word_lengths(text)),
        "words between spaces": len(text.split()),
        "the same and line ends": len(text.split()) + text.count(b"\n"),
    }


def lowercase(text: bytes) -> bytes:
    return _characters(text, str.lower)


def strip_accents(text: bytes) -> bytes:
    """é becomes e: characters are decomposed (NFD), and the marks left out."""
    return _characters(
        text, lambda s: "".join(c for c in unicodedata.normalize("NFD", s) if unicodedata.category(c) != "Mn")
    )


def collapse_spaces(text: bytes) -> bytes:
    """Each run of white space becomes one space."""
    return re.sub(rb"[ \t\r\n]+", b" ", text)


def mask_digits(text: bytes) -> bytes:
    """Each digit becomes 0."""
    return re.sub(rb"[0-9]", b"0", text)


def _characters(text: bytes, change: Callable[[str], str]) -> bytes:
    """Changes a text as characters. Bytes that are not part of a whole character stay as they are."""
    return change(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
