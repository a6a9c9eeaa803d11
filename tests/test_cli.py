import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shalab import InputError, cli
from shalab.checkpoint import load_model, save_checkpoint
from shalab.cli import main
from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.generate import generate
from shalab.parallel import Team
from shalab.presets import PRESETS, Budget
from shalab.run import Run

TINY = ["train", "--preset", "tiny", "--steps", "12"]
LONG = "x" * 300


@pytest.fixture
def own(tmp_path, text):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    return str(tmp_path / "own.txt")


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


def test_the_whole_road_from_bytes_to_a_table(own, tmp_path, capsys):
    assert main([*TINY, "--data", own, "--out", "a", "--seed", "3", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for row in ("uniform", "unigram", "this model", "full-size results", "1.076"):
        assert row in out
    assert not re.search("^(gzip|bzip2|xz) ", out, re.M), "their files grow by whole bytes: too coarse for 100"
    assert sorted(os.listdir("a")) == [
        "checkpoint-before.pt", "checkpoint.pt", "config.json", "curve.png", "metrics.jsonl", "result.json",
        "sample.txt",
    ]  # fmt: skip
    result = json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    assert (result["preset"], result["seed"], result["n_steps"]) == ("tiny", 3, 12)
    assert (tmp_path / "a" / "curve.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "a" / "sample.txt").read_text(encoding="utf-8")

    assert main(["eval", "a", "--split", "test"]) == 0
    assert float(capsys.readouterr().out.split()[2]) == pytest.approx(result["test_bpc"], abs=1e-6)
    assert main(["eval", "a", "--split", "all", "--window", "61", "--max-context", "5000"]) == 0
    assert "over 2,003 bytes" in capsys.readouterr().out
    assert main(["eval", "a", "--dynamic"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["valid:", "test:"]
    assert float(lines[1].split()[2]) < result["test_bpc"]
    assert main(["eval", "a", "--dynamic", "--streams", "2"]) == 2
    assert "leave out --streams" in capsys.readouterr().err
    assert main(["generate", "a/checkpoint.pt", "--prompt", "the ", "--bytes", "20", "--top-k", "5"]) == 0
    assert capsys.readouterr().out.startswith("the ")
    assert main(["info", "a"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 12
    assert main(["info"]) == 0
    assert "preset paper: 53,825,792 parameters" in capsys.readouterr().out


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(own, tmp_path, capsys):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    before = {name: (tmp_path / "a" / name).read_bytes() for name in os.listdir("a")}
    assert main([*TINY, "--data", own, "--out", "a"]) == 2
    assert "already holds a run: add --resume to go on with it, or name another --out" in capsys.readouterr().err
    assert before == {name: (tmp_path / "a" / name).read_bytes() for name in os.listdir("a")}


def test_without_out_every_run_gets_a_folder_of_its_own(own):
    assert main([*TINY, "--data", own]) == main([*TINY, "--data", own]) == 0
    assert sorted(os.listdir("runs")) == ["tiny-own.txt-1", "tiny-own.txt-2"]


def test_a_run_on_this_folder_is_called_after_it(text, tmp_path, monkeypatch):
    """Its own runs are outside: a folder that is read holds none."""
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "own.txt").write_bytes(text.tobytes())
    monkeypatch.chdir(tmp_path / "letters")
    monkeypatch.setattr("shalab.commands.train._next_folder", lambda stem: tmp_path / f"{stem}-7")
    assert main([*TINY, "--data", "."]) == 0
    assert (tmp_path / "tiny-letters-7" / "result.json").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**62 + 1), str(10**30)])
def test_a_seed_that_no_generator_takes_is_refused(own, seed, capsys):
    assert main([*TINY, "--data", own, "--seed", seed]) == 2
    assert f"seed must be an integer from 0 to 2^62, got {seed}" in capsys.readouterr().err
    assert main([*TINY, "--data", own, "--seed", str(2**62), "--steps", "2"]) == 0


def test_a_checkpoint_without_its_configuration_says_what_is_missing(own, capsys):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    os.remove("a/config.json")
    assert main(["train", "--resume", "--out", "a"]) == 2
    assert "config.json is missing" in capsys.readouterr().err


def test_compressors_have_their_rows_where_they_can_be_measured(tmp_path, capsys):
    (tmp_path / "longer.txt").write_bytes(load_corpus("enwik6").data[:40_000].tobytes())
    assert main([*TINY, "--data", "longer.txt"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^gzip -9 +\d\.\d{3} +\d\.\d{3}$", out, re.M)
    assert re.search(r"^bzip2 -9 +\d\.\d{2} +\d\.\d{2}$", out, re.M), "its third decimal hangs on where it is cut"


def test_resume_of_a_finished_run_scores_it_again(own, tmp_path, capsys):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    before = json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    os.remove("a/result.json")
    assert main(["train", "--resume", "--out", "a"]) == 0
    assert json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8")) == before
    assert main(["train", "--resume", "--out", "a", "--seed", "7"]) == 2
    assert "a was begun with seed 0, not 7" in capsys.readouterr().err


def test_resume_from_another_folder_finds_its_data(own, tmp_path, monkeypatch):
    assert main([*TINY, "--data", "own.txt", "--out", "a"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", "--out", "../a", "--data", "../own.txt"]) == 0


def test_a_folder_with_something_of_a_run_is_not_touched(own, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("precious", encoding="utf-8")
    assert main([*TINY, "--data", own, "--out", "a"]) == 2
    assert (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8") == "precious"


def test_ctrl_c_ends_with_a_checkpoint_and_resume_finishes(own, tmp_path):
    command = [
        sys.executable,
        "-m",
        "shalab",
        "train",
        "--preset",
        "tiny",
        "--steps",
        "100000",
        "--data",
        own,
        "--out",
        "a",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not (tmp_path / "a" / "metrics.jsonl").exists() or not (tmp_path / "a" / "metrics.jsonl").read_text(
        encoding="utf-8"
    ):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=240)
    assert child.returncode == 130 and "stopped at step" in out and "shalab train --resume --out a" in out
    stopped = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)["step"]
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "a" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert 1 <= stopped < 100_000 and max(steps) == stopped


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([*TINY, "--data", "absent.txt"], "no file at absent.txt; give a path, or one of enwik6"),
        ([*TINY, "--data", "empty"], "empty is empty"),
        ([*TINY, "--data", "short"], "short has 39 bytes; a corpus needs at least 40"),
        ([*TINY, "--data", "few", "--batch-size", "41"], "--batch-size 40 or less"),
        ([*TINY, "--data", "enwik8"], "enwik8 is not on this machine: fetch it with `shalab data enwik8`"),
        (
            ["train", "--preset", "huge"],
            "no preset is called 'huge'; the presets are laptop, laptop-adamw, overnight, evening, paper",
        ),
        (["train", "--steps", "0"], "above 0"),
        (["train", "--minutes", "-1"], "above 0"),
        ([*TINY, "--batch-size", "0"], "batch_size must be an integer of at least 1, got 0"),
        ([*TINY, "--batch-size", "-3"], "batch_size must be an integer of at least 1, got -3"),
        ([*TINY, "--lr", "-1"], "lr must be finite and above 0, got -1.0"),
        ([*TINY, "--device", "cuda"], "this PyTorch sees no cuda device; use --device cpu or auto"),
        ([*TINY, "--out", "few/run"], "cannot write to few/run"),
        ([*TINY, "--d-model", "10000000", "--d-boom", "10000000"], "this machine cannot hold such a model"),
        (["train", "--resume"], "--resume needs --out"),
        (["train", "--resume", "--out", "absent"], "absent holds no run to resume"),
        (["eval", "absent"], "no checkpoint at absent"),
        (["eval", "few"], "few is damaged, cut short, or not a checkpoint"),
        (["eval", "foreign.pt"], "foreign.pt is not a checkpoint of shalab"),
        (["generate", "other.pt"], "other.pt holds weights of another configuration"),
        (["info", "cut.pt"], "cut.pt is damaged, cut short, or not a checkpoint"),
        ([*TINY, "--out", LONG], "(File name too long)"),
        ([*TINY, "--data", LONG], "(File name too long)"),
        *(
            (line, "(File name too long)")
            for line in (["eval", LONG], ["watch", LONG, "--stop"], ["export", LONG, "e"])
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, size in (("empty", 0), ("short", 39), ("few", 90)):
        (tmp_path / name).write_bytes(b"x" * size)
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    config = {"model": {"d_model": 8, "d_boom": 8}}
    save_checkpoint(tmp_path / "other.pt", {"config": config, "best": {"decoder.bias": torch.zeros(256)}})
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:700])
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("shalab: ") and len(error.splitlines()) == 1


def test_unknown_options_exit_with_2():
    assert python("-m", "shalab", "train", "--budget", "3").returncode == 2
    assert python("-m", "shalab").returncode == 2


def test_python_m_and_the_command_are_the_same():
    command = os.path.join(os.path.dirname(sys.executable), "shalab")
    for arguments in (["--help"], ["info"], ["eval", "absent"]):
        a, b = python("-m", "shalab", *arguments), subprocess.run([command, *arguments], capture_output=True, text=True)
        assert (a.returncode, a.stdout, a.stderr) == (b.returncode, b.stdout, b.stderr)


def test_every_option_is_documented():
    for action in cli.parser()._actions:
        for name, command in (action.choices or {}).items() if hasattr(action, "choices") else ():
            for option in command._actions:
                assert option.help, f"{name} {option.option_strings}"


def test_every_field_of_a_configuration_has_an_option(own, tmp_path, capsys):
    options = "--d-model 16 --d-boom 48 --attention-layers 0 1 --n-heads 2 --optimizer adamw --min-trust none --clip 3"
    assert main([*TINY, "--data", own, "--out", "a", *options.split(), "--no-vary-bptt"]) == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))
    model, train = config["model"], config["train"]
    assert (model["d_model"], model["d_boom"], model["attention_layers"], model["n_heads"]) == (16, 48, [0, 1], 2)
    assert (train["optimizer"], train["min_trust"], train["clip"], train["vary_bptt"]) == ("adamw", None, 3.0, False)
    (commands,) = (action.choices for action in cli.parser()._actions if action.choices)
    known = commands["train"]._option_string_actions
    assert all(f"--{name.replace('_', '-')}" in known for name in [*model, *train])
    capsys.readouterr()
    resume = ["train", "--resume", "--out", "a", "--config", "a/config.json", "--attention-layers", "0", "1"]
    assert main(resume) == 0
    assert main([*resume, "--clip", "4"]) == 2
    assert "a was begun with clip 3.0, not 4.0" in capsys.readouterr().err
    assert main([*resume, "--attention-layers"]) == 2
    assert "attention_layers (0, 1), not []" in capsys.readouterr().err


def test_a_file_of_fields_is_a_recipe(own, tmp_path, capsys):
    text = '[model]\nd_boom = 96\n[train]\noptimizer = "adamw"\nmin_trust = "none"\nlr = 0.5\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    assert main([*TINY, "--data", own, "--out", "a", "--config", "recipe.toml", "--lr", "0.25"]) == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))
    assert config["model"]["d_boom"] == 96 and (config["train"]["min_trust"], config["train"]["lr"]) == (None, 0.25)
    assert main([*TINY, "--data", own, "--out", "b", "--config", "a/config.json"]) == 0
    again = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))
    assert again["model"] == config["model"] and again["train"] == config["train"]
    faults = {"x = ": "cannot read --config", "model = 3": "cannot read", "[train]\nlrr = 1": "keyword argument 'lrr'"}
    faults |= {"[model]\nn_layers = 1.5": "n_layers must be an integer"}
    # What would be passed over without a word, and another model trained than the one that was meant.
    outside = "expected fields in [model] and [train], got"
    faults |= {"d_model = 8\nlr = 1": f"{outside} d_model, lr outside them", "[Model]\nd_model = 8": f"{outside} Model"}
    capsys.readouterr()
    for text, message in faults.items():
        (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
        assert main([*TINY, "--data", own, "--out", "c", "--config", "bad.toml"]) == 2
        assert message in (error := capsys.readouterr().err) and len(error.splitlines()) == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "name, content", [("a.toml", "[model]\r\nd_model = 16\r\n"), ("a.json", '{"model": {"d_model": 16}}')]
)
def test_a_recipe_may_begin_with_a_byte_order_mark(own, tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert main([*TINY, "--steps", "2", "--data", own, "--out", "a", "--config", name]) == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text(encoding="utf-8"))["model"]["d_model"] == 16


@pytest.mark.parametrize("name", ["lr", "clip", "weight_decay", "bptt", "log_every", "warmup_steps"])
def test_numbers_beyond_all_measure_are_refused(own, name, capsys):
    number = "1e300" if name in ("lr", "clip", "weight_decay") else "9" * 400
    assert main([*TINY, "--data", own, f"--{name.replace('_', '-')}", number]) == 2
    assert f"{name} must be at most 2^62" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["40", "300"])
def test_a_vocabulary_that_bytes_do_not_fit_is_refused(own, size, capsys):
    assert main([*TINY, "--data", own, "--vocab-size", size]) == 2
    assert "vocab_size must be at most 256 and above" in capsys.readouterr().err


def test_import_is_light():
    heavy = "matplotlib", "ipywidgets", "onnx", "onnxruntime", "safetensors"
    code = f"import sys, shalab, shalab.cli; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert python("-c", code).returncode == 0


def test_generate_survives_broken_bytes_in_prompt_and_output(own):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    child = subprocess.run(
        [sys.executable, "-m", "shalab", "generate", "a", "--prompt", b"\xff\xc3", "--temperature", "50"],
        capture_output=True,
    )
    assert child.returncode == 0
    child.stdout.decode("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this file")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "command", [["info"], ["generate", "a", "--bytes", "9"], ["generate", "a", "--raw"], ["eval", "a"]]
)
def test_output_that_cannot_be_written_is_one_sentence(own, tmp_path, command, buffered):
    assert main([*TINY, "--steps", "2", "--data", own, "--out", "a"]) == 0
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "shalab", *command], stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "shalab: cannot use standard output (No space left on device)\n")


