"""What readers write becomes their model: collected as it passes, completed by the solutions, equal to the library."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from shalab import checks, course
from shalab.capstone import _NAMES, FILE, PIECES, add_model, assemble, pieces
from shalab.checks import boom, lamb, lstm

FOLD = "def fold(x, d_model):\n    return x.unflatten(-1, (-1, d_model)).sum(-2)\n"


@pytest.fixture
def typed(tmp_path):
    """A function as a reader's cell defines it, with what else that cell holds, and with names of other cells."""

    def define(source, name, **elsewhere):
        cell = tmp_path / f"cell{len(list(tmp_path.glob('cell*')))}.py"
        cell.write_text(source, encoding="utf-8")
        exec(compile(source, str(cell), "exec"), elsewhere)
        return elsewhere[name]

    return define


def own_file():
    return Path(FILE).read_text(encoding="utf-8")


def in_the_file(name):
    """The name of the function that the file, run by itself, has under `name`."""
    return runpy.run_path(FILE)[name].__name__


def test_every_solution_works_by_itself_and_is_marked():
    before = pieces()
    assert before.missing == _NAMES and not Path(FILE).exists()
    made = assemble()
    assert made.solutions == _NAMES and not (made.own or made.missing or made.faults or made.note)
    assert own_file().count("\n# from the solutions\n") == len(PIECES)
    assert repr(made).endswith(f"0 of {len(PIECES)} are yours")
    command = [sys.executable, "-c", "import my_sharnn; print(my_sharnn.min_trust_step.__name__)"]
    assert subprocess.check_output(command, text=True) == "min_trust_step\n"  # a Python without the course
    first = own_file()
    assert assemble() == made and own_file() == first


def test_a_right_answer_is_kept_as_it_was_written_and_takes_the_solutions_place(typed):
    assemble()
    answer = typed(f"import torch\n\n\n{FOLD}\n\ncheck = print\ncheck(fold)\n", "fold")
    verdict = boom.fold(answer)
    assert verdict.message.startswith("fold is right. It is part of your model now, in my_sharnn.py. Done: 1 of ")
    assert f"# ---- fold, notebook 04 ----\n{FOLD}# ---- end of fold ----\n" in own_file()
    assert pieces().own == ["fold"] and "check = print" not in own_file()
    again = typed(FOLD.replace("x.un", "1 * x.un"), "fold")
    boom.fold(again)
    assert own_file().count("def fold") == 1 and "1 * x.un" in own_file()
    boom.fold(typed("def fold(x, d_model):\n    return x", "fold"))
    assert "1 * x.un" in own_file(), "a wrong answer replaces nothing"


BODY = "return x.unflatten(-1, (-1, d_model)).sum(-2)"
FORMS = {
    "indented": f"if True:\n    def fold(x, d_model):\n        {BODY}\n",
    "under another name": FOLD.replace("fold", "my_fold"),
    "decorated": f"import torch\n@torch.no_grad()\n{FOLD}",
    "with types": f"from torch import Tensor\ndef fold(x: Tensor, d_model: int) -> Tensor:\n    {BODY}\n",
    "written twice": f"def fold(x, d_model):\n    return 0\n{FOLD}fold(__import__('torch').ones(2, 4), 2)\n",
    "a function inside": "def fold(x, d_model):\n\n    def add(parts):\n        return sum(parts)\n\n"
    "    return add(x.split(d_model, -1))\n",
}


@pytest.mark.parametrize("source", FORMS.values(), ids=FORMS)
def test_whatever_way_it_is_written_it_is_found_under_its_own_name(typed, source):
    name = "my_fold" if "my_fold" in source else "fold"
    assert "part of your model" in boom.fold(typed(source, name)).message
    assert pieces().own == ["fold"] and in_the_file("fold") == name


def test_a_name_from_elsewhere_is_told(typed):
    source = "def fold(x, d_model):\n    return helper(x, d_model) if d_model else other.thing\n"
    verdict = boom.fold(typed(source, "fold", helper=boom.fold.reference))
    assert verdict.outcome == "right"
    assert "It is not in my_sharnn.py: it needs helper, other, which that file does not have; define it inside" in (
        verdict.message
    )
    assert not Path(FILE).exists() and pieces().missing == _NAMES


