"""A run in a process of its own: it outlives what began it, is seen and steered through its folder, and goes on."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lab import violations
from playwright.sync_api import expect
from tqdm import tqdm
from waiting import WAIT_S, until

from shalab import InputError, ModelConfig
from shalab import follow as following
from shalab import train as training
from shalab.background import StateEvent
from shalab.checkpoint import load_checkpoint
from shalab.cli import main
from shalab.events import CheckpointEvent, read_metrics
from shalab.files import Owner
from shalab.follow import Follower
from shalab.presets import Budget, Preset
from shalab.run import Run
from shalab.steering import LOOK_S
from shalab.train import TrainConfig
from shalab.widgets import Dashboard

RECIPE = TrainConfig(
    batch_size=5, bptt=17, lr=1e-2, schedule="cosine", warmup_steps=3, evaluations=3, checkpoint_every=50,
    sample_bytes=0,
)  # fmt: skip
PRESET = Preset(ModelConfig(256, 11, 33, n_layers=2, attention_layers=(0,), max_context=23), RECIPE, Budget(steps=31))
LONG = 100_000  # updates of a run that is ended before its time, however slow this machine is


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("own.txt").write_bytes(text.tobytes())
    yield
    for path in tmp_path.rglob("owner"):  # whatever a failed test left running
        if Owner.is_held(path.parent) and (process := Owner.read(path.parent)[0]) != os.getpid():
            os.kill(process, signal.SIGTERM)


def launch(folder="a", preset=PRESET, steps=None):
    return Run.launch(folder, "tiny", preset, "own.txt", 3, Budget(steps=steps) if steps else None, "cpu", "float32")


def weights(folder):
    content = load_checkpoint(folder)
    return content["step"], content["model"]


def same(a, b):
    (step, a), (other, b) = weights(a), weights(b)
    return step == other and all(torch.equal(a[name], b[name]) for name in a)


def steps(folder):
    return [line["step"] for line in read_metrics(folder) if line["event"] == "step"]


def test_a_launched_run_is_the_run_that_create_makes(precision):
    run = Run.create("plain", "tiny", PRESET, "own.txt", 3, precision=precision)
    list(run.events())
    expected = run.finish()
    follower = launch()
    lines = []
    follower.start(lambda event: lines.append(event) if isinstance(event, dict) else None)
    follower.wait()
    assert same("plain", "a") and lines == read_metrics("a") and follower.process is None
    assert follower.result()["test_bpc"] == expected["test_bpc"]
    assert not Path("a/ask").exists() and "stopped" not in Path("a/console.txt").read_text(encoding="utf-8")


def test_a_launched_run_begins_with_trained_weights(precision):
    list(Run.create("plain", "tiny", PRESET, "own.txt", 3, precision=precision).events())
    other = replace(PRESET, model=replace(PRESET.model, d_model=13, d_boom=13))
    follower = Run.launch("a", "tiny", other, "own.txt", init_from="plain")
    follower.start()
    follower.wait()
    assert load_checkpoint("a")["config"]["model"]["d_model"] == 11
    assert read_metrics("a")[0]["bpc"] < read_metrics("plain")[0]["bpc"] - 1


KERNEL = """
import sys; from test_follow import LONG, launch
print(*launch(steps=LONG).process, flush=True); sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
def test_the_kernel_and_its_whole_group_may_die():
    """JupyterLab ends a kernel with SIGKILL to its process group, a terminal with SIGHUP to its session."""
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    process = int(kernel.stdout.readline().split()[0])
    for number in (signal.SIGHUP, signal.SIGKILL):
        os.killpg(kernel.pid, number)
    kernel.communicate()
    follower = Follower("a")  # as after a restart
    assert follower.process[0] == process
    before = len(steps("a"))
    until(lambda: len(steps("a")) > before, "further update")
    follower.end()
    until(lambda: follower.process is None, "end")
    last = read_metrics("a")[-1]
    assert (last["event"], last["reason"]) == ("end", "stopped") and weights("a")[0] == last["step"] < LONG


