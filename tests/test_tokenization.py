"""Tokenizers give back what they got, prices are right by hand and by enumeration, and no attack gets through."""

import itertools
import lzma
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shalab import InputError
from shalab import tokenization as tk
from shalab.metrics import NATS_PER_BIT
from shalab.tokenization import Claim, NGram, accounts, honest_bits_per_byte, train_tokenizer

SPELLING = ("bpe", "wordpiece", "unigram")
BIT = NATS_PER_BIT


@pytest.fixture(scope="module")
def english():
    words = np.random.default_rng(0).choice(
        "the town of Foo was\nfounded In 1923 caf\u00e9 (see) [[link]]".split(" "), 907
    )
    return " ".join(words).encode()


def noise(n, seed):
    """Bytes of which none tells of another: nothing can code them in less than 8 bits each."""
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8).tobytes()


# tokenizers


@pytest.mark.parametrize("kind", SPELLING)
def test_every_text_comes_back(kind, english):
    tokenizer = train_tokenizer(kind, english, 613)
    signs = b"<unk> ##a ##\xc3 [UNK] " + b"x" * 211
    for text in (signs, bytes(range(256)), *(noise(101, seed) for seed in range(5)), english):
        ids, lengths = tokenizer.cut(text)
        assert tokenizer.decode(ids) == text
        assert lengths.tolist() == [len(tokenizer.pieces[i]) for i in ids]


@pytest.mark.parametrize("kind", tk.KINDS)
def test_training_is_repeatable_and_keeps_to_the_size(kind, english):
    first, *others = (train_tokenizer(kind, english, 613) for _ in range(3))
    assert 10 < len(first.pieces) <= 613
    for other in others:
        assert other.pieces == first.pieces
        assert (other.encode(english) == first.encode(english)).all()


@pytest.mark.parametrize("kind", tk.KINDS)
def test_no_token_crosses_the_end_of_a_word(kind, english):
    ends = np.cumsum(train_tokenizer(kind, english, 613).cut(english)[1])
    assert set(np.cumsum(tk.word_lengths(english))) <= set(ends)


def test_merges_by_hand():
    """In abab and " abab", ab stands 4 times, ba twice, " a" once; then abab is the most frequent pair."""
    pieces = train_tokenizer("bpe", b"abab abab", 258).pieces
    assert pieces[256:] == (b"ab", b"abab")
    assert sorted(pieces[:256]) == [bytes([byte]) for byte in range(256)]


def test_rare_words_are_unknown_but_keep_their_length():
    tokenizer = train_tokenizer("word", b"an an an owl owl cat", 3)
    assert tokenizer.pieces == (b"<unk>", b" an", b" owl")  # the first "an" has no space, so " an" and " owl" tie
    ids, lengths = tokenizer.cut(b" an owl bear")
    assert ids.tolist() == [1, 2, 0] and lengths.tolist() == [3, 4, 5]
    assert tokenizer.decode(ids) == b" an owl<unk>"


def test_words_are_cut_at_spaces_numbers_and_signs():
    text = "In [[1923]],\n\n  caf\u00e9s a  b".encode()
    cut = np.split(np.frombuffer(text, np.uint8), np.cumsum(tk.word_lengths(text)))[:-1]
    parts = [part.tobytes().decode() for part in cut]
    assert parts == ["In", " [[", "1923", "]],", "\n\n  ", "caf\u00e9s", " a", "  ", "b"]


@pytest.mark.parametrize("kind, size", [("morse", 613), ("bpe", 255), ("word", 1)])
def test_what_no_tokenizer_can_be_is_refused(kind, size):
    with pytest.raises(InputError, match="got"):
        train_tokenizer(kind, b"a text", size)


def test_an_empty_text_is_refused(english):
    with pytest.raises(InputError, match="0 bytes"):
        train_tokenizer("bpe", b"", 300)
    with pytest.raises(InputError, match="empty"):
        train_tokenizer("bpe", english, 300).encode(b"")


# token models


