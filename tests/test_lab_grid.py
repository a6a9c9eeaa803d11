"""The ladder's grid goes on where it was killed, and its contestants are what their names say."""

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from filelock import FileLock

from shalab import InputError, cli
from shalab.corpus import Corpus, load_corpus
from shalab.laboratory import lab, race
from shalab.laboratory.contestants import (
    CONTESTANTS,
    COPIER,
    FULL,
    GPT,
    REFERENCE,
    TOY,
    UNCORRECTED,
    contestant,
)  # fmt: skip

PAIR = {"one head": 0.01, "no head": 0.01}


@pytest.fixture
def made_up(monkeypatch):
    """Trainings that take no time: their score follows from what was asked for. Returns the list of calls."""
    asked = []

    def trained(name, lr, seed, size, n_bytes):
        asked.append((name, lr, seed, n_bytes))
        valid = 2 + abs(lr - 0.01) + 0.1 * seed + 0.01 * list(CONTESTANTS).index(name)
        return {"seed": seed, "lr": lr, "n_bytes": n_bytes, "n_parameters": 7, "valid": valid, "test": valid + 0.5}

    monkeypatch.setattr(lab, "trained", trained)
    monkeypatch.setattr(lab, "speeds", lambda name, size: [1.0, 2.0, 1.5 if name == "minGRU" else 1.0])
    return asked


def quiet(line):
    pass