def test_killed_noticed_and_continued_bit_for_bit(precision):
    list(Run.create("plain", "tiny", PRESET, "own.txt", 3, Budget(steps=400), precision).events())
    follower, heard = launch(steps=400), []
    until(lambda: any(step > 60 for step in steps("a")), "update")
    follower.start(heard.append)
    process, _ = follower.process
    os.kill(process, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    with pytest.raises(InputError, match="trained in a is gone: go on .* --resume --out a"):
        follower.wait()
    assert heard[-1].state == "failed"
    follower.proceed()
    follower.wait()
    assert same("plain", "a") and follower.result()["n_steps"] == 400


def test_pause_continue_and_stop_reach_the_process(capsys):
    follower, heard = launch(steps=LONG), []
    follower.start(lambda event: heard.append(event.state) if isinstance(event, StateEvent) else None)
    until(lambda: steps("a"), "update")
    assert main(["watch", "a", "--pause"]) == 0
    until(lambda: heard[-1:] == ["paused"], "pause")
    held = steps("a")[-1]
    assert weights("a")[0] == held  # a paused run has a checkpoint
    time.sleep(1)
    assert steps("a")[-1] == held
    assert main(["watch", "a", "--continue"]) == 0
    until(lambda: steps("a")[-1] > held and heard[-1:] == ["running"], "further update")
    assert main(["watch", "a", "--stop"]) == 0
    follower.wait()
    assert heard == ["running", "paused", "running", "over"]
    assert main(["watch", "a"]) == 0
    stopped = steps("a")[-1]
    assert f"stopped at step {stopped:,}; go on with: shalab train --resume --out a" in capsys.readouterr().out
    for option in ("--pause", "--stop"):  # there is nobody who would hear it
        assert main(["watch", "a", option]) == 2 and not Path("a/ask").exists()
        assert "no process trains in a: there is nothing to" in capsys.readouterr().err
    follower.proceed()  # in another process, which is followed again although the last line says that it was stopped
    until(lambda: steps("a")[-1] > stopped and heard[-1] == "running", "update of the resumed run")
    assert follower.alive
    follower.end()
    follower.wait()


def test_who_follows_a_run_that_is_over_sees_how_it_ended(precision):
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    for ended in ("stopped", "finished"):
        for _ in run.events():
            if ended == "stopped":
                run.stop.set()
        run.stop.clear()
        if ended == "finished":
            run.finish()
        dashboard = Dashboard.follow(Path("a"))
        until(lambda board=dashboard: not board.run.alive, "end")
        assert dashboard.history.state == ended


def test_paused_is_said_when_the_run_holds_not_when_it_is_asked_to(precision):
    """What is under way comes to its end first; its line, after the word, would have made the view "training" again."""
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    events = run.events()
    next(events)
    Path("a/ask").write_text("pause", encoding="utf-8")
    until(lambda: run.pause_asked, "pause")
    time.sleep(3 * LOOK_S)
    assert Owner.read(Path("a"))[2] == "training"
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(events))
    thread.start()
    until(lambda: Owner.read(Path("a"))[2] == "paused", "sign")
    assert not seen
    Path("a/ask").unlink()
    thread.join(WAIT_S)
    assert seen[-1].reason == "finished"


def test_who_looks_while_an_owner_signs_reads_a_whole_sign(tmp_path):
    with contextlib.closing(Owner(tmp_path)) as owner, ThreadPoolExecutor(1) as other:
        looking = other.submit(lambda: {Owner.read(tmp_path)[2] for _ in range(20_000)})
        while not looking.done():
            owner.sign("paused")
            owner.sign("training")
    assert {"paused", "training"} <= looking.result() <= {"starting", "paused", "training"}
    assert not list(tmp_path.glob("owner*"))


def test_a_training_that_was_never_scored_is_not_over(precision):
    list(Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision).events())
    follower = Follower("a")
    follower.start()
    with pytest.raises(InputError, match="trained in a is gone"):
        follower.wait()
    follower.proceed()
    follower.wait()
    assert follower.result()["n_steps"] == 31


BEGUN = {"n_bytes": 5, "elapsed_s": 1.0, "bpc": 2.0}