def test_a_reader_that_has_left_is_no_noise(own):
    assert main([*TINY, "--steps", "2", "--data", own, "--out", "a"]) == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "shalab", "eval", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    child.stdout.close()
    with child:
        assert (child.stderr.read(), child.wait()) == ("", 141)


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's way to close a stream")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_process_without_a_console_trains(own, tmp_path, closed):
    """stdout or stderr is None there, as under pythonw on Windows."""
    python = f"{sys.executable} -m shalab"
    line = f"{python} train --preset tiny --steps 2 --data {own} --out a {closed} && {python} generate a {closed}"
    assert subprocess.run(line, shell=True).returncode == 0
    assert (tmp_path / "a" / "result.json").exists()


def test_memory_that_is_full_is_one_sentence(own, monkeypatch, capsys):
    monkeypatch.setattr("shalab.terminal.baselines", lambda *_: bytearray(sys.maxsize))
    assert main([*TINY, "--steps", "2", "--data", own, "--out", "a"]) == 2
    assert capsys.readouterr().err.startswith("shalab: memory is full: ")


def test_the_command_that_goes_on_with_a_run_works_as_it_is_printed(own, monkeypatch, capsys):
    monkeypatch.setattr("shalab.terminal.report", lambda run, result: run.stop.set())
    out = "my run's $HOME"
    assert main([*TINY, "--steps", "2", "--data", own, "--out", out]) == 0
    assert main(["export", out, "b"]) == 0
    os.remove(f"{out}/result.json")
    assert main(["export", out, "c"]) == 2
    command = capsys.readouterr().err.split("`")[1]
    assert shlex.split(command) == ["shalab", "train", "--resume", "--out", out]