def test_ngram_by_hand():
    model = NGram([0, 1, 0, 1, 2], vocab_size=5, order=2)
    p1 = (2 + 3 / 5) / (5 + 3)  # 1 stood twice among 5 tokens of 3 kinds
    assert model.probability(1) == pytest.approx(p1)
    assert model.probability(1, [4]) == pytest.approx(p1)  # nothing ever followed 4
    assert model.probability(1, [3, 0]) == pytest.approx((2 + 1 * p1) / (2 + 1))  # after 0 came 1, twice
    assert model.nats([0, 1]) == pytest.approx([-math.log(p1), -math.log((2 + p1) / 3)])


def witten_bell(ids, token, context, vocab_size):
    """The textbook's recursion over the whole context, counting by looking."""
    p = witten_bell(ids, token, context[1:], vocab_size) if context else 1 / vocab_size
    n = len(context)
    after = Counter(ids[i] for i in range(n, len(ids)) if ids[i - n : i] == context)
    return (after[token] + len(after) * p) / (after.total() + len(after)) if after else p


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_is_the_textbooks_and_sums_to_one(order):
    generator = np.random.default_rng(order)
    ids = generator.integers(0, 5, 211).tolist()
    model = NGram(ids, vocab_size=7, order=order)
    for length in (0, 1, 2, 6):
        context = generator.integers(0, 6, length).tolist()
        p = model.predict(context)
        assert p.sum() == pytest.approx(1) and (p > 0).all()
        seen = context[len(context) - min(order - 1, length) :]
        assert p == pytest.approx([witten_bell(ids, token, seen, 7) for token in range(7)])


def test_charges_are_those_of_the_predictions():
    generator = np.random.default_rng(1)
    model, ids = NGram(generator.integers(0, 11, 307), 13), generator.integers(0, 13, 47)
    assert tk.verified_nats(model.predict, ids) == pytest.approx(model.nats(ids))


# accounts


def test_an_account_by_hand():
    claim = Claim("x", b"caf\xc3\xa9", np.array([3, 4.5]) * BIT, b"caf\xc3\xa9")
    assert claim.bits() == pytest.approx({"tokens": 7.5, "dictionary": 0, "repair": 0, "length": 3})
    assert honest_bits_per_byte(claim) == pytest.approx(10.5 / 5)
    assert claim.claimed_bits_per_byte == pytest.approx(1.5)
    assert claim.perplexity == pytest.approx(2**3.75)


@pytest.mark.parametrize("n, bits", [(1, 1), (2, 3), (3, 3), (4, 5), (1023, 19), (1024, 21)])
def test_length_is_charged_by_elias_code(n, bits):
    assert Claim("x", b"text", np.zeros(n), b"text").bits()["length"] == bits


def test_a_text_in_the_number_of_tokens_is_charged():
    """A single token, so often that the count spells the text: free by its probabilities."""
    text = b"\xfe\xdc"
    claim = Claim("unary", text, np.zeros(int.from_bytes(text)), text)
    assert claim.perplexity == 1 and honest_bits_per_byte(claim) > 8


def test_a_repair_costs_what_is_missing_and_a_dictionary_what_it_tells():
    text, other = noise(601, 1), noise(601, 2)

    def bits(decoded, dictionary=b""):
        return Claim("x", text, np.zeros(7), decoded, dictionary).bits()

    assert bits(text)["repair"] == 0
    assert 0 < bits(text[:-1] + b"?")["repair"] < 8 * 101
    assert bits(other)["repair"] > 8 * 590
    assert bits(text, other)["dictionary"] > 8 * 590
    assert bits(text, bytes(601))["dictionary"] < 8 * 101


