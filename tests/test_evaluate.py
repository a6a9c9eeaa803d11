import bz2
import json
import math
import sys
import threading
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shalab import SHARNN, InputError, ModelConfig
from shalab.baselines import COMPRESSORS, _block_start, archivers, baselines, compressed_size, compressor_bpc
from shalab.bundled import assets_dir
from shalab.corpus import Corpus, cache_dir, load_corpus
from shalab.device import Precision
from shalab.dynamic import Dynamic, dynamic_charges, dynamic_evaluate
from shalab.evaluate import charges, evaluate
from shalab.generate import as_text, generate, generate_batch, sample
from shalab.laboratory import archivers as laboratory
from shalab.laboratory.archivers import ARCHIVERS, measured
from shalab.laboratory.contestants import TOY, contestant
from shalab.metrics import bits_per_byte, perplexity
from shalab.mixing import mixed_evaluate


@pytest.fixture
def roomy():
    """A memory that the text does not fill."""
    return SHARNN(ModelConfig(256, 11, 22, 2, 1, (0,), 10_000, init_scale=1.0)).eval()


def test_units():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2)
    assert perplexity(3 * math.log(7), 3) == pytest.approx(7)


@pytest.mark.parametrize("score", [evaluate, dynamic_evaluate, mixed_evaluate])
def test_bytes_that_a_model_does_not_know_are_one_sentence(score, text, precision):
    few = SHARNN(ModelConfig(128, 8, 16, 1, 1, (), 16))
    data = np.concatenate([text[:50] % 128, [200], text[:49] % 128]).astype(np.uint8)
    place = ([60, 90],) if score is dynamic_evaluate else (60, 90)
    with pytest.raises(InputError, match="the model knows bytes below 128, the data has 200"):
        score(few, data, *place, precision)
    score(few, data, *place, precision, context=3)  # in what is not read, they may be


def test_every_byte_is_charged_by_its_probability(roomy, text, precision):
    with torch.no_grad():
        logits, _ = roomy(torch.tensor(text.astype(np.int64)).unsqueeze(1))
    nats = F.cross_entropy(logits[699:899, 0], torch.tensor(text[700:900].astype(np.int64)))
    assert evaluate(roomy, text, 700, 900, precision) == pytest.approx(nats.item() / math.log(2), abs=1e-6)


@pytest.mark.parametrize("window", [1, 7, 61, 200, 5000])
def test_window_does_not_matter_while_the_memory_has_room(roomy, text, precision, window):
    expected = evaluate(roomy, text, 500, 703, precision)
    assert evaluate(roomy, text, 500, 703, precision, window=window) == pytest.approx(expected, abs=1e-6)
    parts = torch.cat(list(charges(roomy, text, 500, 703, precision, window)))
    assert parts.shape == (203, 1) and (parts > 0).all()


def test_streams_warmed_up_far_enough_equal_one_stream(small, text, precision):
    """A memory of 23 and LSTMs that forget: 400 bytes of warm-up make the pieces those of one reading."""
    expected = torch.cat(list(charges(small, text, 1000, 1203, precision, 23)))[:, 0]
    parts = torch.cat(list(charges(small, text, 1000, 1203, precision, 23, n_streams=5, context=391)))
    assert parts.shape == (41, 5)
    assert (parts.T.flatten()[203:] == 0).all() and parts.T.flatten()[:203].sub(expected).abs().max() < 0.01
    assert parts.sum().item() == pytest.approx(expected.sum().item(), rel=1e-4)


def test_no_byte_is_charged_by_what_follows_it(roomy, text, precision):
    before = torch.cat(list(charges(roomy, text, 300, 400, precision, 13)))
    changed = text.copy()
    changed[350] ^= 1
    after = torch.cat(list(charges(roomy, changed, 300, 400, precision, 13)))
    assert torch.equal(before[:50], after[:50]) and (before[50:] != after[50:]).any(1).all()