@pytest.fixture
def pipe(monkeypatch):
    """pipe(content): standard input brings these bytes."""
    return lambda content: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))


EVERY_BYTE = bytes(range(256)) * 9  # \r\n, Ctrl-Z and broken UTF-8 among them


def test_a_prompt_comes_from_a_file_or_a_pipe_and_bytes_go_out_as_they_are(own, pipe, capfdbinary):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    prompt, options = b"\r\nThe \x1a\xff\xc3", ["--bytes", "700", "--temperature", "9", "--dtype", "float32"]
    expected = bytes(generate(load_model("a"), prompt, 700, Precision.pick("cpu", "float32"), temperature=9.0))
    assert b"\n" in expected and len(expected.decode("utf-8", "replace").encode()) > 700, "broken UTF-8"
    Path("prompt").write_bytes(prompt)
    capfdbinary.readouterr()
    for file in ("prompt", "-"):
        pipe(prompt)
        assert main(["generate", "a", "--prompt-file", file, "--raw", *options]) == 0
        assert capfdbinary.readouterr() == (expected, b"")
    assert main(["generate", "a", "--prompt-file", "prompt", *options]) == 0
    text = (prompt.decode("utf-8", "replace") + expected.decode("utf-8", "replace") + "\n").encode()
    assert capfdbinary.readouterr().out.replace(os.linesep.encode(), b"\n") == text
    command = [sys.executable, "-m", "shalab", "generate", "a", "--prompt-file", "-", "--raw", *options]
    assert subprocess.run(command, input=prompt, stdout=subprocess.PIPE, check=True).stdout == expected