@pytest.mark.parametrize("seed", range(3))
def test_no_attack_gets_through_on_noise(seed):
    """Whatever is left out of the tokens must come back in the account: 8 bits per byte is the least, on average."""
    train, text = noise(5003, 10 + seed), noise(2003, 20 + seed)
    uniform = np.full(len(text), 8 * BIT)
    claims = [
        *(tk.deterministic_splitting(text, uniform, longest) for longest in (1, 3, 50)),
        *(tk.closed_vocabulary(train, text, size) for size in (2, 31, 997)),
        *(tk.lossy_normalisation(train, text, 307, f) for f in (tk.lowercase, tk.collapse_spaces, tk.mask_digits)),
        *(tk.trained_on_the_text(train, text, size) for size in (256, 307, 997)),
    ]
    assert min(map(honest_bits_per_byte, claims)) > 7.97
    assert claims[3].claimed_bits_per_byte < 0.1  # the attack did work


def test_a_strangers_model_sees_only_what_came_before():
    seen = []

    def predict(context):
        seen.append(context)
        return np.full(5, 0.2)

    assert tk.verified_nats(predict, np.array([3, 1, 4])) == pytest.approx([math.log(5)] * 3)
    assert seen == [(), (3,), (3, 1)]


@pytest.mark.parametrize(
    "p, fault",
    [
        ([0.9, 0.9], "sum to 1"), ([1.5, -0.5], "from 0"), ([math.nan, 0.5], "from 0"), ([0.0, 1.0], "probability 0"),
        ([[0.5, 0.5]], "shape"), (0.5, "shape"), ([], "shape"),
    ],
)  # fmt: skip
def test_probabilities_that_are_none_are_refused(p, fault):
    with pytest.raises(InputError, match=fault):
        tk.verified_nats(lambda context: p, [0])


class Spelled:
    """Bytes as they are, each as likely as any other."""

    def encode(self, text):
        return list(text)

    def decode(self, ids):
        return bytes(ids)

    def predict(self, context):
        return np.full(256, 1 / 256)


class Remembers(Spelled):
    """Gives the receiver a text that it was told in private."""

    text = b""

    def encode(self, text):
        self.text = text
        return [0]

    def decode(self, ids):
        return self.text

    def predict(self, context):
        return np.ones(1)


class WithDictionary(Remembers):
    def encode(self, text):
        self.dictionary = text
        return [0]


def test_a_stranger_is_judged_by_a_receiver_who_was_told_nothing():
    text = noise(307, 4)
    assert tk.judge(Spelled(), text).claimed_bits_per_byte == pytest.approx(8)
    for cheat in (Remembers(), WithDictionary()):
        claim = tk.judge(cheat, text)
        assert claim.claimed_bits_per_byte == 0 and claim.decoded == b"" and honest_bits_per_byte(claim) > 8


def test_the_table_names_what_was_kept_quiet():
    text = noise(101, 3)
    honest, lossy = Claim("honest", text, np.ones(7), text), Claim("lossy", text, np.ones(7), b"", text)
    _, first, second = tk.table([honest, lossy]).splitlines()
    assert first.split() == ["honest", "7", "2.72", "0.100", f"{honest_bits_per_byte(honest):.3f}"]
    assert "dictionary" in second and "repair" in second and f"{honest_bits_per_byte(lossy):.3f}" in second


def unless_known(speller, before, begun, known):
    """(257,) how likely each byte is to go on with a word that is none of those with a token."""
    p = speller.predict([*before, *begun])
    for word in known:
        if [*word[: len(begun)]] == begun:
            rest = [*word[len(begun) :], tk.END]
            contexts = ([*before, *begun, *rest[:n]] for n in range(len(rest)))
            p[rest[0]] -= math.prod(map(speller.probability, rest, contexts))
    return p.clip(1e-15)


def receive(choose, n, train, tokenizer, size):
    """A receiver's whole work: n tokens, and the words that have none, from distributions and a choice in each."""
    model = NGram(tokenizer.encode(train), size)
    speller = NGram(tk.with_ends(train), 257, order=5)
    ids, text = [], b""
    for _ in range(n):
        ids.append(choose(model.predict(ids)))
        if tokenizer.kind == "word" and tokenizer.pieces[ids[-1]] == b"<unk>":
            word = []
            while (byte := choose(unless_known(speller, [*tk.with_ends(text)], word, tokenizer.pieces[1:]))) != tk.END:
                word.append(byte)
            text += bytes(word)
        else:
            text += tokenizer.pieces[ids[-1]]
    return text