@pytest.mark.parametrize("place", [310, 317, 318, 350])
def test_dynamic_evaluation_charges_before_it_learns(roomy, text, precision, place):
    """Altering byte j changes no charge of a byte before j, within j's window and in the windows before it."""

    def nats(data):
        return torch.cat(list(dynamic_charges(roomy, data, 300, 400, precision, Dynamic(1e-2, 17), 101)))

    before = nats(text)
    changed = text.copy()
    changed[place] ^= 1
    after = nats(changed)
    at = place - 300
    assert torch.equal(before[:at], after[:at]) and (before[at:] != after[at:]).all()


def test_dynamic_evaluation_learns_and_leaves_the_model_alone(roomy, text, precision):
    before = {name: value.clone() for name, value in roomy.state_dict().items()}
    still = dynamic_evaluate(roomy, text, [500, 1201, 1900], precision, Dynamic(0.0, 23), 301)
    adapted = dynamic_evaluate(roomy, text, [500, 1201, 1900], precision, Dynamic(3e-3, 23), 301)
    for (begin, end), bpc in zip([(500, 1201), (1201, 1900)], still, strict=True):
        assert bpc == pytest.approx(evaluate(roomy, text, begin, end, precision, context=begin - 199), abs=1e-5)
    assert adapted[0] < still[0] - 0.5 and adapted[1] < adapted[0] - 0.5
    assert all(torch.equal(value, before[name]) for name, value in roomy.state_dict().items())
    first = next(dynamic_charges(roomy, text, 500, 600, precision, Dynamic(1.0, 23), 301))
    with torch.no_grad():
        assert first.sum() == pytest.approx(23 * math.log(2) * evaluate(roomy, text, 500, 523, precision, context=301))
    with pytest.raises(InputError, match="context must be an integer of at least 0, got -5"):
        dynamic_evaluate(roomy, text, [7, 9], precision, context=-5)
    with pytest.raises(InputError, match="window must be an integer of at least 1, got 0"):
        Dynamic(window=0)


def test_whole_file_charges_its_first_byte_as_uniform(roomy, text, precision):
    rest = evaluate(roomy, text, 1, len(text), precision)
    whole = evaluate(roomy, text, 0, len(text), precision)
    assert whole * len(text) == pytest.approx(rest * (len(text) - 1) + 8, rel=1e-9)


def test_evaluation_leaves_mode_and_can_be_stopped(small, text, precision):
    small.train()
    stop = threading.Event()
    stop.set()
    assert math.isnan(evaluate(small, text, 5, 50, precision, stop=stop)) and small.training
    with pytest.raises(InputError, match="within 1 to 2003 .* got 7 to 7"):
        list(charges(small, text, 7, 7, precision))
    with pytest.raises(InputError, match="within 0 to 2003 .* got 0 to 0"):
        evaluate(small, text, 0, 0, precision)
    with pytest.raises(InputError, match="within 1 to 2003 .* got 9 to 9"):
        dynamic_evaluate(small, text, [7, 9, 9, 12], precision)
    with pytest.raises(InputError, match="within 1 to 2003 .* got 1.5 to 9"):
        list(charges(small, text, 1.5, 9, precision))
    with pytest.raises(InputError, match="context must be an integer of at least 0, got -5"):
        evaluate(small, text, 7, 9, precision, context=-5)
    with pytest.raises(InputError, match="window must be an integer of at least 1, got 0"):
        list(charges(small, text, 7, 9, precision, window=0))


def test_baselines_are_the_known_figures():
    """Bits per byte given what precedes the slice, as measured with the command-line tools; bzip2 within one block."""
    enwik6 = load_corpus("enwik6")
    found = baselines(enwik6.data, enwik6.bounds)
    assert found["gzip -9"] == pytest.approx((2.590, 3.221), abs=0.001)
    assert found["bzip2 -9"] == pytest.approx((1.876, 2.500), abs=0.001)
    assert found["xz -9e"] == pytest.approx((1.987, 2.608), abs=0.001)
    assert found["uniform"] == (8, 8) and 4.9 < found["unigram"][0] < 5.3
    assert compressed_size(enwik6.data, "bzip2 -9") == 281_323


