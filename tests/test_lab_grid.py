"""The ladder's grid goes on where it was killed, and its contestants are what their names say."""

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from shalab import InputError, cli
from shalab.laboratory import lab
from shalab.laboratory.contestants import (
    CONTESTANTS,
    COPIER,
    FULL,
    GPT,
    REFERENCE,
    TIMED,
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
    monkeypatch.setattr(
        lab, "speeds", lambda names, *_: {name: [100, 300, 200 + 100 * (name != REFERENCE)] for name in names}
    )
    return asked


def quiet(line):
    pass


def test_a_real_grid_of_two_cells_is_killed_and_goes_on(tmp_path):
    """A process is killed after its first training, with a second one under way; the next repeats nothing."""
    out, lines = tmp_path / "ladder.json", tmp_path / "ladder.jsonl"
    program = f"""
from shalab.laboratory import lab, contestants
from pathlib import Path
contestants.CONTESTANTS["one head"] = contestants.Contestant("", rates=(0.01,))
contestants.CONTESTANTS.pop("no head")
lab.ladder(Path({str(out)!r}), ["one head"], contestants.TOY, (0, 1), lambda line: print(line, flush=True))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline().startswith("1 of 2  one head, seed 0, rate 0.01")
        os.kill(first.pid, signal.SIGKILL)
    kept = lines.read_bytes()
    assert len(kept.splitlines()) == 2 and json.loads(out.read_text(encoding="utf-8"))["left"] == 1
    lines.write_bytes(kept + b'{"cell": "one he')  # as a kill in the middle of a line leaves it
    said = subprocess.check_output(command, text=True).splitlines()
    assert said[0].endswith(", kept") and "kept" not in said[1] and len(said) == 2
    assert lines.read_bytes().startswith(kept) and len(lines.read_bytes().splitlines()) == 3
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["left"] == 0 and [run["seed"] for run in found["runs"]] == [0, 1]
    assert all(3 < run["valid"] < 8 and run["versions"]["torch"] for run in found["runs"])


def test_each_contestant_keeps_its_best_rate_and_the_others_take_that_of_whom_they_are_held_against(tmp_path, made_up):
    found = lab.ladder(tmp_path / "a.json", ["minGRU", "full matrices", "a copier, feed-forward"], tell=quiet)
    assert {name: one["lr"] for name, one in found["contestants"].items()} == {
        "one head": 0.01, "a copier": 0.01, "minGRU": 0.01, "full matrices": 0.01, "a copier, feed-forward": 0.01
    }  # fmt: skip
    tried = [lr for name, lr, seed, _ in made_up if (name, seed) == ("a copier", 0)]
    assert tried == [2.5e-3, 5e-3, 1e-2]
    assert [call[1:3] for call in made_up if call[0] == "full matrices"] == [(0.01, 0), (0.01, 1), (0.01, 2)]
    assert [call[3] for call in made_up if call[0] == "minGRU"][-3:] == [FULL.n_bytes] * 3, "as fast: median of ratios"


def test_equal_time_reads_as_much_as_the_speed_allows(tmp_path, made_up, monkeypatch):
    speed = {REFERENCE: [100, 100, 50], "minGRU": [200, 150, 500]}  # 2, 1.5 and 10 times as many
    monkeypatch.setattr(lab, "speeds", lambda names, *_: speed)
    found = lab.ladder(tmp_path / "a.json", ["minGRU"], seeds=(0, 1), tell=quiet)
    assert found["share"] == {REFERENCE: 1.0, "minGRU": 2.0}
    timed = [run for run in found["runs"] if run["timed"]]
    assert [run["n_bytes"] for run in timed] == [2 * FULL.n_bytes] * 2
    assert lab.by_seed(found, "minGRU", timed=True) == [run["valid"] for run in timed]
    assert lab.by_seed(found, REFERENCE, timed=True) == lab.by_seed(found, REFERENCE)


def test_a_second_call_trains_nothing_and_other_settings_are_refused(tmp_path, made_up):
    out = tmp_path / "a.json"
    first = lab.ladder(out, ["minGRU"], tell=quiet)
    n = len(made_up)
    assert lab.ladder(out, ["minGRU"], tell=quiet) == first and len(made_up) == n
    lab.ladder(out, ["minGRU", "SRU"], tell=quiet)
    assert {call[0] for call in made_up[n:]} == {"SRU"}
    with pytest.raises(InputError, match="other settings.*another file"):
        lab.ladder(out, ["minGRU"], replace(FULL, d_model=32), tell=quiet)


def test_the_main_rows_come_first_and_each_cell_once():
    order = lab.cells(CONTESTANTS, (0, 1, 2))
    main = [CONTESTANTS[cell.contestant].main for cell in order]
    assert main == sorted(main, reverse=True) and len(set(order)) == len(order)
    assert {cell.contestant for cell in order if cell.timed} == {*TIMED}
    for name, one in CONTESTANTS.items():
        n_trained = sum(cell.contestant == name and not cell.timed for cell in order)
        assert n_trained == (len(one.rates) + 2 if one.rates else 3)


def test_a_row_by_hand():
    """0.3, 0.1 and 0.2 apart: mean 0.2, spread 0.1, half the interval 4.303 * 0.1 / sqrt(3) = 0.2484: zero is in it."""
    runs = [
        {"contestant": name, "timed": False, "seed": seed, "lr": 0.01, "valid": valid, "test": valid, "n_parameters": 5}
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
        (REFERENCE, "bare value vector"),
        (COPIER, "a copier, full matrices"),
    ):
        torch.testing.assert_close(logits(twin), logits(plain), atol=1e-4, rtol=1e-4)
    parameters = {name: contestant(name, FULL, 0.01).model.n_parameters for name in CONTESTANTS}
    assert abs(parameters[GPT] / parameters[REFERENCE] - 1) < 0.05
    assert abs(parameters["feed-forward, as many parameters"] / parameters[REFERENCE] - 1) < 0.01
    assert parameters[REFERENCE] - parameters["bare value vector"] == 2 * 64**2 + 2 * 64
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
