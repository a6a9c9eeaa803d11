"""Tokenizations, what can be gained by choosing one, and what a text costs honestly.

A text is bytes. A tokenizer cuts it into tokens, a model charges -ln p(token | all tokens before it), and the number
that is published divides by a count of something. Every attack here changes what is published without predicting the
text better; `honest_bits_per_byte` is the defence.
"""

import copy
import json
import lzma
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

import numpy as np

from shalab.errors import InputError
from shalab.metrics import NATS_PER_BIT, bits_per_byte, perplexity

# Read when the library is loaded. Threads gain nothing on texts of this size, and make the order of equals random.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers  # noqa: E402
from tokenizers import models, pre_tokenizers, trainers  # noqa: E402

# N tokens or bytes, V vocabulary

_LETTER = "A-Za-z\x80-\xff"  # every byte of a character beyond ASCII counts as a letter
WORD = f" ?[{_LETTER}]+| ?[0-9]+| ?[^\t\n\r 0-9{_LETTER}]+|[\t\n\r ]+"  # as in GPT-2, for bytes: a space leads its word
BYTES = [chr(byte) for byte in range(256)]
UNKNOWN = "<unk>"
END = 256  # of a word, where bytes are spelled
PREFIX = "##"  # WordPiece's sign of a piece that goes on with a word
KINDS = ("word", "bpe", "wordpiece", "unigram")