def test_a_real_grid_of_two_cells_is_killed_and_goes_on(tmp_path):
    """A process is killed after its first training, with a second one under way; the next repeats nothing."""
    out, lines = tmp_path / "ladder.json", tmp_path / "ladder.jsonl"
    program = f"""
import sys
from pathlib import Path
from shalab.laboratory import lab, contestants
whole, begun = lab.trained, []
def trained(*arguments):
    begun.append(arguments)
    if len(begun) == 2:
        sys.stdin.read()  # until it is killed
    return whole(*arguments)
lab.trained = trained
lab.LENGTHS = (1.0,)
contestants.CONTESTANTS["one head"] = contestants.Contestant("", rates=(0.01,))
contestants.CONTESTANTS.pop("no head")
lab.ladder(Path({str(out)!r}), ["one head"], contestants.TOY, (0, 1), lambda line: print(line, flush=True))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline().startswith("1 of 2  one head, seed 0, rate 0.01")
        os.kill(first.pid, signal.SIGKILL)
    kept = lines.read_bytes()
    assert len(kept.splitlines()) == 3 and json.loads(out.read_text(encoding="utf-8"))["left"] == 1
    lines.write_bytes(kept + b'{"cell": "one he')  # as a kill in the middle of a line leaves it
    said = subprocess.check_output(command, stdin=subprocess.DEVNULL, text=True).splitlines()
    assert said[0].endswith(", kept") and "kept" not in said[1] and len(said) == 2
    assert lines.read_bytes().startswith(kept)
    assert [json.loads(line).get("cell", "")[:16] for line in lines.read_bytes().splitlines()] == [
        "", "one head, seed 0", "one head, speed", "one head, seed 1"
    ]  # fmt: skip
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["left"] == 0 and [run["seed"] for run in found["runs"]] == [0, 1]
    assert all(3 < run["valid"] < 8 and run["versions"]["torch"] for run in found["runs"])


def test_the_whole_ladder_in_small(tmp_path, monkeypatch):
    """Every contestant really trains, and is scored and timed, on a few bytes."""
    little = Corpus("enwik6", load_corpus("enwik6").data[:20_000])
    monkeypatch.setattr(race, "load_corpus", lambda name: little)  # to score on
    monkeypatch.setattr(race, "READING", {"window": 64, "n_streams": 10, "context": 64})
    monkeypatch.setattr(lab, "speeds", partial(lab.speeds, rounds=1, slice_s=0.01))
    for name, one in CONTESTANTS.items():
        monkeypatch.setitem(CONTESTANTS, name, replace(one, rates=one.rates[:1]))
    out, told = tmp_path / "a.json", []
    found = lab.ladder(out, size=replace(TOY, n_bytes=600), seeds=(0, 1), tell=told.append)
    assert len(found["runs"]) == 2 * len(CONTESTANTS) + 4 and len(told) == len(found["runs"])
    assert all(4 < run[split] < 12 and run["processor_s"] > 0 for run in found["runs"] for split in ("valid", "test"))
    assert [row["contestant"] for row in lab.rows(found)] == [*CONTESTANTS]
    assert all(one["speed"][0] > 0 for one in found["contestants"].values())
    assert json.loads(out.read_text(encoding="utf-8")) == found


def test_each_contestant_keeps_its_best_rate_and_the_others_take_that_of_whom_they_are_held_against(tmp_path, made_up):
    found = lab.ladder(tmp_path / "a.json", ["minGRU", "full matrices", "a copier, full matrices"], tell=quiet)
    assert {name: one["lr"] for name, one in found["contestants"].items()} == {
        "one head": 0.01, "a copier": 0.01, "minGRU": 0.01, "full matrices": 0.01, "a copier, full matrices": 0.01
    }  # fmt: skip
    tried = [lr for name, lr, seed, _ in made_up if (name, seed) == ("a copier", 0)]
    assert tried == [5e-3, 1e-2, 2e-2]
    assert [call[1:3] for call in made_up if call[0] == "full matrices"] == [(0.01, 0), (0.01, 1), (0.01, 2)]


def test_equal_time_by_hand(tmp_path, made_up, monkeypatch):
    """minGRU is sqrt(2) times as fast: in its time "one head" reads 300,000 / sqrt(2), halfway between its trainings of
    half the bytes and of all of them, on a logarithmic scale."""
    monkeypatch.setattr(lab, "speeds", lambda name, size: [2**0.5, 9.0, 1.0] if name == "minGRU" else [1.0] * 3)
    found = lab.ladder(tmp_path / "a.json", ["minGRU"], tell=quiet)
    lengths = [n_bytes for name, _, seed, n_bytes in made_up if name == REFERENCE and seed == 1]
    assert lengths == [FULL.n_bytes, FULL.n_bytes / 2, FULL.n_bytes * 2]
    for run in found["runs"]:
        if run["contestant"] == REFERENCE:
            run["valid"] = {0.5: 3.0, 1.0: 2.6, 2.0: 2.2}[run["times"]]
    assert lab.reference_in_its_time(found, "minGRU") == pytest.approx([2.8] * 3)
    assert lab.reference_in_its_time(found, REFERENCE) == pytest.approx([2.6] * 3)
    *_, row = lab.rows(found, equal_time=True)
    assert row["difference"] == pytest.approx(statistics.mean(lab.by_seed(found, "minGRU")) - 2.8)
    found["contestants"]["minGRU"]["speed"] = [0.4] * 3  # the reference would read 2.5 times as much: not trained
    assert [row["contestant"] for row in lab.rows(found, equal_time=True)] == [REFERENCE]


def test_speeds_are_measured_in_turns(monkeypatch):
    """A clock that only updates move: one of "no head" takes 1 s, one of the reference 3 s, for the same bytes."""
    now = 0.0

    class Run:
        def __init__(self, name):
            self.n_bytes, self.name = 0, name

        def update(self):
            nonlocal now
            now += 3 if self.name == REFERENCE else 1
            self.n_bytes += 60

    monkeypatch.setattr(lab, "contestant", lambda name, *_, **__: Run(name))
    monkeypatch.setattr(lab.time, "process_time", lambda: now)
    assert lab.speeds("no head", FULL, rounds=4) == [3.0] * 4


def test_a_second_call_trains_nothing_and_other_settings_are_refused(tmp_path, made_up):
    out = tmp_path / "a.json"
    first = lab.ladder(out, ["minGRU"], tell=quiet)
    n = len(made_up)
    assert lab.ladder(out, ["minGRU"], tell=quiet) == first and len(made_up) == n
    lab.ladder(out, ["minGRU", "SRU"], tell=quiet)
    assert {call[0] for call in made_up[n:]} == {"SRU"}
    with pytest.raises(InputError, match="other settings.*another file"):
        lab.ladder(out, ["minGRU"], replace(FULL, d_model=32), tell=quiet)


def test_each_cell_comes_once_and_after_what_it_needs():
    order = lab.cells(CONTESTANTS, (0, 1, 2))
    assert len(set(order)) == len(order)
    assert {(cell.contestant, cell.times) for cell in order if cell.times != 1} == {(REFERENCE, 0.5), (REFERENCE, 2.0)}
    for name, one in CONTESTANTS.items():
        places = [n for n, cell in enumerate(order) if cell.contestant == name]
        n_trained = sum(order[n].times == 1 for n in places)
        assert n_trained == (len(one.rates) + 2 if one.rates else 3)
        assert places == [*range(places[0], places[-1] + 1)], "a ladder that is cut off has whole rows"
        if not one.rates:
            assert [cell.contestant for cell in order].index(one.against) < places[0]


def test_a_row_by_hand():
    """0.3, 0.1 and 0.2 apart: mean 0.2, spread 0.1, half the interval 4.303 * 0.1 / sqrt(3) = 0.2484: zero is in it."""
    runs = [
        {"contestant": name, "times": 1.0, "seed": seed, "lr": 0.01, "valid": valid, "test": valid, "n_parameters": 5}
        for name, scores in {"one head": (2.0, 2.1, 2.2), "no head": (2.3, 2.2, 2.4)}.items()
        for seed, valid in enumerate(scores)
    ]
    found = {"seeds": [0, 1, 2], "runs": runs,
             "contestants": {name: {"against": "one head", "lr": 0.01} for name in PAIR}}  # fmt: skip
    reference, row = lab.rows(found)
    assert reference["difference"] is None and reference["mean"] == pytest.approx(2.1)
    assert row["difference"] == pytest.approx(0.2) and row["by"] == pytest.approx(0.2484, abs=1e-4) and not row["seen"]
    assert "no difference seen" in lab.table(found)
    runs[-2]["valid"] = 2.31  # 0.3, 0.21 and 0.2: half of it is 0.137
    assert [*lab.rows(found)][1]["seen"] and "no difference seen" not in lab.table(found)
    assert len([*lab.rows(found | {"runs": runs[:-1]})]) == 1, "a row waits for all of its seeds"
    assert lab.interval([1.0, 2.0, 4.0])[1] == pytest.approx(4.303 * statistics.stdev([1, 2, 4]) / 3**0.5)


def test_a_training_that_diverged_is_no_best_rate_and_no_row(tmp_path, made_up, monkeypatch):
    finite = lab.trained

    def trained(name, lr, *rest):
        found = finite(name, lr, *rest)
        return found | {"valid": None, "test": None} if lr == 0.01 else found

    monkeypatch.setattr(lab, "trained", trained)
    found = lab.ladder(tmp_path / "a.json", ["no head"], tell=quiet)
    assert found["contestants"]["no head"]["lr"] == 5e-3


def test_every_contestant_differs_as_its_name_says():
    x = torch.randint(256, (40, 3))

    def logits(name):
        model = contestant(name, TOY, 0.01).model.eval()
        _, state = model(x)
        return model(x, state)[0]

    for plain, twin in (
        (REFERENCE, "full matrices"),
        (COPIER, "a copier, bare vector"),
        (COPIER, "a copier, full matrices"),
    ):
        torch.testing.assert_close(logits(twin), logits(plain), atol=1e-4, rtol=1e-4)
    parameters = {name: contestant(name, FULL, 0.01).model.n_parameters for name in CONTESTANTS}
    assert abs(parameters[GPT] / parameters[REFERENCE] - 1) < 0.05
    assert parameters[REFERENCE] - parameters["a copier, bare vector"] == 2 * 64**2 + 2 * 64
    assert parameters["minGRU"] < parameters["SRU"] < parameters["quasi-recurrent"] < parameters[REFERENCE]
    assert contestant("a copier, window only", FULL, 0.01).model.max_context == 0
    assert contestant("a copier, twice the memory", FULL, 0.01).model.max_context == 2 * FULL.memory
    assert len(contestant("a head in every block", TOY, 0.01).model(x, need_weights=True)[2]) == 2
    assert contestant("a copier, head taken out", TOY, 0.01).model(x)[1].memory == (None, None)


def test_adam_without_bias_correction_takes_adams_step_but_for_the_correction():
    """After one step Adam's is lr sign(g); without the corrections (1 - b1) / sqrt(1 - b2) = 3.16 times as long."""
    runs = {name: contestant(name, TOY, 0.01) for name in ("Adam", UNCORRECTED)}
    steps = {}
    for name, run in runs.items():
        before = run.model.decoder.bias.detach().clone()
        run.update()
        steps[name] = run.model.decoder.bias.detach() - before
    large = steps["Adam"].abs() > 0.9999 * 0.01 / TOY.warmup_steps  # where eps is nothing beside the gradient
    assert large.sum() > 50
    torch.testing.assert_close(steps[UNCORRECTED][large], 10**0.5 * steps["Adam"][large], rtol=1e-2, atol=0)


def test_what_was_asked_wrongly_gets_a_sentence(tmp_path, capsys):
    assert cli.main(["lab", str(tmp_path / "a.json"), "--only", "two heads"]) == 2
    assert "no contestant is called two heads; there are one head" in capsys.readouterr().err
    assert cli.main(["lab", str(tmp_path / "a.json"), "--seeds", "1"]) == 2
    assert "2 to 8 seeds, got 1" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["lab", str(tmp_path / "file" / "a.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_two_processes_do_not_write_to_one_file(tmp_path):
    with FileLock(tmp_path / "a.lock"), pytest.raises(InputError, match="another process is writing"):
        lab.run(tmp_path / "a.json", ["minGRU"], 300_000, 3)