@pytest.mark.parametrize(
    "file, message",
    [
        ("absent", "cannot read absent (No such file or directory)"),
        ("a", "cannot read a (Is a directory)"),
        ("empty", "prompt must have at least one byte"),
        ("-", "prompt must have at least one byte"),
    ],
)
def test_a_prompt_that_is_not_there_is_one_sentence(own, file, message, pipe, capsys):
    assert main([*TINY, "--data", own, "--out", "a"]) == 0
    Path("empty").touch()
    pipe(b"")
    assert main(["generate", "a", "--prompt-file", file]) == 2
    assert message in (error := capsys.readouterr().err) and len(error.splitlines()) == 1


def test_a_run_on_what_a_pipe_brought_keeps_its_bytes(tmp_path, pipe, capsys):
    recipe = ["train", "--preset", "tiny", "--steps", "40", "--device", "cpu", "--data", "-"]
    pipe(EVERY_BYTE)
    assert main([*recipe, "--out", "whole"]) == 0
    assert "tiny on standard input (2,304 bytes)" in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shalab.train.Trainer.finished", property(lambda trainer: trainer.step >= 20))
        pipe(EVERY_BYTE)
        run = Run.create(tmp_path / "a", "tiny", replace(PRESETS["tiny"], budget=Budget(steps=40)), "-")
        list(run.events())
    assert (tmp_path / "a" / "data").read_bytes() == EVERY_BYTE and run.config.data == "data"
    os.rename("a", "moved")
    pipe(b"")
    assert main(["train", "--resume", "--out", "moved"]) == 0
    results = [json.loads(Path(name, "result.json").read_text(encoding="utf-8")) for name in ("whole", "moved")]
    assert results[0]["test_bpc"] == results[1]["test_bpc"]
    assert [result["data"] for result in results] == ["standard input"] * 2
    capsys.readouterr()
    for where in ("moved", "moved/checkpoint.pt"):
        assert main(["eval", where]) == 0
        assert capsys.readouterr().out.startswith("standard input test: ")
    pipe(EVERY_BYTE)
    assert main(["eval", "whole", "--data", "-", "--split", "all"]) == 0
    assert "over 2,304 bytes" in capsys.readouterr().out
    pipe(EVERY_BYTE)
    assert main(["train", "--resume", "--out", "moved", "--data", "-"]) == 0
    pipe(EVERY_BYTE[1:])
    assert main(["train", "--resume", "--out", "moved", "--data", "-"]) == 2
    assert "- is not what moved was trained on" in capsys.readouterr().err
    assert json.loads(Path("moved/config.json").read_text(encoding="utf-8"))["data"] == "data"
    assert not os.listdir(tmp_path / "cache") or os.listdir(tmp_path / "cache") == ["baselines"]