@pytest.mark.parametrize(
    "rest",
    [{}, {"total_steps": 7, "n_bytes": 5, "elapsed_s": 0}, *({"total_steps": x, **BEGUN} for x in ("abc", [1], None))],
)
def test_a_line_that_is_none_of_a_runs_gets_a_sentence(rest, far, capsys, monkeypatch):
    class Bar(tqdm):  # as in a terminal
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})

    monkeypatch.setattr("shalab.terminal.tqdm", Bar)
    write([step(1) | rest])
    assert main(["watch", "far"]) == 2
    assert "far holds a line that no run writes: {'event': 'step'" in capsys.readouterr().err


def test_what_was_asked_of_another_process_is_not_asked_of_the_next(precision):
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    Path("a/ask").write_text("stop", encoding="utf-8")
    assert list(run.events())[-1].reason == "finished" and not Path("a/ask").exists()


def test_a_run_that_cannot_begin_says_why_and_leaves_nothing():
    with pytest.raises(InputError, match="the run did not begin: shalab: no file at missing.txt"):
        Run.launch("a", "tiny", PRESET, "missing.txt")
    assert not Path("a").exists()
    with pytest.raises(InputError, match="no preset is called 'x'"):
        Run.launch("a", "x", PRESET)
    Path("a").mkdir()
    Path("a/result.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="did not begin: shalab: a holds result.json already"):
        launch()
    assert Path("a/result.json").read_text(encoding="utf-8") == "{}"
    with pytest.raises(InputError, match="own.txt holds no run: expected a folder with config.json"):
        Follower("own.txt")


def test_a_process_that_ends_by_a_fault_says_which():
    follower = launch(preset=replace(PRESET, train=replace(RECIPE, lr=4e18, warmup_steps=0)))
    follower.start()
    with pytest.raises(
        InputError, match=r"trained in a is gone \(step \d+: .* not finite.*an --lr below 4e\+18\): go on"
    ):
        follower.wait()


# What another machine writes


def write(lines):
    with Path("far/metrics.jsonl").open("ab") as file:
        file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def step(n):
    return {"event": "step", "step": n, "bpc": 3.0}


@pytest.fixture
def far():
    """A run in a shared folder, which a process of another machine trains."""
    Path("far").mkdir()
    Path("far/config.json").write_text("{}", encoding="utf-8")
    Path("far/owner").write_text("process 17 on elsewhere\ntraining\n", encoding="utf-8")
    return Follower("far")


def test_lines_are_read_once_whole_and_again_when_the_file_was_replaced(far):
    assert list(far.backlog()) == []
    write([step(1), step(2)])
    with Path("far/metrics.jsonl").open("ab") as file:
        file.write(b'not json\n{"event": "step", "st')
    assert [line["step"] for line in far.backlog()] == [1, 2]
    with Path("far/metrics.jsonl").open("ab") as file:
        file.write(b'ep": 3}\n')
    assert [line["step"] for line in far.backlog()] == [3]
    Path("far/metrics.jsonl").rename("far/old")
    write([step(1), step(2)])
    assert [line["step"] for line in far.backlog()] == [1, 2]


def test_a_process_elsewhere_lives_as_long_as_it_gives_signs(far, monkeypatch):
    passed_s, monotonic = 0.0, time.monotonic
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: monotonic() + passed_s))
    monkeypatch.setattr(following, "SILENCE_S", 1000.0)
    write([step(1)])
    heard, machine = [], None
    far.start(lambda event: heard.append(event))
    for n in range(2, 6):
        passed_s += 600
        os.utime("far/owner", (n, n))
        write([step(n)])
        machine = far.process
    assert machine == (17, "elsewhere") and far.alive
    passed_s += 1000
    with pytest.raises(InputError, match="trained in far is gone"):
        far.wait()
    assert [line["step"] for line in heard if isinstance(line, dict)] == [1, 2, 3, 4, 5]


def test_following_can_end_while_the_training_goes_on(far):
    write([step(1)])
    far.start()
    far.stop.set()
    far.wait()
    assert not Path("far/ask").exists()


