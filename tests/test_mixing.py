"""Counts of long contexts, and their mixture with a network's prediction."""

import math
import zlib

import numpy as np
import pytest

from shalab import mixing
from shalab.device import Precision
from shalab.evaluate import evaluate
from shalab.mixing import LONG, ORDERS, PARTS, Contexts, Mixer, mixed_charges, mixed_evaluate, network_predictions
from shalab.model import SHARNN, ModelConfig

UNIFORM = np.full(256, 1 / 256)


def filled(text: bytes, room: int = 0) -> Contexts:
    contexts = Contexts(len(text) + room)
    for place, byte in enumerate(text):
        contexts.add(place, byte)
    return contexts


def test_counts_by_hand():
    """After `ab` came c, d and c: the newest counts half more. `a` was followed by b only, `xab` once by c."""
    found = filled(b"abcabdxabcyxab", room=1).look(14)
    by_order = {
        ORDERS[entry.place]: dict(zip(entry.symbols.tolist(), entry.counts.tolist(), strict=True)) for entry in found
    }
    assert by_order == {1: {ord("c"): 2.5, ord("d"): 1.0}, 2: {ord("c"): 2.5, ord("d"): 1.0}, 3: {ord("c"): 1.5}}
    assert [entry.n for entry in found] == [3, 3, 1]


def test_looking_up_equals_a_search_through_the_text():
    random = np.random.default_rng(0)
    text = random.integers(97, 100, 401).astype(np.uint8).tobytes()
    contexts = filled(text)
    contexts_end = len(text) - 1
    for entry in filled(text[:-1], room=1).look(contexts_end):
        order = ORDERS[entry.place]
        context = text[contexts_end - order : contexts_end]
        ends = [end for end in range(order, contexts_end) if text[end - order : end] == context][::-1]
        ends = ends[: mixing.COMMON if order < 3 else mixing.LATEST]
        expected = {byte: 0.0 for byte in (text[end] for end in ends)}
        for end in ends:
            expected[text[end]] += 1
        expected[text[ends[0]]] += 0.5
        assert dict(zip(entry.symbols.tolist(), entry.counts.tolist(), strict=True)) == expected
        assert entry.n == len(ends)
    assert contexts.text == text


def test_two_contexts_of_one_checksum_are_told_apart(monkeypatch):
    monkeypatch.setattr(zlib, "crc32", lambda _: 7)
    found = filled(b"ab.cd!ab", room=1).look(8)
    assert [entry.symbols.tolist() for entry in found] == [[ord(".")], [ord(".")]]


def test_a_reader_sees_nothing_before_its_own_piece_as_its_context():
    contexts = Contexts(20)
    for place, byte in enumerate(b"abcabc"):
        contexts.add(place, byte)
    assert contexts.look(10, begin=10) == []
    contexts.add(10, ord("a"), begin=10)
    assert [entry.place for entry in contexts.look(11, begin=10)] == [0]  # `a`, which others have read


def test_the_mixture_is_a_distribution_and_learns_whom_to_trust():
    """The network is sure of the wrong byte; the text repeats itself, so that counting knows better."""
    text = b"The quick brown fox jumps over the lazy dog. " * 9
    wrong = np.full(256, 0.1 / 255)
    wrong[0] = 0.9
    mixer, prices = Mixer(len(text)), []
    for place, byte in enumerate(text):
        mixed = mixer.predict(place, wrong)
        assert mixed.shape == (256,) and abs(mixed.sum() - 1) < 1e-12 and (mixed > 0).all()
        prices.append(-math.log2(mixed[byte]))
        mixer.learn(place, byte)
    assert np.mean(prices[-45:]) < 0.3 < 8 < np.mean(prices[:45])
    longest = mixer.weights[len(ORDERS)]
    assert longest[PARTS.index("network")] < longest[PARTS.index("counts")]


def test_nothing_is_learned_from_a_byte_before_it_is_charged():
    """Charges of a text do not depend on what comes after it."""
    random = np.random.default_rng(1)
    data = random.integers(97, 101, 300).astype(np.uint8)
    changed = data.copy()
    changed[200:] = 120
    networks = random.dirichlet(np.ones(256), 250)
    first = [price for price, _ in mixed_charges(data, 50, 300, iter(networks))]
    other = [price for price, _ in mixed_charges(changed, 50, 300, iter(networks))]
    assert first[:150] == other[:150] and first[150:] != other[150:]


