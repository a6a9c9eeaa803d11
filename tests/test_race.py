"""The race is run by the rules that it states, and the study of a head counts what it says."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shalab import SHARNN, ModelConfig
from shalab.bundled import stored_result
from shalab.corpus import Corpus
from shalab.device import Precision
from shalab.evaluate import charges
from shalab.laboratory import race as racing
from shalab.laboratory.experiments import kept
from shalab.laboratory.heads import KINDS, READINGS, study
from shalab.laboratory.race import COPIER, GPT, NO_HEAD, PAPER
from shalab.laboratory.search import OpenCorpus
from shalab.metrics import NATS_PER_BIT

measure = racing.speeds
CPU = Precision.pick("cpu", "float32")


@pytest.fixture
def head():
    """A model whose head is far from a plain average, and a text of few letters, which repeats itself."""
    model = SHARNN(
        ModelConfig(d_model=12, d_boom=24, n_layers=2, attention_layers=(0,), max_context=24, init_scale=2.0)
    )
    with torch.no_grad():
        model.blocks[0].attention.query_gate.fill_(6.0)
        model.blocks[0].attention.key_gate.fill_(6.0)
    text = np.random.default_rng(0).integers(97, 101, 100).astype(np.uint8)
    return model.eval().requires_grad_(False), text


def test_a_study_counts_weights_as_one_place_after_the_other_does(head):
    model, text = head
    begin, window, n_streams, piece = 31, 5, 3, 20
    found = study(model, text, begin, begin + n_streams * piece + 2, CPU, n_streams, window)
    weight, plain, by_age, n = dict.fromkeys(found["weight"], 0.0), dict.fromkeys(found["weight"], 0.0), np.zeros(25), 0
    for stream in range(n_streams):
        start = begin + stream * piece
        read, state = text[start - 25 : start + piece], None  # the last byte is only predicted
        for low in range(0, 24 + piece, window):
            ids = torch.from_numpy(read[low : min(low + window, 24 + piece)].astype(np.int64))[:, None]
            _, state, weights = model(ids, state, need_weights=True)
            rows = weights[0][0, 0].tolist()
            for t, row in enumerate(rows, low):
                first = low + len(ids) - len(row)  # the place that the row begins with
                if low < 24:
                    continue
                n += 1
                for place, w in enumerate(row, first):
                    if place > t:
                        assert w == 0
                        continue
                    by_age[t - place] += w
                    earlier = place < t
                    holds = {
                        "its own byte": place == t,
                        "the byte before": place == t - 1,
                        "the same byte": earlier and read[place] == read[t],
                        "after the same byte": earlier and place >= 1 and read[place - 1] == read[t],
                        "after the same three bytes": earlier
                        and place >= 3
                        and bytes(read[place - 3 : place]) == bytes(read[t - 2 : t + 1]),
                        "holds the byte that comes next": earlier and read[place] == read[t + 1],
                    }
                    for kind, true in holds.items():
                        weight[kind] += w * true
                        plain[kind] += true / (t - first + 1)
    for kind in weight:
        assert found["weight"][kind] == pytest.approx(weight[kind] / n, abs=1e-3), kind
        assert found["lift"][kind] == pytest.approx(weight[kind] / plain[kind], rel=0.01, abs=0.01), kind
    assert found["age"]["at"] == by_age[2:].argmax() + 2


def test_a_study_reads_as_an_evaluation_does(head):
    model, text = head
    begin, end, reading = 31, 91, {"window": 6, "n_streams": 3, "context": 24}
    found = study(model, text, begin, end, CPU, n_streams=3, window=6)
    silent = copy.deepcopy(model).collapse()
    silent.blocks[0].attention.value_gate.vector.data.zero_()
    for of, name in ((model, READINGS[0]), (silent, READINGS[1])):
        bits = torch.cat(list(charges(of, text, begin, end, CPU, **reading))) / NATS_PER_BIT
        assert found["bits"][name] == pytest.approx(bits.mean().item(), abs=2e-4)
    assert abs(found["bits"][READINGS[2]] - found["bits"][READINGS[0]]) > 1e-3
    alone = study(model, text, begin, end, CPU, n_streams=1, window=6)["bits"]
    assert alone[READINGS[2]] == alone[READINGS[0]]  # there is no other text
    shares = [found["kinds"][kind]["share"] for kind in KINDS]
    assert sum(shares) == pytest.approx(1, abs=2e-4)
    for place, name in enumerate(READINGS):
        mean = sum(found["kinds"][kind]["share"] * found["kinds"][kind]["bits"][place] for kind in KINDS)
        assert mean == pytest.approx(found["bits"][name], abs=1e-3)


def test_a_byte_is_seen_before_if_what_precedes_it_is():
    model = SHARNN(ModelConfig(d_model=12, d_boom=24, n_layers=1, attention_layers=(0,), max_context=16)).eval()
    text = np.frombuffer(b"." * 3 + b"0123456789abcdef" + b"xyz1pqrxyz1uvwxyz2", np.uint8)
    found = study(model, text, 19, 37, CPU, n_streams=1, window=6)["kinds"]
    counts = [round(18 * found[kind]["share"]) for kind in KINDS]
    assert counts == [1, 2, 15]  # after xyz a 1; after yz1 a u, where p was; after xyz a 2, where 1 was


@pytest.fixture
def small(monkeypatch):
    """The race on 40,000 bytes by tiny models."""
    data = np.random.default_rng(0).integers(97, 101, 40_000).astype(np.uint8)
    monkeypatch.setattr(racing, "load_corpus", lambda name: Corpus("small", data))
    monkeypatch.setattr(racing, "open_corpus", lambda: OpenCorpus("small", data[:38_000], n_train=36_000))
    models = {name: replace(of, d_model=8, d_boom=16, max_context=64) for name, of in racing.MODELS.items()}
    monkeypatch.setattr(racing, "MODELS", models)
    monkeypatch.setattr(racing, "GPT_RECIPE", replace(racing.GPT_RECIPE, d_model=8, n_layers=1))
    monkeypatch.setattr(racing, "speeds", lambda rates: {name: [1000, 500, 900] for name in models} | {
        NO_HEAD: [2000, 500, 1350], GPT: [700, 400, 900]})  # fmt: skip


def test_a_race_gives_bytes_or_time_and_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    found = racing.race(6000, (0, 1), kept(tmp_path / "parts"))
    assert found["share"] == {PAPER: 1.0, COPIER: 1.0, NO_HEAD: 1.5, GPT: 0.8}
    runs = {}
    for run in found["runs"]:
        for of in run["races"]:
            runs.setdefault((of, run["contestant"]), []).append(run)
    assert set(runs) == {(of, name) for of in ("bytes", "time") for name in (PAPER, COPIER, NO_HEAD, GPT)}
    assert all([run["seed"] for run in of] == [0, 1] for of in runs.values())
    assert found["runs"][-1]["contestant"] == NO_HEAD
    assert found["runs"][-1]["n_bytes"] == pytest.approx(9000, rel=0.15)
    assert runs["bytes", GPT][0]["n_bytes"] == pytest.approx(6000, rel=0.1)
    assert runs["bytes", GPT][0]["valid"] != runs["bytes", GPT][1]["valid"]
    assert [point["n_bytes"] > 0 for point in found["head"]] == [False, True]
    assert set(found) == set(stored_result("race")) - {"command"}  # a notebook reads the one or the other

    def repeated(*_):
        raise AssertionError

    monkeypatch.setattr(racing, "trained", repeated)
    monkeypatch.setattr(racing, "head_that_learns", repeated)
    again = racing.race(6000, (0, 1), kept(tmp_path / "parts"))
    assert json.dumps(again) == json.dumps(found)


def test_a_schedule_ends_where_the_training_does(small):
    for name in (PAPER, GPT):
        run = racing.contestant(name, 1e-2, 5000)
        while run.step < run.total_steps:
            run.update()
        assert run.n_bytes == pytest.approx(5000, rel=0.15)
    run = racing.contestant(NO_HEAD, 1e-2, 10**6)
    assert run.lr < 1e-3  # warming up
    run.step = run.total_steps // 2
    assert 3e-3 < run.lr < 7e-3
    run.step = run.total_steps - 1
    assert run.lr < 1e-4


def test_bytes_are_those_that_training_reads(small):
    run = racing.contestant(COPIER, 1e-2, 5000, seed=3)
    while run.step < run.total_steps:
        run.update()
    assert racing.bytes_read(5000, 3) == run.n_bytes != 5000


def test_rates_are_the_best_of_those_that_were_tried():
    rates = racing.best_rates(stored_result("backoff")["runs"])
    assert rates == {PAPER: 0.01, COPIER: 0.005, NO_HEAD: 0.005}
    runs = [{"start": start, "lr": lr, "valid": bpc} for start in racing.IN_BACKOFF.values()
            for lr, bpc in ((1, 3.0), (1, 1.0), (2, 1.5), (2, 1.9))]  # fmt: skip
    assert set(racing.best_rates(runs).values()) == {2}


def test_scores_are_of_the_splits_that_training_does_not_see(small):
    run = racing.contestant(GPT, 0.0, 1000)
    data = racing.load_corpus("").data
    found = racing.scores(run)
    window, nats = run.config.window, 0.0
    for place in range(38_000, 40_000):  # the byte at `place`, in the window of the eight that it belongs to
        low = 38_000 + (place - 38_000) // 8 * 8 + 7 - window
        ids = torch.from_numpy(data[low : low + window].astype(np.int64))[None]
        if place == 38_000 + (place - 38_000) // 8 * 8:
            with torch.no_grad(), run.precision.autocast():
                logits = run.model.eval()(ids)[0].float()
        nats += F.cross_entropy(logits[place - 1 - low][None], torch.tensor([int(data[place])])).item()
    assert found["test"] == pytest.approx(nats / 2000 / NATS_PER_BIT, abs=2e-3)


def test_all_contestants_train_at_a_speed(small):
    found = measure({PAPER: 0.01, COPIER: 0.01, NO_HEAD: 0.01}, rounds=2, slice_s=0.02)
    assert list(found) == [PAPER, COPIER, NO_HEAD, GPT] and all(len(of) == 2 and min(of) > 0 for of in found.values())


def test_the_recorded_race_is_complete():
    found = stored_result("race")
    runs = {of: sorted((run["contestant"], run["seed"]) for run in found["runs"] if of in run["races"])
            for of in ("bytes", "time")}  # fmt: skip
    everybody = sorted((name, seed) for name in found["share"] for seed in found["seeds"])
    assert runs["bytes"] == everybody and {name for name, _ in runs["time"]} == set(found["share"])
    assert found["threads"] == 1 and found["share"][GPT] < 1 < found["share"][NO_HEAD]