def test_looking_whether_a_folder_is_owned_disturbs_nobody():
    Path("b").mkdir()
    assert not Owner.is_held(Path("b"))
    owner = Owner(Path("b"))
    assert all(Owner.is_held(Path("b")) for _ in range(3))
    assert Owner.read(Path("b"))[0] == os.getpid()
    owner.close()
    assert not Owner.is_held(Path("b"))
    Owner(Path("b")).close()


# Longer than it was asked for


def test_a_finished_run_goes_on(precision, capsys):
    """From step 31 of 62 on it has the rate of halfway; before, it had fallen to nothing."""
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    list(run.events())
    first = run.finish()
    longer = Run.resume("a", precision, changes={"steps": 62, "lr": 2e-2})
    assert longer.config.total_steps == 62 and longer.trainer.step == 31
    said = capsys.readouterr().err  # 0.02 (1 + cos(pi (31 - 3) / (62 - 3))) / 2 = 0.0108
    assert (
        "a goes on from step 31 to 62 steps, with a learning rate of 0.0108 from here by its schedule (cosine)" in said
    )
    list(longer.events())
    second = longer.finish()
    rates = {line["step"]: line["lr"] for line in read_metrics("a") if line["event"] == "step"}
    assert rates[31] < 2e-4 and 9e-3 < rates[32] < 1.1e-2 and rates[62] < 2e-4 and len(rates) == 62
    assert second["n_steps"] == 62 and second["test_bpc"] != first["test_bpc"]
    assert json.loads(Path("a/result-before.json").read_text(encoding="utf-8")) == first
    scores = [line["step"] for line in read_metrics("a") if line["event"] == "eval"]
    assert scores == [11, 21, 31, 42, 62]  # the third of three is due at the end
    again = Run.resume("a", precision)
    assert again.config == longer.config and again.trainer.finished


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"valid_bpc": null, "test_bpc": 1}', '{"valid_bpc": "1", "test_bpc": 1}']
)
def test_damaged_scores_get_a_sentence(precision, capsys, content):
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    list(run.events())
    run.finish()
    Path("a/result.json").write_text(content, encoding="utf-8")
    assert main(["watch", "a"]) == 2
    path = Path("a", "result.json")
    assert f"{path} is damaged: make it again with shalab train --resume --out a" in capsys.readouterr().err


def test_a_change_to_less_than_was_trained_is_called_the_end(precision, capsys):
    list(Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision).events())
    shorter = Run.resume("a", precision, changes={"steps": 9})
    *_, end = shorter.events()
    assert (end.reason, shorter.trainer.step) == ("finished", 31)
    said = capsys.readouterr().err
    assert "a is at step 31, past the end of 9 steps: nothing more is trained" in said and "goes on" not in said


def test_a_change_is_stopped_and_resumed_like_everything_else(precision):
    for folder, pause in (("a", None), ("b", 40)):
        list(Run.create(folder, "tiny", PRESET, "own.txt", 3, precision=precision).events())
        run = Run.resume(folder, precision, changes={"steps": 62})
        for event in run.events():
            if event.step == pause:
                run.stop.set()
        list(Run.resume(folder, precision).events())
    assert same("a", "b")


def test_a_change_that_was_killed_before_its_first_checkpoint_is_made_again(precision):
    for folder in ("a", "b"):
        list(Run.create(folder, "tiny", PRESET, "own.txt", 3, precision=precision).events())
    before = Path("b/checkpoint.pt").read_bytes()
    list(Run.resume("a", precision, changes={"steps": 62}).events())
    events = Run.resume("b", precision, changes={"steps": 62}).events()
    next(events)
    del events  # as a kill leaves it: config.json is new, the checkpoint old
    Path("b/checkpoint.pt").write_bytes(before)
    run = Run.resume("b", precision)
    assert run.config.total_steps == 62
    list(run.events())
    assert same("a", "b")


def test_what_decides_the_weights_and_streams_cannot_change(precision):
    list(Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision).events())
    before = Path("a/config.json").read_bytes()
    with pytest.raises(InputError, match="a run that has begun keeps its batch_size, d_model"):
        Run.resume("a", precision, changes={"batch_size": 10, "d_model": 22, "lr": 0.5})
    with pytest.raises(InputError, match="lr must be finite and above 0"):
        Run.resume("a", precision, changes={"lr": -1.0})
    unchanged = Run.resume("a", precision, changes={"steps": 31, "batch_size": 5})
    assert unchanged.trainer.finished and unchanged.config.changes == 0
    assert Path("a/config.json").read_bytes() == before


