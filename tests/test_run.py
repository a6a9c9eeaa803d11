"""What keeps a run from being lost: one owner, whole files, checksums, a format of its own."""

import contextlib
import errno
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shalab import InputError, ModelConfig
from shalab.checkpoint import BEFORE, NEWEST, load_checkpoint, load_model, save_checkpoint, weights_sha256
from shalab.cli import main
from shalab.device import Precision
from shalab.events import read_metrics
from shalab.export import export
from shalab.files import Owner, replacing
from shalab.parallel import lost
from shalab.presets import Budget, Preset
from shalab.run import Run
from shalab.run_config import Format
from shalab.train import EndEvent, NonFiniteError, StepEvent, TrainConfig

RECIPE = TrainConfig(batch_size=5, bptt=17, lr=1e-2, warmup_steps=3, evaluations=3, checkpoint_every=7, sample_bytes=11)
PRESET = Preset(ModelConfig(256, 11, 33, n_layers=2, attention_layers=(0,), max_context=23), RECIPE, Budget(steps=31))


@pytest.fixture
def path(tmp_path, text):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    return str(tmp_path / "own.txt")


@pytest.fixture
def make(path, precision):
    """make(folder, until): a run in folder, trained until that step, or to its end."""

    def make(folder="a", until=math.inf, precision=precision, preset=PRESET):
        run = Run.create(Path(folder), "own", preset, path, 3, precision=precision)
        if until:
            for event in run.events():
                if event.step >= until:
                    run.stop.set()
        run.stop.clear()
        return run

    return make


def same(a, b):
    for x, y in zip(a.trainer.model.parameters(), b.trainer.model.parameters(), strict=True):
        assert torch.equal(x, y)
    assert all(torch.equal(a.trainer.best[name], tensor) for name, tensor in b.trainer.best.items())
    assert steps(a.folder) == steps(b.folder)


def steps(folder):
    return [(line["step"], line["loss_nats"]) for line in read_metrics(folder) if line["event"] == "step"]