def test_a_piece_may_use_a_piece_before_it(typed):
    source = """
def min_trust_step(w, m, v, g, step, lr, min_trust):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    u = m / (v.sqrt() + 1e-6) + 0.01 * w
    return w - lr * max(trust_ratio(w, u), min_trust) * u, m, v
"""
    ratio = lamb.trust_ratio.reference
    assert "it needs trust_ratio" in lamb.min_trust_step(typed(source, "min_trust_step", trust_ratio=ratio)).message
    own = "def trust_ratio(w, u):\n    a, b = w.norm().clamp(max=10), u.norm()\n"
    lamb.trust_ratio(typed(own + "    return a / b if a * b else a * 0 + 1\n", "trust_ratio"))
    verdict = lamb.min_trust_step(typed(source, "min_trust_step", trust_ratio=ratio))
    assert "part of your model" in verdict.message and pieces().own == ["trust_ratio", "min_trust_step"]


def test_what_works_only_where_it_was_written_is_told(typed):
    source = "def fold(x, d_model):\n    return math.fold(x, d_model)\n"
    verdict = boom.fold(typed(source, "fold", math=type("Math", (), {"fold": staticmethod(boom.fold.reference)})))
    assert verdict.outcome == "right" and "alone it does not work, fold stopped: AttributeError" in verdict.message
    assert not Path(FILE).exists()


@pytest.mark.parametrize("answer", [lambda x, d_model: boom.fold.reference(x, d_model), boom.fold.reference.__call__])
def test_what_has_no_source_of_its_own_is_told_in_a_sentence(answer):
    verdict = boom.fold(answer)
    assert verdict.outcome == "right" and "only a function that is written with def" in verdict.message


def test_what_readers_write_into_the_file_themselves_survives(typed):
    mine = 'print("mine")\n\n# ---- fold, notebook 04 ----\ndef unfinished():\n    pass'  # a section without an end
    Path(FILE).write_text(mine, encoding="utf-8")
    boom.fold(typed(FOLD, "fold"))
    assemble()
    text = own_file()
    assert text.startswith(mine) and FOLD in text
    between = text.replace("# ---- cell, notebook 02 ----", "BETWEEN = 5\n# ---- cell, notebook 02 ----") + "# after\n"
    between = between.replace("import math\n", "import math\nimport statistics\n")
    Path(FILE).write_text(between, encoding="utf-8")
    step = (
        "def cell(x, h, c, w_ih, w_hh, b_ih, b_hh):\n    statistics.mean([1])\n"
        + """\
    i, f, g, o = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
"""
    )
    assert "part of your model" in lstm.cell(typed("import statistics\n" + step, "cell")).message
    after = own_file()
    assert (
        after.startswith(mine) and "BETWEEN = 5\n# ---- cell" in after and after.endswith("# after\n") and step in after
    )
    assert pieces().own == ["cell", "fold"]