@dataclass(frozen=True)
class Tokenizer:
    """Bytes -> ids -> bytes. A byte is handed to the tokenizers library as the character of the same number.

    pieces     (V,) the bytes that each token stands for
    normalise  what is done to a text first; where that loses something, so does the round trip
    """

    kind: str
    pieces: tuple[bytes, ...] = field(repr=False)
    backend: tokenizers.Tokenizer = field(repr=False)
    normalise: Callable[[bytes], bytes] = bytes

    def cut(self, text: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the tokens, and how many bytes of the normalised text each one covers: (N,) int64 both."""
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
        """BPE's pieces in order, each after its length: with the 256 bytes that come first and that every receiver has,
        all that makes the tokenizer again."""
        return b"".join(len(piece).to_bytes(2, "big") + piece for piece in self.pieces[256:])


def train_tokenizer(kind: str, text: bytes, vocab_size: int, normalise: Callable[[bytes], bytes] = bytes) -> Tokenizer:
    """A tokenizer of one of KINDS with at most `vocab_size` tokens, the same for the same text.

    word       the most frequent words, and <unk> for all others
    bpe        the most frequent neighbours are merged, again and again (Sennrich et al. 2016)
    wordpiece  pieces are found by merging too, but a word is cut by taking the longest that fits (Schuster & Nakajima
               2012, as in the tokenizers library)
    unigram    the pieces that make the text most probable if each is drawn by itself (Kudo 2018)

    All but `word` hold the 256 bytes, so that they can spell every text; none has a token that crosses a word's end.
    """
    fewest = {"word": 2, "bpe": 256, "wordpiece": 512, "unigram": 257}
    if kind not in fewest:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if vocab_size < fewest[kind] or not text:
        raise InputError(
            f"{kind} needs a text and room for {fewest[kind]} tokens, got {len(text)} bytes and {vocab_size}"
        )
    common = {"vocab_size": vocab_size, "show_progress": False}
    goes_on = [PREFIX + byte for byte in BYTES]  # named here, for otherwise their order would be random
    model, trainer = {
        "word": lambda: (
            models.WordLevel(unk_token=UNKNOWN),
            trainers.WordLevelTrainer(special_tokens=[UNKNOWN], **common),
        ),
        "bpe": lambda: (models.BPE(), trainers.BpeTrainer(initial_alphabet=BYTES, **common)),
        "wordpiece": lambda: (
            models.WordPiece(max_input_chars_per_word=1_000_000),
            trainers.WordPieceTrainer(initial_alphabet=BYTES, special_tokens=goes_on, **common),
        ),
        "unigram": lambda: (models.Unigram(), trainers.UnigramTrainer(initial_alphabet=BYTES, **common)),
    }[kind]()
    trained = tokenizers.Tokenizer(model)
    trained.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(WORD), "isolated")
    trained.train_from_iterator([normalise(text).decode("latin-1")], trainer)
    if kind == "unigram":  # pieces of nearly the same score come in random order
        scores = json.loads(trained.to_str())["model"]["vocab"]
        trained.model = models.Unigram(sorted(map(tuple, scores)))
    # Special tokens would be found within a text; a new tokenizer around the same model has none.
    backend = tokenizers.Tokenizer(trained.model)
    backend.pre_tokenizer = trained.pre_tokenizer
    pieces = (backend.id_to_token(i) for i in range(backend.get_vocab_size()))
    goes_on_sign = PREFIX if kind == "wordpiece" else ""
    return Tokenizer(
        kind, tuple(piece.removeprefix(goes_on_sign).encode("latin-1") for piece in pieces), backend, normalise
    )


class NGram:
    """Interpolated n-gram model over token ids (Witten & Bell 1991), of use for any tokenization.

    p(token | context) mixes what followed the context in training with p(token | context without its first token);
    the shortest context of all knows only that there are V tokens, so nothing is impossible.
    """

    def __init__(self, ids: Sequence[int], vocab_size: int, order: int = 3):
        if vocab_size < 1 or order < 1:
            raise InputError(f"vocab_size and order must be at least 1, got {vocab_size} and {order}")
        ids = list(map(int, ids))
        self.vocab_size, self.order = vocab_size, order
        self._followers = defaultdict(Counter)  # context -> how often each token followed
        for place, token in enumerate(ids):
            for n in range(min(order, place + 1)):
                self._followers[tuple(ids[place - n : place])][token] += 1
        self._totals = {context: row.total() for context, row in self._followers.items()}

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

    def nats(self, ids: Sequence[int]) -> np.ndarray:
        """(N,) the charge of each token given those before it."""
        ids = list(map(int, ids))
        contexts = (ids[max(0, place - self.order + 1) : place] for place in range(len(ids)))
        return -np.log([self.probability(token, context) for token, context in zip(ids, contexts, strict=True)])


@dataclass(frozen=True)
class Claim:
    """What a table would publish about one text, and what is needed to check it.

    text        the raw bytes that were to be predicted
    nats        (N,) what the model charged for each token
    decoded     what the tokens and the repair give back
    dictionary  what the receiver has to be told because it was made from the text itself
    known       what the receiver has read already: the training text
    repair      (R,) what a model charged for the symbols that put back what the tokens leave out
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
        """All that a receiver must get to have the raw text again, in bits. Cleverly written, some may take less.

        tokens      what the model charged
        dictionary  compressed, given what is known
        repair      what a model charged for it, and where that does not give the text back, the text compressed, given
                    what is known and decoded
        length      how many tokens there are (Elias 1975), or the number alone could carry the text
        """
        whole = self.decoded == self.text
        repair = float(self.repair.sum()) / NATS_PER_BIT
        return {
            "tokens": float(self.nats.sum()) / NATS_PER_BIT,
            "dictionary": _bits_after(self.known, self.dictionary) if self.dictionary else 0.0,
            "repair": repair if whole else repair + _bits_after(self.known + self.decoded, self.text),
            "length": _elias(len(self.nats)),
        }


def honest_bits_per_byte(claim: Claim) -> float:
    """Bits per byte of the raw text after the round trip: tokens, dictionary, repair and length together."""
    return sum(claim.bits().values()) / len(claim.text)


def verified_nats(predict: Callable[[tuple[int, ...]], np.ndarray], ids: Sequence[int]) -> np.ndarray:
    """(N,) charges of tokens by a stranger's model, which sees only the ids before each one.

    predict: ids so far -> (V,) probabilities. Raises InputError where they are negative, sum to more than 1, or
    leave no chance for the token that came.
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
    """What a stranger's tokenizer and model claim about a text that they have not seen.

    attack: encode(bytes) -> ids, decode(ids) -> bytes, predict(ids so far) -> (V,) probabilities, and a dictionary in
    bytes if it needs one. The receiver, who decodes and predicts, is a copy of the object made before the text was
    shown; what the attack writes on its class or into globals is shared with the copy, and is not caught.
    known: what a repair or a dictionary may be compressed with, the training text.
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
        extra = {
            name: bits / len(claim.text) for name, bits in claim.bits().items() if name in ("dictionary", "repair")
        }
        quiet = ", ".join(f"{name} {bits:.2f}" for name, bits in extra.items() if bits)
        lines.append(
            f"{claim.name:<26}{len(claim.nats):>8,}{claim.perplexity:>12,.2f}{claim.claimed_bits_per_byte:>9.3f}"
            f"{honest_bits_per_byte(claim):>8.3f}  {quiet}"
        )
    return "\n".join(line.rstrip() for line in lines)


def grouped(nats: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(N,) charges of bytes -> (M,) charges of the pieces that cover `lengths` (M,) of them, by the chain rule."""
    if len(lengths) == 0 or min(lengths) < 1 or sum(lengths) != len(nats):
        raise InputError(f"expected lengths of at least 1 that sum to {len(nats)}, got {sum(lengths)}")
    return np.add.reduceat(nats, np.cumsum(lengths) - lengths)


def word_lengths(text: bytes) -> np.ndarray:
    """(M,) bytes of each word as all tokenizers here see it, its leading space included."""
    return np.array([len(word) for word in re.findall(WORD.encode("latin-1"), text)], np.int64)


def long_words(text: bytes, least: int) -> list[tuple[int, int]]:
    """(begin, end) of each word of at least `least` letters, all ASCII, without the space that leads it."""
    words = re.finditer(f"(?<![{_LETTER}])[A-Za-z]{{{least},}}(?![{_LETTER}])".encode("latin-1"), text)
    return [word.span() for word in words]


@lru_cache(maxsize=1)
def speller(train: bytes) -> NGram:
    """A model of bytes, counted on `train`, that says where a word ends, too.

    Of orders 4 to 7 this one costs least on the last 20,000 bytes of the notebook's training text, counted on the rest.
    """
    return NGram(with_ends(train), 257, order=5)


def spelled(train: bytes, text: bytes, known: Iterable[bytes] = ()) -> np.ndarray:
    """(M,) nats of each word if the `speller` spells it, after all of the text before the word.

    known: words that the receiver knows it is not, so that the others share their probability. They get NaN.
    """
    model, ids, lengths, known = speller(train), with_ends(text).tolist(), word_lengths(text) + 1, set(known)
    following = defaultdict(set)  # how a known word goes on after each of its beginnings
    for word in known:
        for place, token in enumerate((*word, END)):
            following[word[:place]].add(token)

    @cache
    def excluded(begun: bytes, context: tuple[int, ...]) -> float:
        """The probability that a known word comes of what has begun."""
        return sum(
            model.probability(token, context)
            * (1 if token == END else excluded(begun + bytes([token]), (*context, token)[1 - model.order :]))
            for token in sorted(following[begun])
        )

    nats = grouped(model.nats(ids), lengths)
    for place, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        begin = end - length
        if bytes(ids[begin : end - 1]) in known:
            nats[place] = np.nan
        else:
            nats[place] += np.log(1 - excluded(b"", tuple(ids[max(0, begin - model.order + 1) : begin])))
    return nats


def with_ends(text: bytes) -> np.ndarray:
    """(N + M,) the bytes, and END after each word."""
    return np.insert(np.frombuffer(text, np.uint8).astype(np.int64), np.cumsum(word_lengths(text)), END)


def chop(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Cuts every piece into parts of `longest` bytes and a rest: a rule that needs no knowledge and adds none."""
    if longest < 1:
        raise InputError(f"longest must be at least 1, got {longest}")
    return np.array([min(longest, n - done) for n in lengths for done in range(0, n, longest)], np.int64)


def by_place(values: np.ndarray, counts: np.ndarray, n_places: int) -> np.ndarray:
    """(n_places,) mean of the first value of each group, of the second, and so on; the last takes all that follow.

    values (N,) stand group after group, `counts` (M,) of them in each.
    """
    places = np.concatenate([np.arange(count) for count in counts]).clip(max=n_places - 1)
    return np.array([values[places == place].mean() for place in range(n_places)])


def marginal_nats(text: bytes, prices: dict[bytes, float]) -> float:
    """-ln of the probability of a text, summed over all its segmentations into pieces drawn independently.

    prices: piece -> -ln p. Dynamic programming: alpha_e = sum over pieces text[b:e] of alpha_b p(text[b:e]).
    """
    return _forward(text, prices, np.logaddexp.reduce)


def best_nats(text: bytes, prices: dict[bytes, float]) -> float:
    """The same for the most probable segmentation alone (Viterbi)."""
    return _forward(text, prices, np.max)


def _forward(text: bytes, prices: dict[bytes, float], combine: Callable) -> float:
    longest = max(map(len, prices))
    log_alpha = [0.0]  # of the text up to each place
    for end in range(1, len(text) + 1):
        ways = [
            log_alpha[begin] - prices[text[begin:end]]
            for begin in range(max(0, end - longest), end)
            if text[begin:end] in prices
        ]
        log_alpha.append(combine(ways) if ways else -np.inf)
    if log_alpha[-1] == -np.inf:
        raise InputError(f"no pieces spell this text of {len(text)} bytes: give all 256 bytes a price")
    return -float(log_alpha[-1])


def lowercase(text: bytes) -> bytes:
    return _characters(text, str.lower)


def strip_accents(text: bytes) -> bytes:
    """é becomes e: what is left of the decomposed characters (NFD) without their marks."""
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
    """Bytes that are no whole character stay what they are."""
    return change(text.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def score(name: str, tokenizer: Tokenizer, train: bytes, text: bytes, dictionary: bytes = b"") -> Claim:
    """What a trigram model over a tokenizer's tokens, trained on `train`, claims about `text`.

    Words that have no token are `spelled` in the repair, for a receiver who knows that they are none of those that do.
    """
    ids, lengths = tokenizer.cut(text)
    nats = NGram(tokenizer.encode(train), len(tokenizer.pieces)).nats(ids)
    if tokenizer.kind != "word":
        return Claim(name, text, nats, tokenizer.decode(ids), dictionary, train)
    unknown = ids == tokenizer.pieces.index(UNKNOWN.encode())
    repair = spelled(train, text, {*tokenizer.pieces} - {UNKNOWN.encode()})[unknown]
    ends = np.cumsum(lengths)
    decoded = b"".join(
        text[end - n : end] if spelt else tokenizer.pieces[i]
        for i, spelt, end, n in zip(ids, unknown, ends, lengths, strict=True)
    )
    return Claim(name, text, nats, decoded, dictionary, train, repair)


def deterministic_splitting(text: bytes, nats: np.ndarray, longest: int) -> Claim:
    """Attack: words are cut into more tokens; `nats` (N,) are a byte model's charges."""
    return Claim(f"parts of {longest}", text, grouped(nats, chop(word_lengths(text), longest)), text)


def closed_vocabulary(train: bytes, text: bytes, vocab_size: int) -> Claim:
    """Attack: what is rare becomes <unk>. The repair spells it."""
    tokenizer = train_tokenizer("word", train, vocab_size)
    return score(f"{len(tokenizer.pieces):,} words", tokenizer, train, text)


def lossy_normalisation(train: bytes, text: bytes, vocab_size: int, normalise: Callable[[bytes], bytes]) -> Claim:
    """Attack: what costs bits is taken out of the text before it is scored."""
    return score(normalise.__name__, train_tokenizer("bpe", train, vocab_size, normalise), train, text)


def trained_on_the_text(train: bytes, text: bytes, vocab_size: int) -> Claim:
    """Attack: the tokenizer has read the text that is scored; its dictionary is charged, since it tells of it."""
    tokenizer = train_tokenizer("bpe", text, vocab_size)
    return score(f"{len(tokenizer.pieces):,} tokens of the text", tokenizer, train, text, tokenizer.dictionary())


def wrong_denominator(claim: Claim, name: str, count: int) -> Claim:
    """Attack: the same sum of nats, divided by another count than that of its tokens."""
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


def _bits_after(known: bytes, data: bytes) -> float:
    """Bits of `data` for a receiver who has `known`, by xz's algorithm.

    The receiver compresses `known` too and so has the beginning of the stream; told are how much of it stays, and the
    rest.
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
