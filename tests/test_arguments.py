"""Whatever stands on the command line, `shalab` ends with 0 or 2, in one sentence, never in a traceback."""

import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shalab import cli
from shalab.presets import PRESETS

NUMBERS = st.one_of(
    st.integers(-2, 3).map(str),
    st.sampled_from(
        ["", "nan", "inf", "-inf", "1e-9", "0.5", "1e400", "-1", "0x10", "one", "9" * 30, "１", "1_0", " 3 "]
    ),
)
NAMES = st.one_of(
    st.sampled_from(["tiny", "enwik8", "-", "own.txt", "run", "run/checkpoint.pt", "nowhere", "", ".", "..", "å"]),
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=5),
)
# Numbers that would be obeyed for hours, or would fill the memory honestly, are not tried: they are no mistakes.
FEW = st.sampled_from(["0", "1", "2", "-1", "nan", "x", ""])
OPTIONS = {
    "train": {
        "--preset": st.sampled_from(["tiny", "nothing", ""]), "--data": NAMES, "--steps": FEW, "--epochs": FEW,
        "--init-from": NAMES,
        "--minutes": st.sampled_from(["1e-9", "0", "-1", "nan", "inf", "1e400", "x"]), "--seed": NUMBERS,
        "--batch-size": NUMBERS, "--bptt": NUMBERS, "--max-context": NUMBERS, "--lr": FEW, "--out": NAMES,
        "--resume": None, "--change": None, "--checkpoint-blocks": None,
        "--dtype": st.sampled_from(["float32", "bfloat16", "int8"]),
        "--device": st.sampled_from(["cpu", "cuda", "mps", "tpu"]),
    },
    "plan": {"--preset": NAMES, "--data": NAMES, "--card": st.tuples(NUMBERS, NUMBERS, NUMBERS)},
    "eval": {
        "--data": NAMES, "--split": st.sampled_from(["valid", "test", "all", "half"]), "--window": NUMBERS,
        "--max-context": NUMBERS, "--context": NUMBERS, "--streams": FEW, "--dynamic": None, "--mix": None,
    },
    "generate": {
        "--prompt": NAMES, "--prompt-file": NAMES, "--raw": None, "--bytes": FEW, "--temperature": NUMBERS,
        "--top-k": NUMBERS, "--top-p": NUMBERS, "--max-context": NUMBERS, "--seed": NUMBERS,
    },
    "export": {"--format": st.sampled_from(["folder", "onnx", "safetensors", "pickle"])},
    "compress": {
        "--model": NAMES, "--streams": NUMBERS, "--mix": None, "--no-mix": None, "--learn": None,
        "--dtype": st.sampled_from(["float32", "bfloat16", "int8"]), "--plain": None,
    },
    "decompress": {"--model": NAMES, "--device": st.sampled_from(["cpu", "cuda", "tpu"])},
    "page": {},
    "watch": {"--pause": None, "--stop": None},
    "lab": {"--bytes": NUMBERS, "--seeds": NUMBERS, "--toy": None},
    "info": {},
}  # fmt: skip
PLACES = {
    "eval": 1, "generate": 1, "export": 2, "compress": 2, "decompress": 2, "page": 2, "watch": 1, "lab": 1, "info": 1
}  # fmt: skip
# What stands there unless another value follows; without it, some commands would be obeyed for minutes.
ALWAYS = {
    "train": ["--data", "own.txt"], "compress": ["--model", "run"], "decompress": ["--model", "run"],
    "lab": ["--only", "nobody"],
}  # fmt: skip


MADE = "own.txt", "run", "packed"  # what `folder` holds


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from(sorted(OPTIONS)))
    line = [command, *(draw(NAMES) for _ in range(PLACES.get(command, 0)))]
    if draw(st.booleans()) and command in PLACES:
        line[1] = draw(st.sampled_from(["own.txt", "packed"])) if "compress" in command else "run"
    line += ALWAYS.get(command, [])
    for name in draw(st.lists(st.sampled_from(sorted(OPTIONS[command])), max_size=4)) if OPTIONS[command] else []:
        values = OPTIONS[command][name]
        value = draw(values) if values is not None else ()
        line += [name, *([value] if isinstance(value, str) else value)]
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text, a finished run on it, and an archive of it."""
    folder = tmp_path_factory.mktemp("arguments")
    (folder / "own.txt").write_bytes(b"The town of shalab, its bytes and its readers. " * 20)
    arguments = ["train", "--preset", "tiny", "--steps", "2", "--device", "cpu", "--dtype", "float32"]
    arguments += ["--d-model", "4", "--d-boom", "8", "--max-context", "8"]  # a checkpoint may be read as text, too
    assert cli.main([*arguments, "--data", str(folder / "own.txt"), "--out", str(folder / "run")]) == 0
    packing = ["compress", str(folder / "own.txt"), str(folder / "packed"), "--model", str(folder / "run")]
    assert cli.main(packing) == 0
    return folder


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(line=command_lines())
@example(line=["compress", "own.txt", "", "--model", "run"])
@example(line=["lab", "", "--only", "nobody"])
def test_any_command_line_ends_with_0_or_2(line, folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(PRESETS, "laptop", PRESETS["tiny"])  # the default of `train`, at a size for a test
    monkeypatch.setattr("shalab.calibrate.measure", lambda *_: {"fixed": 1.0, "per_byte": 0.1, "share": 1.0})
    try:
        code = cli.main(line)
    except SystemExit as end:  # argparse's
        code = end.code
    finally:
        for path in folder.iterdir():  # else examples depend on those before, and read ever more
            if path.name not in MADE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = capfd.readouterr()
    assert code in (0, 2), said
    assert code == 0 or "shalab" in said.err and "Traceback" not in said.err, said