def test_what_a_pipe_cannot_give_is_one_sentence(tmp_path, pipe, capsys, monkeypatch):
    for content, message in ((b"", "standard input is empty"), (b"x" * 39, "standard input has 39 bytes")):
        pipe(content)
        assert main([*TINY, "--data", "-", "--out", "a"]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data").write_text("mine", encoding="utf-8")
    pipe(EVERY_BYTE)
    assert main([*TINY, "--data", "-", "--out", "b"]) == 2
    assert "b holds data already: name another --out" in capsys.readouterr().err
    assert (tmp_path / "b" / "data").read_text(encoding="utf-8") == "mine"
    monkeypatch.setattr("sys.stdin", None)
    assert main([*TINY, "--data", "-"]) == 2
    assert "there is no standard input to read" in capsys.readouterr().err
    two = replace(Precision.pick("cpu", "float32"), team=Team(size=2))
    with pytest.raises(InputError, match="several processes cannot share standard input"):
        Run.create(tmp_path / "c", "tiny", PRESETS["tiny"], "-", precision=two)


def test_without_out_a_run_on_a_pipe_is_called_after_it(pipe):
    pipe(EVERY_BYTE)
    assert main([*TINY, "--data", "-"]) == 0
    assert os.listdir("runs") == ["tiny-stdin-1"]


def test_a_model_that_is_too_large_takes_no_memory(capsys, monkeypatch, tmp_path):
    """Its embedding alone would have taken 10 GB before its LSTM was found to be too large."""
    monkeypatch.setattr("shalab.run.SHARNN", None)
    assert main([*TINY, "--d-model", "10000000", "--d-boom", "10000000", "--out", str(tmp_path / "a")]) == 2
    assert "cannot hold such a model: training " in (said := capsys.readouterr().err) and "it has" in said
    monkeypatch.setattr(Precision, "memory_bytes", lambda precision: 500_000)
    assert main([*TINY, "--out", str(tmp_path / "a")]) == 2
    assert " parameters takes 0.0 GB and more, it has 0.0 GB" in capsys.readouterr().err


def test_out_of_memory_says_what_would_save_how_much(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("shalab.train.Trainer.update", full)
    assert main(["train", "--preset", "paper", "--steps", "5", "--batch-size", "1", "--out", str(tmp_path / "a")]) == 2
    message = capsys.readouterr().err
    assert (
        "out of memory" in message and "--max-context 2500 saves about" in message and "--checkpoint-blocks" in message
    )