class Coder:
    """Arithmetic coding in exact fractions: the symbols narrow an interval, and any number in it is the code."""

    def __init__(self, symbols=None, code=None):
        self.symbols, self.code, self.low, self.width = symbols and iter(symbols), code, Fraction(0), Fraction(1)

    def __call__(self, p):
        counts = [round(x * 2**60) for x in p.tolist()]
        total = sum(counts)
        places = [Fraction(n, total) for n in itertools.accumulate(counts, initial=0)]
        if self.symbols:
            symbol = next(self.symbols)
        else:
            place = (self.code - self.low) / self.width
            symbol = next(i for i, end in enumerate(places[1:]) if place < end)
        self.low += self.width * places[symbol]
        self.width *= places[symbol + 1] - places[symbol]
        return symbol

    def bits(self):
        """Those of the shortest code that lies within the interval, with all that may follow it."""
        n = math.ceil(-math.log2(self.width)) + 1
        return Fraction(math.ceil(self.low * 2**n), 2**n), n


letters = st.text(alphabet=" ab\n1.\u00e9\u4e2d<", min_size=1, max_size=20).map(str.encode)


@settings(deadline=None)
@given(st.sampled_from(tk.KINDS), letters, letters, st.integers(0, 40))
def test_what_is_charged_is_enough_to_get_the_text_back(kind, train, text, room):
    """The text is really coded, into no more bits than the account says, and really decoded."""
    fewest = {"word": 2, "bpe": 256, "wordpiece": 512, "unigram": 257}[kind]
    tokenizer = train_tokenizer(kind, train, fewest + room)
    size = len(tokenizer.pieces)
    claim = tk.score("x", tokenizer, train, text)
    assert claim.decoded == text
    symbols = []
    for i, n, end in zip(*tokenizer.cut(text), np.cumsum(tokenizer.cut(text)[1]), strict=True):
        symbols += [i, *text[end - n : end], tk.END] if tokenizer.pieces[i] == b"<unk>" else [i]
    sender = Coder(symbols)
    receive(sender, len(claim.nats), train, tokenizer, size)
    code, n_bits = sender.bits()
    charged = claim.bits()
    assert n_bits <= charged["tokens"] + charged["repair"] + 2 + 1e-6
    assert receive(Coder(code=code), len(claim.nats), train, tokenizer, size) == text


def test_a_word_without_a_token_is_spelled_by_hand():
    """Bytes and ends of "aa b": a, a, END; then space, b, END. The first word of "b" knows nothing of what precedes."""
    assert tk.with_ends(b"aa b").tolist() == [97, 97, tk.END, 32, 98, tk.END]
    train, text = b"aa b", b"b aa"
    model = NGram([97, 97, 256, 32, 98, 256], 257, order=5)
    first = -math.log(model.probability(98)) - math.log(model.probability(256, [98]))
    assert tk.spelled(train, text)[0] == pytest.approx(first)
    claim = tk.closed_vocabulary(train, b"b aa", 2)
    assert claim.name == "2 words" and claim.decoded == b"b aa" and len(claim.repair) == 2


def test_a_word_that_is_none_of_the_known_ones_is_spelled_for_less():
    """Each known word's probability by itself; the words that are left share what it leaves."""
    train, text, known = b"an ant an owl an ant", b" an owl as ox", {b" an", b" ant", b" as"}
    model = NGram(tk.with_ends(train), 257, order=5)
    before = tk.with_ends(b" an owl as").tolist()
    p = [math.exp(-model.nats([*before, *word, tk.END])[len(before) :].sum()) for word in known]
    freely, knowing = tk.spelled(train, text), tk.spelled(train, text, known)
    assert 0.1 < sum(p) < 1 and knowing[3] == pytest.approx(freely[3] + math.log(1 - sum(p)))
    assert np.isnan(knowing).tolist() == [True, False, True, False]


def test_a_tokenizer_of_single_bytes_needs_no_dictionary():
    assert tk.trained_on_the_text(noise(307, 8), noise(307, 9), 256).bits()["dictionary"] == 0