def test_the_command_line_refuses_a_change_by_name_or_takes_it(precision, capsys):
    list(Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision).events())
    assert main(["train", "--resume", "--out", "a", "--steps", "40"]) == 2
    assert "begun with steps 31, not 40: leave that option out, or name another --out, or add --change" in (
        capsys.readouterr().err
    )
    assert main(["train", "--resume", "--change", "--out", "a", "--steps", "40"]) == 0
    assert weights("a")[0] == 40
    assert main(["train", "--change", "--out", "b", "--preset", "tiny"]) == 2
    assert "--change goes with --resume" in capsys.readouterr().err


def test_a_checkpoint_by_the_clock(precision, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_S", 0.0)
    run = Run.create("a", "tiny", PRESET, "own.txt", 3, precision=precision)
    assert [event.step for event in run.events() if isinstance(event, CheckpointEvent)] == list(range(1, 32))


# In JupyterLab

LAUNCH = """
from pathlib import Path
from shalab import ModelConfig
from shalab.presets import Budget, Preset
from shalab.run import Run
from shalab.train import TrainConfig
from shalab.widgets.dashboard import Dashboard
recipe = TrainConfig(batch_size=5, bptt=17, lr=1e-2, warmup_steps=3, evaluations=500, sample_bytes=23)
Path("own.txt").write_text("<page> the [[town]] of é\\n" * 80, encoding="utf-8")
model = ModelConfig(256, 11, 33, n_layers=2, attention_layers=(0,), max_context=23)
run = Run.launch({folder!r}, "tiny", Preset(model, recipe, Budget(steps=1_000_000)), "own.txt")
dashboard = Dashboard.follow(run)
dashboard
"""


def test_a_run_outlives_its_kernel_and_is_found_again(lab, tmp_path):
    """Launched in one notebook, whose kernel is killed; followed, paused, killed, continued and stopped in another.

    Seen to fail with "continue" disabled for a process that is gone.
    """
    folder = tmp_path / "run"
    with lab.notebook(LAUNCH.format(folder=str(folder)), name="launched.ipynb") as page:
        board = page.get_by_role("group", name="training dashboard")
        expect(board.get_by_role("status")).to_have_text("training")
        expect(board.get_by_text(f"on {socket.gethostname()}")).to_be_visible()
        kernels = json.loads(lab.server._call("api/kernels"))
    for kernel in kernels:
        lab.server._call(f"api/kernels/{kernel['id']}", "DELETE")
    before = len(steps(folder))
    until(lambda: len(steps(folder)) > before, "update after the kernel's end")
    follow = f"from shalab.widgets.dashboard import Dashboard\ndashboard = Dashboard.follow({str(folder)!r})\ndashboard"
    with lab.notebook(follow, name="found.ipynb") as page:
        board = page.get_by_role("group", name="training dashboard")
        status = board.get_by_role("status")
        expect(status).to_have_text("training")
        lab.picture(board, "follow-training")
        board.get_by_role("button", name="pause").click()
        expect(status).to_have_text("paused")
        held = steps(folder)[-1]
        board.get_by_role("button", name="continue").click()
        expect(status).to_have_text("training")
        until(lambda: steps(folder)[-1] > held, "update after the pause")
        os.kill(Follower(folder).process[0], signal.SIGKILL)
        expect(status).to_have_text("failed")
        expect(board.get_by_role("alert")).to_contain_text("is gone: go on from the last checkpoint")
        lab.picture(board, "follow-killed")
        board.get_by_role("button", name="continue").click()
        expect(status).to_have_text("training")
        expect(board.get_by_role("alert")).to_be_empty()
        board.get_by_role("button", name="stop").click()
        expect(status).to_have_text("stopped")
        assert violations(page, ".shalab") == []
    assert Follower(folder).process is None
