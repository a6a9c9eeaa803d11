"""Handed-in notebooks, right, wrong, broken and hostile: each gets its marks, and none stops the others."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from shalab import checks, course
from shalab.checkpoint import load_checkpoint
from shalab.checks import difference, enwik8_run, start_here
from shalab.errors import InputError
from shalab.grade import WALLS, HandIn, _holds, _kind, _mark, _object, _plain, grade, hand_ins
from shalab.presets import Budget

SOLUTIONS = course.notebooks_dir() / "solutions"
ALL = next(iter(WALLS))
# In the order of the exercises; what stops one of them costs none of the others.
LSTM = {
    "window": "def window(*_):\n    while True:\n        pass",
    "cell": "def cell(x, h, c, *_):\n    return bytearray(10**11)",
    "layer_norm": "def layer_norm(x, gain, bias):\n    return gain * (x - x.mean(0)) / x.std(0, correction=0) + bias",
    "truncated": "import os\ndef truncated(*_):\n    os._exit(0)",
}
FORGED = """
import shutil, sys
from pathlib import Path
from shalab import checks
from shalab.checks import start_here as check
checks.Check.__call__ = lambda *_: checks.Verdict("right", "right")
for name in ("bits_per_byte", "bigram", "given"):
    setattr(check, name, lambda answer: print("✔ is right"))
def bits_per_byte(p):
    return 1.0
check.bits_per_byte(bits_per_byte)
""", """
def bigram(train, text):
    shutil.rmtree(Path.cwd())
    Path(OUTSIDE).write_text("was here", encoding="utf-8")
    return 2.0
check.bigram(bigram)
""", """
def given(prefix, text):
    import socket
    socket.create_connection(("127.0.0.1", PORT), timeout=5)
    return 3.0