def test_a_vocabulary_is_named_by_the_words_it_has():
    assert tk.closed_vocabulary(b"an owl an", b"an owl", 997).name == "4 words"  # with <unk>


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(min_size=1, max_size=200))
def test_what_is_told_after_what_is_known_comes_back(known, data):
    had, stream = accounts._lzma(known), accounts._lzma(known + data)
    same = next((i for i, (a, b) in enumerate(zip(had, stream, strict=False)) if a != b), min(len(had), len(stream)))
    rest = stream[same:]
    assert lzma.decompress(accounts._lzma(known)[:same] + rest) == known + data
    position = 2 * math.floor(math.log2(len(had) - same + 1)) + 1
    assert accounts._bits_after(known, data) == position + 8 * len(rest)


def test_what_is_known_makes_a_repair_and_a_dictionary_cheap():
    known, text = noise(3001, 5), noise(601, 6)
    repaired = Claim("x", text, np.zeros(7), b"", known=known + text)
    told = Claim("x", text, np.zeros(7), text, dictionary=text, known=text)
    assert repaired.bits()["repair"] < 8 * 60 and told.bits()["dictionary"] < 8 * 60
    assert Claim("x", text, np.zeros(7), b"", known=known).bits()["repair"] > 8 * 590


def test_a_dictionary_makes_the_tokenizer_again(english):
    """The two parts of each piece are what the merges before it make of it."""
    told = train_tokenizer("bpe", english, 331).dictionary()
    pieces = list(train_tokenizer("bpe", b"any", 256).pieces)  # every receiver has the bytes
    while told:
        n = int.from_bytes(told[:2], "big")
        pieces, told = [*pieces, told[2 : 2 + n]], told[2 + n :]

    def cut(word, n_pieces):
        parts = [bytes([byte]) for byte in word]
        while True:
            pairs = [pieces.index(a + b) for a, b in itertools.pairwise(parts) if a + b in pieces[:n_pieces]]
            if not pairs:
                return parts
            best, joined = pieces[min(pairs)], []
            for part in parts:
                joined = [*joined[:-1], best] if joined and joined[-1] + part == best else [*joined, part]
            parts = joined

    assert all(len(cut(piece, n)) == 2 for n, piece in enumerate(pieces) if n >= 256)
    ends = np.cumsum(tk.word_lengths(english))[:-1]
    words = [word.tobytes() for word in np.split(np.frombuffer(english, np.uint8), ends)]
    again = {word: [pieces.index(part) for part in cut(word, len(pieces))] for word in set(words)}
    assert [i for word in words for i in again[word]] == train_tokenizer("bpe", english, 331).encode(english).tolist()


# splitting, places


def test_splitting_moves_bits_and_makes_none():
    text = b"one three  eleven"
    nats = np.random.default_rng(2).random(len(text))
    assert tk.chop(np.array([5, 2, 4]), 2).tolist() == [2, 2, 1, 2, 2, 2]
    assert tk.grouped(nats[:6], [2, 1, 3]) == pytest.approx([nats[:2].sum(), nats[2], nats[3:6].sum()])
    claims = [tk.deterministic_splitting(text, nats, longest) for longest in (1, 2, 3, 100)]
    assert all(claim.nats.sum() == pytest.approx(nats.sum()) for claim in claims)
    perplexities = [claim.perplexity for claim in claims]
    assert perplexities == sorted(perplexities) and len(set(perplexities)) == 4
    assert [len(claim.nats) for claim in claims] == [17, 9, 6, 4]


def test_another_denominator_changes_the_perplexity_and_nothing_else():
    """1000 bits over 500 tokens are a perplexity of 4; over 250, of 16."""
    text = noise(1009, 3)
    claim = Claim("right", text, np.full(500, 2 * BIT), text)
    wrong = tk.wrong_denominator(claim, "wrong", 250)
    assert claim.perplexity == pytest.approx(4) and wrong.perplexity == pytest.approx(16)
    assert wrong.claimed_bits_per_byte == pytest.approx(claim.claimed_bits_per_byte)
    assert abs(honest_bits_per_byte(wrong) - honest_bits_per_byte(claim)) < 2.5 / 1009  # the length itself
    with pytest.raises(InputError, match="count"):
        tk.wrong_denominator(claim, "none", 0)


