"""A model that only counts: what followed which tokens, and how often. It works with any tokenizer."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import numpy as np

from shalab.errors import InputError
from shalab.tokenization.pieces import grouped
from shalab.tokenization.tokenizer import word_lengths

# N tokens or bytes, V vocabulary, M words

END = 256  # the end of a word, where words are spelled byte by byte


class NGram:
    """Interpolated n-gram model over token ids (Witten & Bell 1991).

    p(token | context) mixes what followed the context in training with p(token | context without its first token).
    Where no context is left, all V tokens are equally probable, so nothing is impossible.
    """

    def __init__(self, ids: Iterable[int], vocab_size: int, order: int = 3):
        if vocab_size < 1 or order < 1:
            raise InputError(f"vocab_size and order must be at least 1, got {vocab_size} and {order}")
        ids = list(map(int, ids))
        self.vocab_size, self.order = vocab_size, order
        # context -> how often each token followed
        self._followers: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for place, token in enumerate(ids):
            for n in range(min(order, place + 1)):
                self._followers[tuple(ids[place - n : place])][token] += 1
        self._totals = {context: counts.total() for context, counts in self._followers.items()}

    def probability(self, token: int, context: Sequence[int] = ()) -> float:
        p = 1 / self.vocab_size
        for n in range(min(self.order, len(context) + 1)):
            nearest = tuple(context[len(context) - n :])
            followers = self._followers.get(nearest)
            if followers is None:  # then no longer context was seen either
                break
            p = (followers[token] + len(followers) * p) / (self._totals[nearest] + len(followers))
        return p

    def predict(self, context: Sequence[int]) -> np.ndarray:
        """(V,) probabilities of the token after `context`."""
        return np.array([self.probability(token, context) for token in range(self.vocab_size)])

    def nats(self, ids: Iterable[int]) -> np.ndarray:
        """(N,) the charge of each token given those before it."""
        ids = list(map(int, ids))
        contexts = (ids[max(0, place - self.order + 1) : place] for place in range(len(ids)))
        return -np.log([self.probability(token, context) for token, context in zip(ids, contexts, strict=True)])


def with_ends(text: bytes) -> np.ndarray:
    """(N + M,) the bytes of a text, and END after each word."""
    return np.insert(np.frombuffer(text, np.uint8).astype(np.int64), np.cumsum(word_lengths(text)), END)


@lru_cache(maxsize=1)
def speller(train: bytes) -> NGram:
    """A model of bytes that also predicts where a word ends, counted on `train`.

    Order 5 is the best of 4 to 7 on the last 20,000 bytes of the notebook's training text, counted on the rest.
    """
    return NGram(with_ends(train), 257, order=5)


def spelled(train: bytes, text: bytes, known: Iterable[bytes] = ()) -> np.ndarray:
    """(M,) what it costs, in nats, to spell each word after all of the text before it.

    known: words that the receiver knows will not be spelled. Their probability is shared among all others, which so
    become cheaper; they themselves get NaN.
    """
    model, ids, lengths, known = speller(train), with_ends(text).tolist(), word_lengths(text) + 1, set(known)
    next_bytes = defaultdict(set)  # beginning of a known word -> the bytes that known words have next
    for word in known:
        for place, token in enumerate((*word, END)):
            next_bytes[word[:place]].add(token)

    @cache
    def known_word_follows(begun: bytes, context: tuple[int, ...]) -> float:
        """The probability that a word which has begun like this becomes a known one."""
        return sum(
            model.probability(token, context)
            * (1 if token == END else known_word_follows(begun + bytes([token]), (*context, token)[1 - model.order :]))
            for token in sorted(next_bytes[begun])
        )

    nats = grouped(model.nats(ids), lengths)
    for place, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        begin = end - length
        if bytes(ids[begin : end - 1]) in known:
            nats[place] = np.nan
        else:
            nats[place] += np.log(1 - known_word_follows(b"", tuple(ids[max(0, begin - model.order + 1) : begin])))
    return nats