def contents(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


# Devices and formats


def test_a_run_goes_on_in_its_own_format(make, monkeypatch, capsys):
    """Which nobody times again, on a machine that may be busy now."""
    precision = replace(Precision.pick("cpu", "float16"), automatic=True)
    expected = make("b", precision=precision)
    make("a", 13, precision)
    monkeypatch.setattr("shalab.device.bfloat16_pays", lambda: pytest.fail("timed again"))
    run = Run.resume("a")
    assert run.precision == precision and run.trainer.scaler.is_enabled()
    list(run.events())
    same(expected, run)
    assert run.finish()["device"] == "cpu (float16)" and not capsys.readouterr().err


@pytest.mark.parametrize("a, b", [*itertools.permutations(["float32", "bfloat16", "float16"], 2)])
def test_another_format_is_said_and_named_in_the_result(make, capsys, a, b):
    make("a", 13, Precision.pick("cpu", a))
    run = Run.resume("a", dtype=b)
    assert f"goes on in cpu ({b}) from step 13; before that it was cpu ({a})" in capsys.readouterr().err
    assert run.trainer.scaler.get_scale() == (65536 if b == "float16" else 1)
    assert {part.dtype for pair in run.trainer.state.hidden for part in pair} == {torch.float32}
    assert list(run.events())[-1] == EndEvent(31, "finished")
    assert run.finish()["device"] == f"cpu ({a}), then cpu ({b})"
    assert Run.resume("a").precision.dtype == getattr(torch, b)


def test_a_run_that_was_stopped_before_its_first_update_gets_other_minutes(make):
    run = make("a", 0, preset=replace(PRESET, budget=Budget(minutes=1)))
    run.stop.set()
    list(run.events())
    run = Run.resume("a", changes={"minutes": 2})
    assert run.trainer.step == 0 and run.config.budget == Budget(minutes=2)
    assert next(event for event in run.events() if isinstance(event, StepEvent)).step == 1


def test_a_device_that_is_gone_is_replaced_and_said(make, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    make("a", 13)
    content = load_checkpoint("a")
    for name, automatic, dtype in (("automatic", False, "float32"), ("free", True, "bfloat16")):  # as it was, too
        content["formats"] = [{"device": "cuda", "dtype": dtype, name: automatic}]
        save_checkpoint(Path("a") / NEWEST, content)
        monkeypatch.setattr("shalab.device.bfloat16_pays", lambda: False)
        assert str(Run.resume("a").precision) == "cpu (float32)"
        assert f"goes on in cpu (float32) from step 13; before that it was cuda ({dtype})" in capsys.readouterr().err


def test_a_run_from_before_formats_were_kept_is_resumed(make, monkeypatch):
    expected = make("b")
    make("a", 13)
    content, config = load_checkpoint("a"), json.loads(Path("a/config.json").read_text(encoding="utf-8"))
    del content["formats"], content["config"]["begun"], config["begun"]
    save_checkpoint(Path("a") / NEWEST, content)
    Path("a/config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr("shalab.device.bfloat16_pays", lambda: False)
    run = Run.resume("a")
    list(run.events())
    same(expected, run)


def test_a_format_is_remembered_as_it_is_asked_for():
    for name in ("float32", "bfloat16", "float16"):
        assert Format.of(Precision.pick("cpu", name)) == Format("cpu", name, False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_advice_after_an_overflow_works_when_followed(make, capsys, dtype):
    run = make("a", 13, Precision.pick("cpu", dtype))
    with torch.no_grad():
        run.trainer.model.decoder.bias[3] = math.inf
    with pytest.raises(NonFiniteError) as error:
        list(run.events())
    assert Run.resume("a").trainer.step == 13
    if dtype != "float32":
        assert "with --resume --dtype float32" in str(error.value)
        assert main(["train", "--resume", "--out", "a", "--dtype", "float32"]) == 0
    assert "another run, with another --out and an --lr below 0.01" in str(error.value)


# One owner


def refused(folder):
    return pytest.raises(InputError, match=rf"{folder} is in use by process {os.getpid()} on .*: wait for its end")


def test_a_run_that_learns_is_nobody_elses(make):
    run = make("a", 0)
    events = run.events()
    for _ in range(20):
        next(events)
    before = contents("a")
    for act in (lambda: Run.resume("a"), run.events, run.start):
        with refused("a"):
            act()
    assert contents("a") == before
    events.close()
    assert not Path("a/owner").exists() and Run.resume("a").trainer.step == run.trainer.step
    assert list(run.events())[-1] == EndEvent(31, "finished")


def test_a_started_run_is_not_trained_by_a_loop_beside(make, precision):
    expected, run, held = make("b"), make("a", 0), threading.Event()

    def hold(event):
        if isinstance(event, StepEvent) and event.step == 3:
            run.pause()
            held.set()

    run.start(hold)
    with refused("a"):
        run.events()
    with pytest.raises(InputError, match="not complete"):
        run.finish()
    assert held.wait(60)
    run.proceed()
    run.wait()
    run.start()
    run.wait()
    same(expected, run)


def test_scoring_has_the_folder_for_itself(make, monkeypatch):
    run = make("a")

    def look(*_, **__):
        with refused("a"):
            Run.resume("a")
        return 1.0

    monkeypatch.setattr("shalab.run.evaluate", look)
    assert run.finish()["valid_bpc"] == 1.0 and not Path("a/owner").exists()


def test_events_that_nobody_reads_hold_nothing(make):
    run = make("a", 0)
    run.events()
    assert Run.resume("a").trainer.step == 0


def test_a_run_that_has_gone_on_elsewhere_is_not_thrown_back(make):
    run = make("a", 13)
    list(Run.resume("a").events())
    with pytest.raises(InputError, match="a has gone on since this Run was made: Run.resume it"):
        run.events()
    assert len(steps("a")) == 31


HOLD = """
import sys, time; from pathlib import Path; from shalab.files import Owner
owner = Owner(Path(sys.argv[1])); print(flush=True); time.sleep(600)
"""


def test_another_process_is_named_and_its_death_frees_the_folder(make, capsys):
    make("a", 13)
    child = subprocess.Popen([sys.executable, "-c", HOLD, "a"], stdout=subprocess.PIPE)
    child.stdout.readline()
    before = contents("a")
    assert main(["train", "--resume", "--out", "a"]) == 2
    assert f"a is in use by process {child.pid} on " in capsys.readouterr().err and contents("a") == before
    child.kill()
    child.communicate()
    assert main(["train", "--resume", "--out", "a"]) == 0 and len(steps("a")) == 31


def test_an_update_that_was_broken_off_is_not_gone_on_with(make):
    run = make("a", 0)

    def break_off(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for event in run.events():
            if event.step == 9:
                run.trainer.optimizer.step = break_off
    with pytest.raises(InputError, match="broken off halfway"):
        run.events()
    expected, resumed = make("b"), Run.resume("a")
    list(resumed.events())
    same(expected, resumed)


def test_what_was_broken_off_between_two_updates_is_not_gone_on_with_either(make):
    """While the best weights are copied back, and after weights were found that are not finite."""
    recipe = replace(RECIPE, schedule="constant-then-half", restart_from_best=True)
    run = make("a", 0, preset=replace(PRESET, train=recipe))

    def break_off(*_):
        raise KeyboardInterrupt

    run.trainer.model.load_state_dict = break_off
    with pytest.raises(KeyboardInterrupt):
        list(run.events())
    assert 20 < run.trainer.step < 31
    with pytest.raises(InputError, match="broken off halfway"):
        run.events()
    run = make("b", 0)
    with pytest.raises(NonFiniteError, match="step 7: "):
        for event in run.events():
            if event.step == 7:
                run.trainer.model.embedding.weight.data[200] = math.nan  # a byte that is not in the text
    with pytest.raises(InputError, match="broken off halfway"):
        run.events()


def test_a_damaged_checkpoint_is_replaced_even_if_nothing_more_is_trained(make, capsys):
    make("a", 25)
    flip(Path("a") / NEWEST)
    run = Run.resume("a")
    run.stop.set()
    list(run.events())
    capsys.readouterr()
    assert load_checkpoint("a")["step"] == 21 and not capsys.readouterr().err


# Damaged files


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("exported", [False, True])
def test_a_flipped_bit_is_noticed_or_changes_nothing(make, exported):
    run = make("a")
    folder = Path("a")
    if exported:
        run.finish()
        export(folder, "b")
        folder = Path("b")
    whole, expected = (folder / NEWEST).read_bytes(), load_checkpoint(folder / NEWEST)
    ends = [i for i in range(len(whole)) if whole.startswith((b"PK\1\2", b"PK\5\6", b"PK\6"), i)]
    drawn = random.Random(0)
    places = [drawn.randrange(len(whole)) for _ in range(300)] + [i + drawn.randrange(40) for i in ends]
    noticed = 0
    for place in places:
        changed = bytearray(whole)
        changed[min(place, len(whole) - 1)] ^= 1 << drawn.randrange(8)
        Path("flipped.pt").write_bytes(changed)
        try:
            assert equal(load_checkpoint("flipped.pt"), expected)
        except InputError as error:
            assert str(error).startswith("flipped.pt ") and len(str(error)) < 150
            noticed += 1
    assert noticed > len(places) / 2


def test_the_checkpoint_before_a_damaged_one_is_used_and_said(make, capsys):
    expected = make("b")
    run = make("a", 25)  # checkpoints at 7, 11, 14, 21 and 25
    flip(Path("a") / NEWEST)
    for command in (["info", "a"], ["eval", "a", "--device", "cpu"], ["generate", "a", "--bytes", "5"]):
        assert main(command) == 0
        assert "checkpoint.pt is damaged" in (told := capsys.readouterr().err) and "of step 21, is taken" in told
    resumed = Run.resume("a")
    assert resumed.trainer.step == 21 and "of step 21, is taken instead" in capsys.readouterr().err
    with contextlib.closing(resumed.events()) as events:
        for event in events:
            if event.step == 23:
                break
    run = Run.resume("a")
    assert run.trainer.step == 23 and not capsys.readouterr().err
    assert load_checkpoint(Path("a") / BEFORE)["step"] == 21  # not the damaged one
    list(run.events())
    same(expected, run)
    run.finish()
    flip(Path("a") / NEWEST)
    export("a", "c")
    assert "is taken instead" in capsys.readouterr().err and load_model("c")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_missing_newest_checkpoint_is_no_loss(make):
    """Killed between the two renames."""
    expected = make("b")
    make("a", 25)
    os.remove(Path("a") / NEWEST)
    resumed = Run.resume("a")
    assert resumed.trainer.step == 21
    list(resumed.events())
    same(expected, resumed)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def repacked(pickled):
    """A checkpoint's archive with another pickle inside, and right checksums."""
    out = io.BytesIO()
    torch.save({"x": torch.zeros(3)}, out)
    with zipfile.ZipFile(out) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
        for name, record in records.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else record)
    return out.getvalue()


def saved(content):
    torch.save(content, out := io.BytesIO())
    return out.getvalue()


def changed_checkpoint(content, fault):
    if fault == "wrong shape":
        content["best"]["decoder.bias"] = torch.zeros(255)
    elif fault == "further weights":
        content["best"]["further"] = torch.zeros(3)
    elif fault == "huge model":
        content["config"]["model"] |= {"d_model": 10**7, "d_boom": 10**7}
    elif fault == "many blocks":
        content["config"]["model"]["n_layers"] = 10**9
    elif fault == "huge tensor":
        content["best"]["decoder.bias"] = torch.zeros(1).expand(10**13)
    elif fault == "NaN":
        content["best"]["decoder.bias"][7] = math.nan
    elif fault == "no weights":
        del content["best"]
    elif fault == "no version":
        del content["version"]
    elif fault == "weights are numbers":
        content["best"] = 3
    elif fault == "configuration is a list":
        content["config"] = []
    return saved(content)


BYTES = {"0 bytes": b"", "1 byte": b"P", "text": b"hello\n", "a pickle of a list": saved([1]), "code": saved(Evil())}
BYTES |= {"damaged pickle": repacked(b"\x80\x02}q\x01h\x05."), "unknown opcode": repacked(b"\x80\x02\xff.")}
FAULTS = ["wrong shape", "further weights", "huge model", "many blocks", "huge tensor", "NaN", "no weights"]
FAULTS += ["no version", "weights are numbers", "configuration is a list"]


@pytest.mark.parametrize("fault", [*BYTES, *FAULTS])
def test_a_damaged_checkpoint_is_one_sentence(make, capsys, fault):
    make("a", 5)  # the only checkpoint
    content = torch.load(Path("a") / NEWEST, weights_only=True)
    damaged = BYTES[fault] if fault in BYTES else changed_checkpoint(content, fault)
    (Path("a") / NEWEST).write_bytes(damaged)
    commands = ["eval", "a"], ["generate", "a"], ["info", "a"], ["train", "--resume", "--out", "a"]
    for command in commands:
        assert main(command) == 2, command
        printed = capsys.readouterr()
        assert not printed.out and len(printed.err.splitlines()) == 1 and printed.err.startswith("shalab: a")
        assert "weights_only" not in printed.err
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["optimizer", "hidden", "memory", "window_random", "step", "best_bpc"])
def test_a_state_that_does_not_fit_is_one_sentence(make, capsys, name):
    make("a", 5)
    whole = load_checkpoint("a")
    for wrong in ({}, [[torch.zeros(1, 4, 11)] * 2] * 2, "x", None):
        save_checkpoint(Path("a") / NEWEST, {**whole, name: wrong})
        assert main(["train", "--resume", "--out", "a"]) == 2
        assert "checkpoint.pt does not fit this run" in capsys.readouterr().err
    whole["optimizer"]["state"][0]["m"] = torch.zeros(3)
    save_checkpoint(Path("a") / NEWEST, whole)
    assert main(["train", "--resume", "--out", "a"]) == 2


def test_an_unreadable_checkpoint_is_no_damaged_one(make, capsys, monkeypatch):
    make("a", 13)
    original = io.open

    def locked(file, *arguments, **options):
        if str(file).endswith(".pt"):
            raise PermissionError(errno.EACCES, "Permission denied", file)
        return original(file, *arguments, **options)

    monkeypatch.setattr(io, "open", locked)
    monkeypatch.setattr("builtins.open", locked)
    for command in (["eval", "a"], ["train", "--resume", "--out", "a"]):
        assert main(command) == 2
        assert capsys.readouterr().err == "shalab: cannot read a/checkpoint.pt (Permission denied)\n"


@pytest.mark.parametrize(
    "content",
    [b"[]", b"", b"\xff\xfe", b"null", b'{"preset": 3}', b"[" * 100_000, "further", "seed", "NaN"],
    ids=lambda x: str(x)[:12],
)
def test_a_damaged_configuration_is_one_sentence(make, capsys, content):
    make("a", 13)
    path = Path("a/config.json")
    if isinstance(content, str):
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"further": {"x": 1}, "seed": {"seed": "x"}, "NaN": {"model": {"d_model": math.nan}}}[content]
        content = json.dumps(config).encode()
    path.write_bytes(content)
    Path("a/result.json").write_text("{}", encoding="utf-8")
    for command in (["train", "--resume", "--out", "a"], ["export", "a", "b"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "a/config.json is damaged" in error and len(error.splitlines()) == 1 and not Path("b").exists()


def test_damaged_lines_are_left_out(make):
    make("a", 13)
    expected = read_metrics("a")
    with open("a/metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"event": "step"}\n"x"\n{"event": "step", "step": 5, "grad_norm": -Infinity}\n{"ev')
    assert read_metrics("a") == [*expected, {"event": "step", "step": 5, "grad_norm": None}]


def test_numbers_that_json_lacks_are_null(make):
    """An update in float16 whose gradient overflows is skipped; every line of the file is JSON all the same."""
    run = make("a", 0, Precision.pick("cpu", "float16"))
    hook = run.trainer.model.decoder.bias.register_hook(lambda grad: grad * math.inf)
    for event in run.events():
        if isinstance(event, StepEvent) and event.step == 3:
            hook.remove()
    text = Path("a/metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    norms = [line["grad_norm"] for line in lines if line["event"] == "step"]
    assert norms[:3] == [None] * 3 and all(norm > 0 for norm in norms[3:])
    assert lines == run.metrics()


# Writing


def test_a_checkpoint_is_renamed_into_place(tmp_path):
    """Whoever has the one before open goes on reading that; a copy over it would change it under the reader."""
    path = tmp_path / NEWEST
    save_checkpoint(path, {"x": torch.arange(3)})
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_checkpoint(path, {"x": torch.arange(5)}, tmp_path / BEFORE)
        assert reader.read() == before and path.read_bytes() != before
    save_checkpoint(path, {"x": torch.arange(7)})
    assert (tmp_path / BEFORE).read_bytes() == before and sorted(os.listdir(tmp_path)) == [BEFORE, NEWEST]


KILL = """
import os, signal, sys
from pathlib import Path
from shalab.device import Precision
from shalab.run import Run
place, step = int(sys.argv[1]), int(sys.argv[2])
calls = 0
def watched(function):
    def call(*arguments):
        global calls
        calls += run.trainer.step >= step
        if calls == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
run = Run.resume(Path("a"))
os.fsync, os.replace = watched(os.fsync), watched(os.replace)
list(run.events())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5])
def test_killed_at_each_point_of_writing_a_checkpoint(make, place):
    """Before the lines, the content, either rename, and the folder itself are written."""
    expected = make("b")
    make("a", 13)
    child = subprocess.run([sys.executable, "-c", KILL, str(place), "21"], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    resumed = Run.resume("a")
    assert resumed.trainer.step == (21 if place == 5 else 14)
    list(resumed.events())
    same(expected, resumed)
    assert not list(Path("a").glob("*.part")) and not list(Path("a").glob("owner*"))


def test_a_run_killed_before_its_first_line_goes_on_either_way(make, capsys, path):
    make("a", 13)
    for name in "bc":
        os.mkdir(name)
        shutil.copy("a/config.json", name)
    list((resumed := Run.resume("b")).events())
    same(make("c"), resumed)
    Path("c/config.json").write_text('{"of": "another program"}', encoding="utf-8")
    before = contents("c")
    with pytest.raises(InputError, match="c already holds a run"):
        make("c")
    assert contents("c") == before
    os.mkdir("d")
    Path("d/sample.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="d holds sample.txt already: name another --out"):
        make("d")


class Full:
    """Lets `left` more calls of os.fsync through; then the disk is full."""

    def __init__(self, left):
        self.left, self.sync = left, os.fsync

    def __call__(self, file):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.sync(file)


@pytest.mark.parametrize("left, kept", [(0, 0), (1, 0), (3, 7), (5, 11)])  # three for each checkpoint
def test_a_full_disk_costs_nothing_but_the_last_steps(make, monkeypatch, capsys, left, kept):
    expected = make("b")
    make("a", 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Full(left))
        assert main(["train", "--resume", "--out", "a", "--device", "cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("shalab: cannot write to a (No space left on device); ")
    assert error.endswith("go on with: shalab train --resume --out a")
    assert (f"the checkpoint of step {kept} is kept" if kept else "no checkpoint yet") in error
    assert not list(Path("a").glob("*.part")) and not list(Path("a").glob("owner*"))
    list((resumed := Run.resume("a")).events())
    same(expected, resumed)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json", "curve.png", "sample.txt", "export"])
def test_each_file_that_cannot_be_written_is_one_sentence(make, monkeypatch, capsys, path, name):
    command = ["train", "--preset", "tiny", "--steps", "5", "--data", path, "--out", "a", "--device", "cpu"]
    if name == "export":
        make("a").finish()
        command, name = ["export", "a", "b"], "metrics.jsonl"
    original = Path.open

    def refusing(self, mode="r", *arguments, **options):
        file = original(self, mode, *arguments, **options)
        if self.name.startswith(name) and mode != "rb":
            file.close()
            file = original(Path("/dev/full"), "wb", buffering=0)
        return file

    monkeypatch.setattr(Path, "open", refusing)
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot write to" in error[0] and "(No space left on device)" in error[0]
    assert not list(Path("a").glob("*.part")) and not Path("b").exists()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk: root on Linux")
def test_a_small_disk(make, tmp_path, path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        command = ["train", "--preset", "tiny", "--steps", "60", "--data", path, "--device", "cpu"]
        assert main([*command, "--out", "expected"]) == 0
        for left in (0, 4096, 150_000, 300_000, 500_000):
            capsys.readouterr()
            shutil.rmtree(disk / "run", ignore_errors=True)
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free - left))
            assert main([*command, "--out", str(disk / "run")]) == 2
            error = capsys.readouterr().err.strip().splitlines()
            assert "No space left on device" in error[-1] and error[-1].startswith("shalab: cannot write to"), error
            assert not list(disk.glob("run/*.part"))
            (disk / "filler").unlink()
            again = ["train", "--resume", "--out", str(disk / "run")] if "--resume" in error[-1] else command
            assert main([*again] if again[1] == "--resume" else [*command, "--out", str(disk / "run")]) == 0
            assert steps(disk / "run") == steps("expected")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("change", ["removed", "moved", "read-only"])
def test_a_folder_that_goes_away_is_noticed_at_once(make, monkeypatch, change):
    run = make("a", 0)
    seen = []
    with pytest.raises(InputError, match="moved or removed" if change != "read-only" else "it has become read-only"):
        for event in run.events():
            seen.append(event.step)
            if event.step == 9 and isinstance(event, StepEvent):
                if change == "removed":
                    shutil.rmtree("a")
                elif change == "moved":
                    os.rename("a", "b")
                else:
                    monkeypatch.setattr(os, "access", lambda *_: False)
    assert max(seen) == 9
    if change == "moved":
        assert not Path("a").exists() and Run.resume("b").trainer.step == 7


def test_a_folder_that_is_not_ones_own_is_one_sentence(make, monkeypatch, capsys):
    make("a", 13)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    before = contents("a")
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert main(["train", "--resume", "--out", "a"]) == 2
    assert capsys.readouterr().err == "shalab: cannot write to a (Permission denied)\n" and contents("a") == before


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    file = tmp_path / "x"
    file.write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), replacing(file) as part:
        part.write(b"half")
        raise ZeroDivisionError
    assert file.read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["x"]


# The end of a run


def test_a_finished_run_resumed_gains_nothing(make, capsys):
    make("a").finish()
    before = contents("a")
    assert main(["train", "--resume", "--out", "a"]) == 0
    after = contents("a")
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {"curve.png", "sample.txt"}


def test_finish_says_when_there_is_nothing_to_score(make):
    run = make("a", 0)
    with pytest.raises(InputError, match="not complete, but at step 0: read its events"):
        run.finish()
    for event in run.events():
        if event.step == 13:
            run.stop.set()
    with pytest.raises(InputError, match="not complete, but at step 13"):
        run.finish()
    list(Run.resume("a").events())
    run = Run.resume("a")
    run.stop.set()  # too late to stop anything
    assert run.finish()["n_steps"] == 31
    run.trainer.best["decoder.bias"][3] = math.nan
    with pytest.raises(InputError, match="no finite score"):
        run.finish()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_its_code_while_a_second_one_breaks_off(make, monkeypatch, capsys, number):
    make("a", 13)
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (os.kill(os.getpid(), number), original(file)))
    assert main(["train", "--resume", "--out", "a"]) == 130  # in every checkpoint twice: KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", original)
    original_update = StepEvent.__init__

    def once(self, *arguments):
        original_update(self, *arguments)
        if self.step == 16:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StepEvent, "__init__", once)
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "a"]) == 128 + number
    assert "stopped at step 16; go on with: shalab train --resume --out a" in capsys.readouterr().out
    assert Run.resume("a").trainer.step == 16 and not Path("a/result.json").exists()


def test_only_a_lost_process_is_called_gone(make, monkeypatch, capsys):
    make("a", 13)
    for error, gone in (
        (RuntimeError("shapes do not match"), False),
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
    ):
        assert lost(error) is gone

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("shalab.train.Trainer.update", fail)
            if gone:
                assert main(["train", "--resume", "--out", "a"]) == 1
                assert "another process is gone" in capsys.readouterr().err
            else:
                with pytest.raises(RuntimeError, match="shapes"):
                    main(["train", "--resume", "--out", "a"])


# Numbers that are not finite


@pytest.mark.parametrize("log_every", [1, 50])
def test_weights_that_broke_never_replace_a_checkpoint(make, log_every):
    preset = replace(PRESET, train=replace(RECIPE, log_every=log_every))
    for place in ("parameter", "gradient", "score", "close")[: 4 if log_every == 1 else 3]:
        run = make(place, 13, preset=preset)
        before = (Path(place) / NEWEST).read_bytes()
        if place == "gradient":
            run.trainer.model.decoder.bias.register_hook(lambda grad: grad * math.nan)
        update = run.trainer.update

        def broken(update=update, run=run, place=place):
            event = update()
            if run.trainer.step == {"parameter": 14, "score": 21, "close": 15}.get(place):
                run.trainer.model.embedding.weight.data[200] = math.nan  # a byte that is not in the text
            return event

        run.trainer.update = broken
        if place == "close":
            for event in run.events():
                if event.step == 15:
                    break
        else:
            with pytest.raises(NonFiniteError):
                list(run.events())
        if place != "score":
            kept = load_checkpoint(place)
            assert all(t.isfinite().all() for t in kept["model"].values())
        if place == "parameter":
            assert (Path(place) / NEWEST).read_bytes() == before


def test_a_score_that_is_not_finite_is_no_stop(make, monkeypatch):
    run = make("a", 0)
    monkeypatch.setattr("shalab.train.evaluation.evaluate", lambda *_, **__: math.nan)
    with pytest.raises(NonFiniteError, match="step 11: the score is not finite"):
        list(run.events())


def test_a_loss_scale_that_does_not_help_is_said(make):
    run = make("a", 0, Precision.pick("cpu", "float16"))
    run.trainer.model.decoder.bias.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteError, match="step 17: a gradient, .* --resume --dtype float32"):
        list(run.events())
    assert all(t.isfinite().all() for t in load_checkpoint("a")["model"].values())


# Trained weights to begin with

OTHER = replace(PRESET, model=ModelConfig(256, 22, 22, n_layers=1, attention_layers=(), max_context=5))


@pytest.fixture
def source(make):
    """A finished run, and its export, that are on other bytes than what comes next."""
    run = make("source")
    run.finish()
    export("source", "shared")
    Path("mine.txt").write_bytes(b"Mine, and nobody else's. " * 80)
    return run


def begun(folder, init_from, preset=PRESET, precision=None):
    return Run.create(Path(folder), "own", preset, "mine.txt", 4, precision=precision, init_from=init_from)


def test_nobody_else_gets_the_folder_before_it_has_the_weights(source, precision, monkeypatch):
    owned = []
    monkeypatch.setattr("shalab.run.save_checkpoint", lambda path, *_: owned.append(Owner.is_held(path.parent)))
    begun("a", "source", OTHER, precision)
    assert owned == [True]


@pytest.mark.parametrize("place", ["source", "source/checkpoint.pt", "shared", "shared/checkpoint.pt"])
def test_a_run_begins_with_trained_weights_and_says_which(source, tmp_path, place, precision, capsys):
    run = begun("a", place, OTHER, precision)
    said = capsys.readouterr().err
    assert f"shalab: the model is that of {place}: d_model 11 instead of 22, d_boom 33 instead of 22" in said
    assert len(said.splitlines()) == 1
    rounded = place.startswith("shared")
    for name, tensor in run.trainer.model.state_dict().items():
        best = source.trainer.best[name]
        assert torch.equal(tensor, best.half().float() if rounded else best)
    assert not run.trainer.optimizer.state and run.trainer.step == 0 and run.trainer.best_bpc == math.inf
    config = json.loads(Path("a/config.json").read_text(encoding="utf-8"))
    assert config["init_from"]["name"] == place and config["model"]["d_model"] == 11
    same_weights = weights_sha256(load_model(Path("shared" if rounded else "source")))
    assert config["init_from"]["sha256"] == same_weights and str(tmp_path) not in json.dumps(config["init_from"])
    assert list(run.events())[-1] == EndEvent(31, "finished")
    assert run.finish()["data"] == "mine.txt"
    export("a", "b")
    assert load_checkpoint("b")["config"]["init_from"]["name"] == place


def test_the_weights_hash_tells_a_bit(source):
    model = load_model("source")
    before = weights_sha256(model)
    model.decoder.bias.data[7] += 2**-20
    assert weights_sha256(model) != before


@pytest.mark.parametrize("until", [0, 13])
def test_a_run_from_trained_weights_goes_on_without_their_source(source, precision, until, capsys):
    expected = begun("b", "source", precision=precision)
    list(expected.events())
    run = begun("a", "source", precision=precision)
    for event in run.events() if until else ():
        if event.step >= until:
            run.stop.set()
    del run
    shutil.rmtree("source")
    resumed = Run.resume("a")
    assert resumed.trainer.step == until
    list(resumed.events())
    same(expected, resumed)
    assert not capsys.readouterr().err


def test_a_run_that_lost_its_first_weights_does_not_begin_with_others(source, capsys):
    begun("a", "source")
    os.remove("a/checkpoint.pt")
    assert main(["train", "--resume", "--out", "a"]) == 2
    error = capsys.readouterr().err
    assert "a has no checkpoint, and so not the weights of source that it began with" in error
    assert len(error.splitlines()) == 1


def test_a_run_from_before_origins_were_kept_is_resumed(make):
    expected = make("b")
    make("a", 13)
    content = load_checkpoint("a")
    assert content["config"].pop("init_from") is None
    save_checkpoint(Path("a") / NEWEST, content)
    config = json.loads(Path("a/config.json").read_text(encoding="utf-8"))
    assert config.pop("init_from") is None
    Path("a/config.json").write_text(json.dumps(config), encoding="utf-8")
    run = Run.resume("a")
    list(run.events())
    same(expected, run)


def test_the_command_line_begins_with_trained_weights(source, capsys):
    train = ["train", "--preset", "tiny", "--data", "mine.txt", "--steps", "6", "--device", "cpu"]
    capsys.readouterr()
    assert main([*train, "--init-from", "shared", "--out", "a"]) == 0
    out, err = capsys.readouterr()
    assert "shalab: the model is that of shared: d_model 11 instead of 32" in err
    assert f"starting from the weights of shared, SHA-256 {weights_sha256(load_model('shared'))}" in out
    assert json.loads(Path("a/config.json").read_text(encoding="utf-8"))["train"]["lr"] == 1e-2, "the preset's recipe"
    assert main([*train, "--init-from", "shared", "--out", "b", "--d-model", "12", "--max-context", "23"]) == 2
    error = capsys.readouterr().err
    assert "keeps to the model of shared, which has d_model 11 instead of 12: leave that option out" in error
    assert main([*train, "--init-from", "shared", "--out", "b", "--config", "source/config.json"]) == 0
    Path("recipe.toml").write_text("[model]\nd_modle = 11", encoding="utf-8")
    assert main([*train, "--init-from", "shared", "--out", "c", "--config", "recipe.toml"]) == 2
    assert "d_modle" in capsys.readouterr().err
    resume = ["train", "--resume", "--out", "a"]
    assert main([*resume, "--init-from", "shared"]) == main(resume) == 0
    capsys.readouterr()
    for folder, asked, began in (("a", "source", "shared"), ("source", "shared", "drawn weights")):
        assert main(["train", "--resume", "--out", folder, "--init-from", asked]) == 2
        error = capsys.readouterr().err
        assert f"{folder} was begun with {began}: leave out --init-from" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("place", ["absent", "mine.txt", "."])
def test_weights_that_are_not_there_are_one_sentence(source, place, capsys):
    for more in ([], ["--d-model", "12"]):
        assert main(["train", "--data", "mine.txt", "--init-from", place, "--out", "a", *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("shalab: ") and len(error.splitlines()) == 1 and not Path("a").exists()


def test_bytes_that_the_trained_model_does_not_know_are_refused(source, make, capsys):
    small = replace(PRESET, model=replace(PRESET.model, vocab_size=200))
    make("small", 7, preset=small)
    Path("mine.txt").write_bytes(b"\xc8" * 99)
    with pytest.raises(InputError, match="vocab_size must be at most 256 and above 200"):
        begun("a", "small")


# What is read and what is shared


def test_no_run_writes_where_it_reads(path, capsys):
    for out in (["--out", "runs/a"], []):
        assert main(["train", "--preset", "tiny", "--steps", "5", "--data", ".", *out]) == 2
        assert "is inside ., which is read as data: name an --out elsewhere" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_data_that_moved_is_known_by_its_checksum(make, capsys, path):
    expected = make("b")
    make("a", 13)
    os.mkdir("elsewhere")
    os.rename(path, "elsewhere/new.txt")
    for command in (["train", "--resume", "--out", "a"], ["eval", "b"]):
        assert main(command) == 2
        assert "no file at" in (error := capsys.readouterr().err) and "--data" in error
    Path("other.txt").write_bytes(b"x" * 2003)
    assert main(["train", "--resume", "--out", "a", "--data", "other.txt"]) == 2
    assert "other.txt is not what a was trained on" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "a", "--data", "elsewhere/new.txt"]) == 0
    same(expected, Run.resume("a"))
    assert main(["eval", "a"]) == 0 and main(["eval", "b", "--data", "elsewhere/new.txt"]) == 0


def test_changed_data_is_not_scored_as_what_was_trained_on(make, capsys, path):
    make("a")
    with open(path, "ab") as file:
        file.write(b"!")
    assert main(["eval", "a"]) == 2
    assert "own.txt is not what a was trained on" in capsys.readouterr().err
    assert main(["eval", "a", "--data", path]) == 0


def test_an_export_tells_no_path(make, tmp_path):
    make("a").finish()
    with open("a/metrics.jsonl", "ab") as file:
        file.write(b'{"event": "step", "step": 31, "grad_norm": Infinity}\n\xff\n')
    export("a", "b")
    with zipfile.ZipFile(Path("b") / NEWEST) as archive:
        everything = b"".join(archive.read(name) for name in archive.namelist())
    everything += b"".join(file.read_bytes() for file in Path("b").iterdir())
    assert str(tmp_path).encode() not in everything and b"own.txt" in everything
    assert json.loads(Path("b/config.json").read_text(encoding="utf-8"))["data"] == "own.txt"
    assert load_checkpoint("b")["config"]["data"] == "own.txt" and b"Infinity" not in everything
    assert sorted(os.listdir("b")) == ["checkpoint.pt", "config.json", "metrics.jsonl", "result.json"]
    assert main(["eval", "b"]) == 0  # own.txt is here
    os.remove("own.txt")
    assert main(["eval", "b"]) == 2


@pytest.mark.parametrize("fault", ["read-only", "file in the way", "damaged result"])
def test_an_export_that_fails_leaves_nothing(make, monkeypatch, capsys, fault):
    make("a").finish()
    out = "b"
    if fault == "read-only":
        monkeypatch.setattr(Path, "mkdir", lambda *_, **__: os.close(os.open("/proc/nothing", os.O_CREAT)))
    elif fault == "file in the way":
        Path("file").write_text("mine", encoding="utf-8")
        out = "file/b"
    else:
        Path("a/result.json").write_bytes(b"\xff{")
    assert main(["export", "a", out]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not Path(out).exists()
