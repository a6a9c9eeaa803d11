"""The notebooks say what they compute: they are run again, and nbval compares every stored output.

They run from an installed package, in a folder of their own, and on a device that is not the model's home; those that
a reader steps through in JupyterLab in a real browser, where there is one.
"""

import ast
import copy
import dis
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from shalab import checks, course

SHIPPED = course.notebooks()
SOLUTIONS = sorted((course.notebooks_dir() / "solutions").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
IGNORED = "nbval-ignore-output"
SIDE_TRIP = "side-trip"  # a code cell that is folded away and may be skipped
ELSEWHERE = Path(__file__).with_name("elsewhere")


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with the package as a wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=root, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def browsing(request):
    """JupyterLab in a browser, or None where there is none; then nbval runs the notebooks itself."""
    try:
        return request.getfixturevalue("lab")
    except pytest.skip.Exception:
        return None


def elsewhere(installed):
    """Where a kernel finds the package and the device."""
    return {"PYTHONPATH": os.pathsep.join([str(ELSEWHERE), str(installed)])}


def nbval(path, installed, computed=None):
    """nbval's return code and report; the kernel works in the notebook's folder, with one thread, as all tests do.

    computed: the notebook as it was when it had been run already, whose outputs nbval then compares.
    """
    options = f"--nbval --nbval-current-env --nbval-cell-timeout {course.CELL_TIMEOUT_S} -p no:cacheprovider".split()
    sanitizer = Path(__file__).with_name("nbval.cfg")
    environment = {**os.environ, **elsewhere(installed), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # quicker
    if computed:
        options += ["-p", "replay"]
        environment |= {"PYTHONPATH": str(Path(__file__).parent), "COMPUTED": str(computed)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "nbval.plugin", *options, "--nbval-sanitize-with", sanitizer, path],
        cwd=path.parent, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout[-4000:]


def run_in_the_browser(path, lab, installed):
    """Run All in a folder of its own; returns the notebook that JupyterLab then saves."""
    name = f"{path.stem}/{path.name}"
    lab.server.add_kernel("elsewhere", elsewhere(installed))
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": "elsewhere", "display_name": "Python 3"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    (lab.server.folder / path.stem).mkdir()
    nbformat.write(notebook, lab.server.folder / name)
    with lab.open(name) as page:
        lab.run_all(page, course.CELL_TIMEOUT_S)
        lab.picture(page, path.stem)
        lab.save(page, name)
    return lab.server.folder / name


def test_a_model_that_was_left_at_home_is_noticed(installed, tmp_path):
    lines = """
from shalab import course, corpus, device, evaluate
precision, data = device.Precision.pick(), corpus.load_corpus("enwik6").data
placed = evaluate.evaluate(precision.place(course.trained_model()), data, 500, 600, precision)
print(placed == evaluate.evaluate(course.trained_model(), data, 500, 600, device.Precision.pick("cpu")))
evaluate.evaluate(course.trained_model(), data, 500, 600, precision)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ELSEWHERE), str(installed)])}
    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n" and done.stderr.endswith("the model is at home, its input is not\n"), done


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def texts(output):
    """What a reader can read of an output."""
    return [output.get("text", "")] + [str(data) for mime, data in output.get("data", {}).items() if "text" in mime]


def test_the_package_that_notebooks_run_from_is_the_wheel(installed, tmp_path):
    line = "import shalab; from shalab import course as c; print(shalab.__file__, len(c.notebooks()))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    printed = subprocess.check_output([sys.executable, "-c", line], cwd=tmp_path, env=environment, text=True)
    file, n_notebooks = printed.split()
    assert Path(file).is_relative_to(installed) and int(n_notebooks) == len(SHIPPED)


@every_notebook
def test_notebook_computes_what_it_shows(path, installed, browsing, tmp_path):
    """And an altered number is noticed: the first cell that prints one is there twice, once with a wrong digit."""
    notebook = nbformat.read(path, as_version=4)
    n_cells = len(code_cells(path))
    place, output = next(
        (place, output)
        for place, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and IGNORED not in cell.metadata.get("tags", [])
        for output in cell.outputs if re.search(r"\d", output.get("text", ""))
    )  # fmt: skip
    wrong = copy.deepcopy(notebook.cells[place])
    wrong.id += "-wrong"
    output = wrong.outputs[notebook.cells[place].outputs.index(output)]
    *_, digit = re.finditer(r"\d", output.text)
    altered = str((int(digit[0]) + 1) % 10)
    output.text = output.text[: digit.start()] + altered + output.text[digit.end() :]
    notebook.cells.insert(place + 1, wrong)
    nbformat.write(notebook, tmp_path / path.name)
    computed = run_in_the_browser(path, browsing, installed) if browsing else None
    code, report = nbval(tmp_path / path.name, installed, computed)
    number = sum(cell.cell_type == "code" for cell in notebook.cells[: place + 1])
    assert code == 1 and f"1 failed, {n_cells} passed" in report, report
    assert f"::Cell {number} - " in report and "assert reference_output == test_output" in report, report


@pytest.mark.parametrize("path", [*SHIPPED, *SOLUTIONS], ids=lambda path: "/".join(path.parts[-2:]))
def test_stored_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata and notebook.metadata.training_steps > 0
    cells = code_cells(path)
    ignored = [cell for cell in cells if IGNORED in cell.metadata.get("tags", [])]
    assert len(ignored) <= len(cells) / 5
    for cell in ignored:
        assert len(cell.metadata.reason) > 20
    for cell in cells:
        assert {*cell.metadata.get("tags", [])} <= {IGNORED, SIDE_TRIP}
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert folded == (SIDE_TRIP in cell.metadata.get("tags", []))
    for count, cell in enumerate(cells, 1):
        assert cell.execution_count == count, "nbval compares no cell that was not executed"
        assert "execution" not in cell.metadata
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            for text in texts(output):
                assert not re.search(r"Warning|Traceback|/home/|/tmp/|/Users/|[A-Z]:\\|\bat 0x[0-9a-f]{6}", text)
                assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", text))


def names(code):
    """Of a cell's or a function's code: the names that it sets and those that it needs from outside of functions."""
    steps = list(dis.get_instructions(code))
    inner = [names(part)[1] for part in code.co_consts if hasattr(part, "co_code")]
    needs = {step.argval for step in steps if step.opname in ("LOAD_NAME", "LOAD_GLOBAL")}.union(*inner)
    return {step.argval for step in steps if step.opname == "STORE_NAME"}, needs


@every_notebook
def test_a_folded_cell_may_be_skipped_or_the_text_says_to_run_it(path):
    there, folded, prose = set(), {}, ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            prose = cell.source
            continue
        code = compile(cell.source, path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        sets, needs = names(code)
        if SIDE_TRIP in cell.metadata.get("tags", []):
            folded |= dict.fromkeys(sets, prose)
            continue
        for name in (needs - sets - there) & set(folded):
            assert re.search(r"\b[Rr]un (it|the folded\s+cell)\b", folded[name]), name
        there |= sets


@every_notebook
def test_a_reader_knows_what_comes_how_long_it_takes_and_where_to_go(path):
    prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    assert "**You will**" in prose[0] and "*Before you begin:" in prose[0]
    assert re.search(r"Time: \d+ minutes", prose[0])
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", "\n".join(prose)):
        assert (path.parent / link).exists(), link
    for neighbour in SHIPPED[max(0, SHIPPED.index(path) - 1) : SHIPPED.index(path) + 2]:
        assert neighbour == path or f"]({neighbour.name})" in prose[-1], neighbour


@every_notebook
def test_every_exercise_is_there_and_not_done_yet(path):
    said = [text for cell in code_cells(path) for output in cell.outputs for text in texts(output)]
    open_ = [re.match(r"○ (\w+) is not done yet", text) for text in said]
    names = [check.name for check in checks.exercises()[path.stem[3:]]]
    assert [match[1] for match in open_ if match] == names and len(names) >= 3
    assert (path.parent / "solutions" / path.name).exists()


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_solve_every_exercise(path, installed, tmp_path):
    """Their stored outputs say so, and nbval finds the same when it runs them again."""
    said = [text for cell in code_cells(path) for output in cell.outputs for text in texts(output)]
    right = [re.match(r"✔ (\w+) is right", text) for text in said]
    exercises = checks.exercises()[path.stem[3:]]
    assert [match[1] for match in right if match] == [check.name for check in exercises]
    code, report = nbval(Path(shutil.copy(path, tmp_path)), installed)
    assert code == 0, report
    for check in exercises:
        assert check.key in (tmp_path / checks.PROGRESS_FILE).read_text(encoding="utf-8")