def test_baselines_are_computed_once_for_the_same_bytes_and_compressors(monkeypatch):
    data, calls = load_corpus("enwik6").data[:50_000], []
    bounds = {"valid": (40_000, 45_000), "test": (45_000, 50_000)}

    def counting(*arguments):
        calls.append(arguments)
        return compressor_bpc(*arguments)

    def n_calls(data, bounds):
        calls.clear()
        assert baselines(data, bounds).keys() == first.keys()
        return len(calls)

    monkeypatch.setattr("shalab.baselines.compressor_bpc", counting)
    first = baselines(data, bounds)
    assert len(calls) == 6 and baselines(data.copy(), bounds) == first and len(calls) == 6
    assert n_calls(data, {**bounds, "valid": (40_000, 44_000)}) == 6
    assert n_calls(np.where(data == 32, 33, data).astype(np.uint8), bounds) == 6
    assert n_calls(data, bounds) == 0
    monkeypatch.setitem(COMPRESSORS, "gzip -9", replace(COMPRESSORS["gzip -9"], start=lambda: zlib.compressobj(8)))
    assert n_calls(data, bounds) == 6 and n_calls(data, bounds) == 0


@pytest.mark.parametrize("damage", ["a digit", "cut", "other", "folder"])
def test_a_damaged_score_is_computed_anew(damage):
    data = load_corpus("enwik6").data[:50_000]
    bounds = {"valid": (40_000, 45_000), "test": (45_000, 50_000)}
    first = baselines(data, bounds)
    (path,) = (cache_dir() / "baselines").iterdir()
    whole = path.read_text(encoding="utf-8")
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        digit = whole.replace(str(first["gzip -9"][0]), "1.0625")
        bad = {"a digit": digit, "cut": whole[:-40], "other": "[3]"}[damage]
        assert bad != whole
        path.write_text(bad, encoding="utf-8")
    assert baselines(data, bounds) == first
    if damage != "folder":
        assert path.read_text(encoding="utf-8") == whole


def test_baselines_tell_how_far_they_are_on_a_large_corpus_only(monkeypatch, capsys):
    data = load_corpus("enwik6").data[:50_000]
    bounds = {"valid": (40_000, 45_000), "test": (45_000, 50_000)}
    baselines(data, bounds)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("shalab.baselines.LARGE", 50_000)
    baselines(data, {**bounds, "valid": (40_000, 44_000)})
    out, err = capsys.readouterr()
    assert "xz -9e: 100%" in err and "\n" in err and not out


@pytest.mark.parametrize(
    "compressor, seen, forgotten", [("gzip -9", 20_000, 60_000), ("bzip2 -9", 300_000, 950_000), ("xz -9e", 900_000, 0)]
)
def test_a_compressor_sees_as_far_back_as_is_said(compressor, seen, forgotten):
    text, n = load_corpus("enwik6").data, 10_007

    def repeated(distance):
        """Bits per byte of a slice that is a copy of the bytes so far before it."""
        data = np.concatenate([text, text[len(text) - distance :][:n]])
        return compressor_bpc(data, len(text), len(data), compressor)

    assert repeated(seen) < 1.5 and (not forgotten or repeated(forgotten) > 2.2)


def test_bzip2_has_each_piece_of_a_slice_in_one_block_with_what_precedes_it():
    text = load_corpus("enwik6").data[:700_000]
    assert compressor_bpc(np.concatenate([text, text[:300_003]]), 700_000, 1_000_003, "bzip2 -9") < 1
    noise = np.random.default_rng(0).integers(0, 256, 250_000, dtype=np.uint8)
    runs = np.repeat(noise, 4)  # bzip2 writes five bytes for four
    start = _block_start(runs, len(runs), 899_981)
    blocks = [
        bin(int.from_bytes(bz2.compress(runs[begin:].tobytes()))).count(f"{0x314159265359:048b}")
        for begin in (start, len(runs) - 899_981)
    ]
    assert blocks == [1, 2]