def test_long_words_begin_at_their_first_letter():
    text = "Planet planets [[planet]] plan\nplanetoid Fran\u00e7afrique 1planet caf\u00e9planets".encode()
    words = [text[begin:end] for begin, end in tk.long_words(text, 6)]
    assert words == [b"Planet", b"planets", b"planet", b"planetoid", b"planet"]


def test_groups_that_do_not_cover_are_refused():
    for lengths in ([2, 2], [5, 0], [6], []):
        with pytest.raises(InputError, match="sum to 5"):
            tk.grouped(np.ones(5), np.array(lengths, int))
    with pytest.raises(InputError, match="at least 1"):
        tk.chop(np.array([3]), 0)


def test_mean_by_place_by_hand():
    assert tk.by_place(np.array([8, 4, 2, 1, 6, 9, 3]), np.array([4, 1, 2]), 3) == pytest.approx([23 / 3, 3.5, 1.5])


# all segmentations


def segmentations(text):
    for ends in itertools.product([False, True], repeat=len(text) - 1):
        bounds = [0, *(i + 1 for i, end in enumerate(ends) if end), len(text)]
        yield [text[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("seed", range(5))
def test_dynamic_programming_is_enumeration(seed):
    generator = np.random.default_rng(seed)
    pieces = sorted({bytes(generator.choice([97, 98, 99], generator.integers(1, 4)).tolist()) for _ in range(17)})
    pieces = sorted({*pieces, b"a", b"b", b"c"})
    prices = dict(zip(pieces, -np.log(generator.dirichlet(np.ones(len(pieces)))), strict=True))
    for length in (1, 2, 7, 11):
        text = bytes(generator.choice([97, 98, 99], length).tolist())
        nats = [sum(prices.get(piece, math.inf) for piece in pieces) for pieces in segmentations(text)]
        assert tk.marginal_nats(text, prices) == pytest.approx(-math.log(sum(math.exp(-n) for n in nats)))
        assert tk.best_nats(text, prices) == pytest.approx(min(nats))


def test_what_no_pieces_spell_is_refused():
    with pytest.raises(InputError, match="spell"):
        tk.marginal_nats(b"abc", {b"ab": 1.0, b"bc": 1.0})


def test_all_segmentations_cost_least_the_canonical_one_most(english):
    tokenizer = train_tokenizer("bpe", english, 311)
    ids = tokenizer.encode(english)
    model = NGram(ids, len(tokenizer.pieces), order=1)
    prices = {piece: -math.log(model.probability(i)) for i, piece in enumerate(tokenizer.pieces)}
    assert tk.marginal_nats(english, prices) < tk.best_nats(english, prices) <= model.nats(ids).sum() + 1e-6


# what is lost, what is divided by


def test_normalisations_by_hand():
    text = "\u00c9t\u00e9 1923\n\n \u4e2d".encode() + b"\xff\xc3"
    assert tk.lowercase(text) == "\u00e9t\u00e9 1923\n\n \u4e2d".encode() + b"\xff\xc3"
    assert tk.strip_accents(text) == "Ete 1923\n\n \u4e2d".encode() + b"\xff\xc3"
    assert tk.collapse_spaces(text) == "\u00c9t\u00e9 1923 \u4e2d".encode() + b"\xff\xc3"
    assert tk.mask_digits(text) == "\u00c9t\u00e9 0000\n\n \u4e2d".encode() + b"\xff\xc3"


def test_denominators_by_hand():
    assert tk.denominators("caf\u00e9 [[a]]\n\nb\n".encode()) == {
        "bytes": 15, "characters": 14, "words and signs": 7, "words between spaces": 3,
        "the same and line ends": 6,
    }  # fmt: skip