def test_without_anything_found_it_is_the_networks_prediction_and_the_parts_say_so():
    network = np.random.default_rng(2).dirichlet(np.ones(256))
    mixer = Mixer(1)
    mixed = mixer.predict(0, network)
    # weights of a third each: the network twice (itself, and uncorrected), and a constant
    expected = (network + 1e-7) ** (2 / 3)
    np.testing.assert_allclose(mixed, expected / expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(mixer.learn(0, 5), -np.log([network[5] + 1e-7, 1 / 256 + 1e-7, network[5] + 1e-7]))


def test_long_contexts_alone_correct_the_network():
    """A repetition of 11 bytes, none of which the network expects."""
    text = b"0123456789A!................0123456789A"
    mixer = Mixer(len(text) + 1)
    for place, byte in enumerate(text):
        mixer.contexts.add(place, byte)
    found = mixer.contexts.look(len(text))
    assert ORDERS[found[-1].place] == 11 and ORDERS[LONG] == 11
    corrected = mixer._corrected(UNIFORM, found, LONG)
    assert (
        corrected.argmax() == ord("!") and abs(corrected[ord("!")] - 0.5) < 1e-9
    )  # nothing is known yet of such contexts


@pytest.mark.parametrize("hits", [0, 9])
def test_what_such_contexts_have_earned_is_learned(hits):
    mixer = Mixer(4)
    key = (0, 0, 1, 1)
    mixer.seen_before[key] = (0.5 + hits, 10.0)
    mixer.contexts.add(0, 5)
    mixer.contexts.add(1, 5)
    (entry,) = mixer.contexts.look(2)
    corrected = mixer._corrected(UNIFORM, [entry], 0)
    np.testing.assert_allclose(corrected[5], (0.5 + hits) / 10)
    np.testing.assert_allclose(corrected[6], (1 - (0.5 + hits) / 10) / 255)


@pytest.mark.parametrize("begin, context", [(1, None), (29, 0), (97, 13)])
def test_the_networks_part_is_what_evaluation_charges(begin, context):
    model = SHARNN(ModelConfig(d_model=12, d_boom=24, n_layers=2, attention_layers=(1,), max_context=17)).eval()
    data = np.random.default_rng(3).integers(97, 101, 211).astype(np.uint8)
    precision = Precision.pick("cpu", "float32")
    rows = list(network_predictions(model, data, begin, 211, precision, window=7, context=context))
    assert len(rows) == 211 - begin
    bits = -np.log2([row[byte] for row, byte in zip(rows, data[begin:], strict=True)])
    assert abs(bits.mean() - evaluate(model, data, begin, 211, precision, window=7, context=context)) < 1e-5
    mixed, parts = mixed_evaluate(model, data, begin, 211, precision, window=7, context=context)
    assert abs(parts[0] - bits.mean()) < 1e-4  # the mixture raises every probability by 1e-7
    assert mixed < parts[0]  # four letters: counting finds out, the drawn weights do not


def test_what_precedes_a_slice_is_known_to_the_counts_as_far_as_history_reaches(monkeypatch):
    data = np.frombuffer(b"a name that returns. " * 2, np.uint8)
    networks = [UNIFORM] * 21
    known = sum(price for price, _ in mixed_charges(data, 21, 42, iter(networks)))
    monkeypatch.setattr(mixing, "HISTORY", 1)
    unknown = sum(price for price, _ in mixed_charges(data, 21, 42, iter(networks)))
    assert known < 0.8 * unknown


def test_contexts_of_one_checksum_cannot_hold_up_a_search(monkeypatch):
    """Places that share an entry may point in a circle."""
    monkeypatch.setattr(mixing, "HISTORY", 2)
    monkeypatch.setattr(zlib, "crc32", lambda _: 0)
    contexts = filled(b"abcabcabc", room=1)
    assert all(entry.symbols.tolist() == [ord("a")] for entry in contexts.look(9))