def test_an_archiver_is_charged_for_what_a_slice_adds(tmp_path, monkeypatch):
    """By a program of zpaq's name that keeps one byte of four, and 100 of its own."""
    program = tmp_path / "zpaq"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nif len(sys.argv) == 1: sys.exit('zpaq v0')\n"
        "add, archive, name, level = sys.argv[1:]\n"
        "open(archive, 'wb').write(open(name, 'rb').read()[::4] + bytes(100))\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    corpus = Corpus("mine", np.zeros(4000, np.uint8))
    size, version = ARCHIVERS["zpaq -m5"]
    found = measured(corpus, size, version())
    assert (found["version"], found["sizes"], found["bpc"]) == ("zpaq v0", [1000, 1050, 1100], [2, 2])


def test_a_long_text_is_measured_in_steps_that_are_kept(tmp_path, monkeypatch):
    """By a PPMd that keeps one byte of five, and a zpaq that is not installed at first."""
    kept = SimpleNamespace(Ppmd7Encoder=lambda order, memory: SimpleNamespace(encode=lambda data: data[::5]))
    monkeypatch.setitem(sys.modules, "pyppmd", kept)
    monkeypatch.setattr(laboratory, "version", lambda name: "0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(laboratory, "BEGINNINGS", (500, 1000))
    (tmp_path / "own.txt").write_bytes(bytes(40_000))
    monkeypatch.setattr(laboratory, "NEAR", 9000)
    monkeypatch.setattr(laboratory, "SHORT", 39_999)
    out = tmp_path / "results" / "own.json"
    monkeypatch.setattr("sys.argv", ["archivers", "--data", str(tmp_path / "own.txt"), "--out", str(out)])
    with pytest.raises(InputError, match="not all is installed .*zpaq"):
        laboratory.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["archivers"]["PPMd"]["sizes"] == [7200, 7600, 8000] and found["archivers"]["PPMd"]["bpc"] == [1.6, 1.6]
    assert found["archivers"]["PPMd"]["beginnings"] == {"500": [1.6, 1.6], "1000": [1.6, 1.6]}
    assert found["compressors"]["uniform"] == [8, 8] and "zpaq -m58" not in found["archivers"]

    monkeypatch.setattr(laboratory, "zpaq_version", lambda: "v0")
    monkeypatch.setattr(laboratory, "zpaq_size", lambda data, options=(): len(data) // 10)
    monkeypatch.setitem(sys.modules, "pyppmd", None)  # not asked again
    laboratory.main()
    after = json.loads(out.read_text(encoding="utf-8"))
    assert after["archivers"].pop("zpaq -m5 near")["beginnings"] == {"1000": [0.8, 0.8]}
    assert after["archivers"].pop("zpaq -m58")["bpc"] == [0.8, 0.8] and after == found


def test_a_short_text_is_measured_by_the_archivers_alone(tmp_path, monkeypatch):
    sizes = {"half": (lambda data: len(data) // 2, lambda: "v1"), "all": (len, lambda: "v2")}
    monkeypatch.setattr(laboratory, "ARCHIVERS", sizes)
    (tmp_path / "own.txt").write_bytes(bytes(4000))
    out = tmp_path / "own.json"
    monkeypatch.setattr("sys.argv", ["archivers", "--data", str(tmp_path / "own.txt"), "--out", str(out)])
    laboratory.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {name: row["bpc"] for name, row in found["archivers"].items()} == {"half": [4, 4], "all": [8, 8]}
    assert found["data_sha256"] == load_corpus(str(tmp_path / "own.txt")).sha256


def test_the_ladders_archivers_are_given_what_a_contestant_reads(tmp_path, monkeypatch):
    run = contestant("one head", TOY, 0.01)
    x = torch.cat([run.next_window()[0] for _ in range(20)])  # (T, B)
    given = np.frombuffer(laboratory.beginnings(load_corpus("enwik6").split("train"), TOY), np.uint8)
    assert len(given) == TOY.n_bytes
    piece = TOY.n_bytes // TOY.batch_size
    n = min(piece, len(x))
    assert (given.reshape(TOY.batch_size, piece)[:, :n] == x.T.numpy()[:, :n]).all() and n > 200

    monkeypatch.setattr(laboratory, "ARCHIVERS", {"half": (lambda data: len(data) // 2, lambda: "v1")})
    monkeypatch.setattr(laboratory, "ORDERS", (1, 2))
    out = tmp_path / "own.json"
    laboratory.measure_ladder(load_corpus("enwik6"), out, TOY)
    found = json.loads(out.read_text(encoding="utf-8"))["archivers"]
    assert found["half"]["bpc"] == [4, 4] and 3.9 < found["2-gram"]["bpc"][0] < 5 and "1-gram" not in found
    assert 2.2 < found["xz -9e"]["bpc"][0] < 3.2


def test_archivers_are_those_of_the_result_file_and_of_enwik6_only():
    enwik6 = load_corpus("enwik6")
    file = json.loads((assets_dir() / "results" / "archivers.json").read_text(encoding="utf-8"))
    for name, (valid, test) in archivers(enwik6).items():
        before, middle, after = file["archivers"][name]["sizes"]
        assert (valid, test) == pytest.approx((8 * (middle - before) / 50_000, 8 * (after - middle) / 50_000), abs=1e-4)
    assert archivers(Corpus("mine", enwik6.data[:1000])) == {}
    scores = json.loads((assets_dir() / "model" / "result.json").read_text(encoding="utf-8"))
    assert file["trained model"]["static"] == pytest.approx([scores["valid_bpc"], scores["test_bpc"]], abs=0.002)


def test_sampling():
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def share(**options):
        rows = torch.stack([logits, logits.flip(0)]).repeat(1000, 1)
        draws = sample(rows, **{"temperature": 1, "top_k": 0, "top_p": 1, **options}, generator=generator)
        draws[1::2] = 3 - draws[1::2]
        return (draws.bincount(minlength=4) / 2000).tolist()

    assert share() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert share(top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert share(top_p=0.81) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.04)
    assert share(top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert share(temperature=0) == share(temperature=1e-320) == [1, 0, 0, 0]
    assert share(temperature=0.5)[0] == pytest.approx(0.25 / 0.365, abs=0.04)


def test_top_p_stops_where_the_sum_is_reached():
    """Two quarters alone meet 1/2. Equal logits have probabilities that are exact in binary."""
    for top_p, kept in ((0.5, 2), (0.75, 3), (0.76, 4)):
        draws = sample(torch.zeros(500, 4), 1.0, 0, top_p, torch.Generator().manual_seed(0))
        assert len(set(draws.tolist())) == kept
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.double).log()
    assert logits.softmax(-1).tolist() == [[0.5, 0.25, 0.25]]
    assert set(sample(logits.expand(500, 3), 1.0, 0, 0.5, torch.Generator().manual_seed(0)).tolist()) == {0}


def test_the_prompt_that_is_no_bytes_is_named(small, precision):
    with pytest.raises(InputError, match="prompt must be bytes, got 'bad'"):
        generate_batch(small, [b"good", "bad"], 3, precision)


def test_generation_carries_the_state(small, precision):
    """Greedy bytes equal those found by reading everything again for each byte, as long as the memory has room."""
    small.max_context = 1000
    small.eval()
    found = list(generate(small, b"the town", 31, precision, temperature=0))
    text = list(b"the town")
    for _ in range(31):
        with torch.no_grad():
            text.append(int(small(torch.tensor(text).unsqueeze(1))[0][-1, 0].argmax()))
    assert found == text[8:]


@pytest.mark.parametrize("max_context", [0, 1, 23, 700])
@pytest.mark.parametrize("n_heads", [1, 7])
def test_prompts_side_by_side_equal_each_alone(text, precision, max_context, n_heads):
    """Prompts of several lengths, and enough bytes for every memory to fill and for its buffer to wrap round."""
    model = SHARNN(ModelConfig(256, 14, 28, 3, n_heads, (1,), max_context, init_scale=1.0)).eval()
    prompts = [text[:1].tobytes(), text[100:117].tobytes(), text[300:1400].tobytes()]
    rows = list(generate_batch(model, prompts, 211, precision, temperature=0))
    for prompt, column in zip(prompts, zip(*rows, strict=True), strict=True):
        with torch.no_grad():
            state, ids, found = None, torch.tensor(list(prompt)).unsqueeze(1), []
            for window in ids.split(1024):
                logits, state = model(window, state)
            for _ in range(211):  # the memory as the model cuts it, without a rolling buffer
                found.append(int(logits[-1, 0].argmax()))
                logits, state = model(torch.tensor([[found[-1]]]), state)
        assert list(column) == found


def test_generation_repeats_by_seed_and_leaves_the_global_generator(small, precision):
    torch.manual_seed(5)
    first = list(generate(small, b"a", 40, precision, seed=3))
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(()))
    assert first == list(generate(small, b"a", 40, precision, seed=3))
    assert first != list(generate(small, b"a", 40, precision, seed=4))


@pytest.mark.parametrize(
    "read, free, n_prompts, dtype, most",
    [
        (torch.bfloat16, False, 1, torch.float16, 0.05),
        (torch.bfloat16, False, 2, torch.bfloat16, 0.15),
        (torch.float32, True, 1, torch.float16, 0.05),
        (torch.float32, True, 2, torch.float32, 1e-4),
        (torch.float32, False, 1, torch.float32, 1e-4),
    ],
)
def test_formats_of_generation_on_a_cpu(roomy, monkeypatch, read, free, n_prompts, dtype, most):
    """One prompt's matrices are float16, which rounds less than bfloat16 and is faster than either, unless float32 was
    asked for; the bytes are prescribed, their logits those of float32."""
    text, prompt = torch.randint(256, (31,)), b"the town"
    seen = []

    def take(logits, *_):
        seen.append(logits.clone())
        return text[len(seen) - 1].expand(n_prompts)

    monkeypatch.setattr("shalab.generate.sample", take)
    precision = Precision(torch.device("cpu"), read, automatic=free)
    assert len(list(generate_batch(roomy, [prompt] * n_prompts, 31, precision))) == 31
    expected, _ = roomy(torch.cat([torch.tensor(list(prompt)), text]).unsqueeze(1))
    errors = torch.stack(seen[1:])[:, 0] - expected[len(prompt) : -1, 0]
    assert seen[0].dtype == read and {logits.dtype for logits in seen[1:]} == {dtype}
    assert errors.abs().max() < most


def test_broken_bytes_become_valid_text():
    assert list(as_text([0x41, 0xC3, 0xA9, 0xFF, 0x42, 0xC3])) == ["A", "é", "\ufffd", "B", "\ufffd"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": b""}, "prompt must have at least one byte"),
        ({"n_bytes": -1}, "n_bytes must be an integer of at least 0, got -1"),
        ({"temperature": -0.5}, "temperature must be finite and at least 0, got -0.5"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        (
            {"top_p": math.nan, "top_k": 1.5},
            "top_k must be an integer of at least 0, got 1.5; top_p must be .* got nan",
        ),
        ({"temperature": math.nan}, "temperature must be finite and at least 0, got nan"),
        ({"n_bytes": 2.0}, "n_bytes must be an integer of at least 0, got 2.0"),
        ({"seed": 2**64}, "seed must be an integer of at most 64 bits, got 18446744073709551616"),
        ({"prompt": "text"}, "prompt must be bytes, got 'text'"),
    ],
)
def test_bad_generation_options(small, precision, options, message):
    with pytest.raises(InputError, match=message):
        generate(small, **{"prompt": b"a", "n_bytes": 3, "precision": precision, **options})