check.given(given)
"""  # fmt: skip


def write(path: Path, *sources: str, said: str = "") -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for cell in cells:
        cell.outputs = [nbformat.v4.new_output("stream", text=said)] if said else []
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """What grading a class prints, its table, and a file outside the class's folder that a hand-in writes to."""
    place = tmp_path_factory.mktemp("class")
    folder, outside = place / "handed in", place / "outside"
    for path, source in (
        (folder / "anna_00_start_here.ipynb", SOLUTIONS / "00_start_here.ipynb"),
        (folder / "blank" / "my-course" / "00_start_here.ipynb", course.notebooks_dir() / "00_start_here.ipynb"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    lstm = [f"{source}\ncheck.{name}({name})" for name, source in LSTM.items()]
    write(folder / "loops" / "02_lstm.ipynb", "from shalab.checks import lstm as check", *lstm)
    (folder / "loops" / "torch.py").write_text("raise SystemExit", encoding="utf-8")
    hostile = [source.replace("OUTSIDE", repr(str(outside))).replace("PORT", "9") for source in FORGED]
    write(folder / "forged" / "00_start_here.ipynb", *hostile, said="✔ bits_per_byte is right.")
    (folder / "broken_00_start_here.ipynb").write_text("{no JSON", encoding="utf-8")
    (folder / "notes.ipynb").write_text("{}", encoding="utf-8")
    out = place / "grades.csv"
    command = [sys.executable, "-m", "shalab.course", "grade", folder, "--out", out, "--seconds", "15"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=place)
    assert done.returncode == 0, done.stderr
    with out.open(encoding="utf-8", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return done.stdout, rows, outside


def marks(row: dict, notebook: str) -> list[str]:
    return [row[check.key] for check in checks.exercises()[notebook]]


def test_right_and_blank_answers(graded):
    _, rows, _ = graded
    assert list(rows) == ["anna", "blank", "broken", "forged", "loops"]
    assert set(marks(rows["anna"], "start_here")) == {"right"} and set(marks(rows["anna"], "boom")) == {"missing"}
    assert int(rows["anna"]["right"]) == len(marks(rows["anna"], "start_here"))
    assert set(marks(rows["blank"], "start_here")) == {"open"} and rows["blank"]["right"] == "0"


def test_what_loops_hogs_memory_or_ends_its_process_costs_one_exercise(graded):
    row = graded[1]["loops"]
    assert row["lstm.window"] == "too long"
    assert row["lstm.cell"].startswith("stopped: MemoryError") or sys.platform != "linux"
    assert row["lstm.layer_norm"] == "wrong: wrong axis"
    assert row["lstm.truncated"] == "stopped: its process ended"


def test_a_forged_verdict_is_worth_nothing_and_broken_json_stops_nobody(graded):
    _, rows, outside = graded
    assert not {"right"} & {*marks(rows["forged"], "start_here")}
    assert set(marks(rows["broken"], "start_here")) == {"unreadable"}


def test_the_walls_hold_where_there_are_some(graded):
    said, rows, outside = graded
    walls = next(filter(_holds, WALLS.items()))[0]
    assert walls in said
    if walls != ALL:
        pytest.skip(walls)
    assert not outside.exists() and "Read-only" in rows["forged"]["start_here.bigram"]
    assert "Network is unreachable" in rows["forged"]["start_here.given"]


def test_a_line_for_each_student_and_the_mistakes_by_name(graded):
    lines = graded[0].splitlines()
    anna, loops = (next(line for line in lines if line.startswith(name)) for name in ("anna ", "loops "))
    n_right, n_exercises = len(checks.exercises()["start_here"]), len(graded[1]["anna"]) - 2
    assert anna.split()[1] == "✔" * n_right and anna.endswith(f"{n_right} of {n_exercises}")
    order = [check.name for check in checks.exercises()["lstm"]]
    signs = {"window": "∞", "cell": "⚠", "layer_norm": "✘", "truncated": "⚠"}
    assert "".join(map(signs.get, order)) in loops
    assert "lstm.layer_norm: wrong: wrong axis (loops)" in lines and "start_here: unreadable (broken)" in lines
    assert graded[1]["forged"]["start_here.bits_per_byte"].startswith("wrong: expected 1.8")


def test_a_copy_is_one_student_and_solutions_are_nobodys(tmp_path):
    for name in ("02_lstm.ipynb", "02_lstm-Copy1.ipynb", "03_attention.ipynb", "solutions/02_lstm.ipynb"):
        write(tmp_path / "my-course" / name)
    expected = {"lstm": tmp_path / "my-course/02_lstm.ipynb", "attention": tmp_path / "my-course/03_attention.ipynb"}
    assert hand_ins(tmp_path / "my-course") == hand_ins(tmp_path) == {"my-course": expected}
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(InputError):
            grade(folder, tmp_path / "out.csv")


def test_of_other_cells_only_what_an_answer_needs_is_run():
    cells = [
        "import numpy as np\nimport time\ntime.sleep(100)\nT = 5",
        "def helper(x):\n    return np.log(x) * T\nprint(helper(3))",
        "T = train_for_hours()",
        "def f(x, T=1):\n    return helper(x)\ncheck.f(f)",
        "y = [f(z) for z in range(9)]",
        "own = 3",
        "check.g(y)",
    ]
    hand_in = HandIn(cells, {*cells[:5], cells[6]})
    assert (hand_in.place("f"), hand_in.place("g"), hand_in.place("h")) == (3, 6, None)
    run = [source for _, _, source in hand_in.before(3, None)]
    assert run == ["import numpy as np", "T = 5", "def helper(x):\n    return np.log(x) * T", "T = train_for_hours()"]
    assert cells[5] not in [source for _, _, source in hand_in.before(6, None)]
    assert cells[5] in [source for _, _, source in hand_in.before(6, 3)]


def test_a_run_that_was_handed_in_is_judged_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(enwik8_run.SMALL, "budget", Budget(steps=6))
    folder = tmp_path / "runs" / "victim"
    enwik8_run.train(folder)
    weights = load_checkpoint(folder)["model"]
    monkeypatch.setattr(enwik8_run, "_undisturbed", lambda: weights)
    assert _mark(enwik8_run.killed, '{"value": "runs/victim"}', tmp_path) == "right"
    outside = json.dumps({"value": str(folder)})
    assert _mark(enwik8_run.killed, outside, tmp_path / "elsewhere") == "stopped: InputError"
    (folder / "link").symlink_to("/dev/zero")
    assert _mark(enwik8_run.killed, '{"value": "runs/victim"}', tmp_path) == "stopped: InputError"


def test_what_comes_back_is_data_and_nothing_of_it_is_run(tmp_path):
    for x in (torch.eye(3), np.float32(2), (1, 2.5, [True, None]), "a", b"b"):
        assert not difference(_object(json.loads(json.dumps(_plain(x)))), x)
    assert _object(_plain(...)) is ... and type(_object(_plain(object()))).__name__ == "object"
    assert type(_object(_plain(torch.zeros(1000, 1000)))).__name__ == "Tensor"  # too large to be an answer
    deep = json.dumps({"results": [[[[[]]]]] * 3, "error": ["SystemExit", []]})
    for told in ("", "[", "[]", "{}", "1" * 5000, '{"results": 5}', '{"results": [], "error": [5, 5]}', deep):
        assert _kind(_mark(start_here.bits_per_byte, told, tmp_path)) in ("stopped", "wrong"), told
    ended = '{"results": [], "error": ["SystemExit", ["\\u001b[2J"]]}'
    assert _mark(start_here.bits_per_byte, ended, tmp_path) == "stopped: SystemExit:  [2J"


@pytest.mark.parametrize("path", course.notebooks(), ids=lambda path: path.stem)
def test_no_exercise_needs_a_model_to_be_trained_or_loaded_before(path):
    """So grading stays fast. Exercises whose answer is a value are left out: their own cells are run."""
    solution = nbformat.read(SOLUTIONS / path.name, as_version=4)
    hand_in = HandIn([cell.source for cell in solution.cells if cell.cell_type == "code"], set())
    for check in checks.exercises().get(path.stem[3:], []):
        place = hand_in.place(check.name)
        assert place is not None, check.key
        sources = [source for _, _, source in hand_in.before(place, None)]
        assert not re.search(r"trained_model|Run\.|Trainer|load_corpus", "\n".join(sources)), (check.key, sources)