BROKEN = {
    "cell": (
        "def cell(x, h, c, w_ih, w_hh, b_ih, b_hh):\n"
        "    i, f, o, g = (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)\n"
        "    c = f.sigmoid() * c + i.sigmoid() * g.tanh()\n    return o.sigmoid() * c.tanh(), c\n",
        "cell: gates in another order. PyTorch stacks",
    ),
    "fold": ("def fold(x, d_model):\n    return x.unflatten(-1, (-1, d_model)).mean(-2)\n", "fold: mean. Boom adds"),
    "remember": (
        "def remember(memory, window, max_context):\n    context = torch.cat([memory, window])\n"
        "    return context, context[max(0, len(context) - max_context) :]\n",
        "remember: cut only afterwards.",
    ),
    "overparam": ("def overparam(vector, weight, bias):\n    ...\n", "overparam is not done yet."),
    "window": ("def window(data, batch_size, cursor, bptt)\n    return data\n", "window stopped: SyntaxError"),
    "bits_per_byte": (
        "def bits_per_byte(p):\n    return -np.lok2(p).mean()\n",
        "bits_per_byte stopped: AttributeError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_piece_that_is_broken_afterwards_is_named(name):
    source, told = BROKEN[name]
    assemble()
    section = re.compile(rf"(# ---- {name}, .*\n)(?:.*\n)*?(# ---- end of {name} ----\n)")
    Path(FILE).write_text(section.sub(rf"\1{source}\2", own_file()), encoding="utf-8")
    made = assemble()
    assert list(made.faults) == [name] and made.faults[name].startswith(told) and made.own == [name]
    assert f"✘ {made.faults[name]}\n  Repair {name} in my_sharnn.py, or delete its section." in repr(made)
    Path(FILE).write_text(section.sub("", own_file()), encoding="utf-8")
    assert not assemble().faults


def test_the_line_of_an_error_in_the_file_is_told():
    assemble()
    Path(FILE).write_text(own_file().replace("-np.log2(p)", "-np.lok2(p)"), encoding="utf-8")
    line = own_file().splitlines().index("    return -np.lok2(p).mean()") + 1
    assert pieces().faults["bits_per_byte"].endswith(f"\nin line {line}: return -np.lok2(p).mean()")


def test_a_folder_that_cannot_be_written_costs_no_mark_and_the_model_works_all_the_same(typed):
    Path(FILE + ".part").mkdir()  # where the new file would be prepared
    verdict = boom.fold(typed(FOLD, "fold"))
    assert verdict.outcome == "right" and "It is not in my_sharnn.py: cannot write to " in verdict.message
    made = assemble()
    assert made.note.startswith("my_sharnn.py could not be written: cannot write to ") and made.note in repr(made)
    from my_sharnn import fold

    assert boom.fold.judge(fold).outcome == "right" and not Path(FILE).exists()
    Path(checks.PROGRESS_FILE + ".part").mkdir()
    assert re.fullmatch(
        r"fold is right\. This could not be kept: .* cannot be written \(.*\)\.", boom.fold(fold).message
    )


def test_a_file_that_is_no_text_is_told(typed):
    Path(FILE).write_bytes(b"\xff")
    assert "cannot be read" in boom.fold(typed(FOLD, "fold")).message and Path(FILE).read_bytes() == b"\xff"


def test_the_newest_piece_is_the_one_that_is_imported(typed):
    assemble()
    boom.fold(typed(FOLD.replace("return x", "return 1 * x"), "fold"))
    assemble()
    import my_sharnn

    assert len(my_sharnn.fold.__code__.co_consts) > 1 and 1 in my_sharnn.fold.__code__.co_consts


def test_the_model_joins_its_pieces_in_the_file(typed):
    assemble()
    half = typed("def half(x):\n    return fold(x, 2) / 2\n", "half")
    assert re.fullmatch(r"my_sharnn.py holds a whole model now, in \d+ lines\.", add_model(half))
    assert in_the_file("half") == "half"
    assert "it needs nowhere" in add_model(typed("def half(x):\n    return nowhere(x)\n", "half"))
    assert "written with def" in add_model(lambda x: x)


def shown(output):
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_answers_in_notebooks_become_a_model_that_is_the_librarys():
    """One kernel runs the solutions as a reader's notebooks would, then what notebook 07 makes of them."""
    cells = []
    for key in dict.fromkeys(key.partition(".")[0] for key in PIECES):
        path = next(path for path in course.notebooks() if path.stem[3:] == key)
        cells += [nbformat.v4.new_code_cell(cell.source) for cell in code_cells(path.parent / "solutions" / path.name)]
    inside = code_cells(next(path for path in course.notebooks() if path.stem[3:] == "inside"))
    slow = ("yours-silent", "yours-text")  # they try no other piece
    cells += [cell for cell in inside if cell.id.startswith("yours-") and cell.id not in slow]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=course.CELL_TIMEOUT_S, kernel_name="python3").execute()
    said = {cell.id: "".join(shown(output) for output in cell.outputs) for cell in cells}
    assert f"{len(PIECES)} of {len(PIECES)} are yours" in said["yours-pieces"]
    assert "# from the solutions" not in own_file() and pieces().own == _NAMES
    assert "largest difference: 0.000" in said["yours-logits"]
    assert "your model: 1.67 bits per byte" in said["yours-valid"]
    assert re.search(r"before the update, \d\.\d\d after it", said["yours-update"])
    assert in_the_file("forward") == "forward"
