"""The notebooks say what they compute: nbval runs them again and compares every stored output."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def nbval(path, cwd):
    options = ["-p", "no:cacheprovider", "--nbval", "--nbval-current-env", "--nbval-cell-timeout", "1200"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, path], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_computes_what_it_shows(path, tmp_path):
    done = nbval(path, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, "a cell that was not executed is not compared by nbval"
            assert not cell.metadata.get("tags")
            for output in cell.outputs:
                assert output.output_type != "error" and output.get("name") != "stderr"
                text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
                assert not re.search(r"Warning|/home/|/tmp/|0x[0-9a-f]{6}", text)


def test_an_altered_number_is_noticed(tmp_path):
    """The light cells of the first notebook, with one digit of a stored output changed."""
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    nbformat.write(notebook, tmp_path / "true.ipynb")
    assert nbval(tmp_path / "true.ipynb", tmp_path).returncode == 0
    stored = notebook.cells[1].outputs[0]
    assert "900,000" in stored.text
    stored.text = stored.text.replace("900,000", "900,001")
    nbformat.write(notebook, tmp_path / "false.ipynb")
    assert nbval(tmp_path / "false.ipynb", tmp_path).returncode == 1
