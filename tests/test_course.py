"""A copy to work in, stored outputs, and pages without a network."""

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch

from shalab import course
from shalab.course.__main__ import main
from shalab.errors import InputError
from shalab.pages import course as pages

CELLS = (
    "import time, torch\nprint(torch.arange(5).sum().item(), end='')",
    "from shalab.plots import Figure, Picture\nPicture(Figure((1, 1)), 'an empty <figure>')",
    "from shalab.widgets.base import Widget\nclass Dot(Widget):\n    _esm, summary = '', lambda self: 'one <dot>'\n"
    "    picture = lambda self: Figure((1, 1))\nDot()",
)
PROSE = r"""Text $a_t < b$ and

$$
\begin{aligned} c &= \sigma(W x) \\ d &= \sqrt{c} \end{aligned}
$$

[next](01_b.ipynb#x)
"""


@pytest.fixture
def notebook(tmp_path):
    """A small notebook with an equation, a picture and a widget."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_markdown_cell(PROSE, id="p")]
    cells += [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(CELLS)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "00_a.ipynb")
    (folder / "solutions").mkdir()
    shutil.copy(folder / "00_a.ipynb", folder / "solutions")
    return folder / "00_a.ipynb"


@pytest.fixture
def stored(notebook, monkeypatch):
    """The same, executed, as the whole course."""
    monkeypatch.setattr(course, "notebooks_dir", lambda: notebook.parent)
    monkeypatch.setattr(course, "step_cpu_s", lambda: 0.01)
    course.execute(notebook)
    return notebook


def test_executing_again_changes_nothing(stored):
    first = stored.read_bytes()
    content = nbformat.read(stored, as_version=4)
    assert content.cells[1].outputs[0].text == "10"
    assert content.metadata.training_steps > 0 and "widgets" not in content.metadata
    course.execute(stored)
    stored_again = nbformat.read(stored, as_version=4)
    for notebook in (content, stored_again):
        notebook.cells.pop()  # a bare widget's number is drawn by ipywidgets
        notebook.metadata.pop("training_steps")
    assert stored_again == content
    assert b"execution" not in first.replace(b"execution_count", b"")


def test_a_copy_has_no_outputs_and_is_never_overwritten(stored):
    assert course.copy() == Path("my-course")
    copied = nbformat.read("my-course/00_a.ipynb", as_version=4)
    assert [cell.source for cell in copied.cells[1:]] == list(CELLS)
    assert not any(cell.outputs or cell.execution_count for cell in copied.cells[1:])
    assert Path("my-course/solutions/00_a.ipynb").exists()
    Path("my-course/00_a.ipynb").write_text("mine", encoding="utf-8")
    assert main(["copy"]) == 0
    assert Path("my-course/00_a.ipynb").read_text(encoding="utf-8") == "mine"
    assert course.copy(fresh=True) == Path("my-course-2") and course.copy(fresh=True) == Path("my-course-3")
    assert {path.name for path in Path().iterdir()} >= {"my-course", "my-course-2", "my-course-3"}
    assert not list(Path().glob("tmp*"))


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(stored, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["html", "file/pages"]) == 2
    assert main(["execute", "gone.ipynb"]) == 2

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", "./here")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    assert main(["copy"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["shalab"] * 3
    assert "cannot use ./here (Permission denied)" in told[2] and not Path("my-course").exists()
    with pytest.raises(SystemExit):
        main(["copy", "--port=9000"])


def test_without_a_display_the_course_opens_for_this_machine_alone_and_says_how_to_get_there(tmp_path):
    """Also as root, which JupyterLab would refuse. JupyterLab's own options pass through."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    command = [sys.executable, "-m", "shalab.course", "lab", "--ServerApp.port=8877", "--LabApp.news_url="]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    ) as server:
        try:
            told = "".join(server.stdout.readline() for _ in range(4))
            address = re.search(r"http://\S+", told)[0]
            port = re.search(r"ssh -N -L (\d+):127\.0\.0\.1:\1 \S+@\S+", told)[1]
            assert address.startswith(f"http://127.0.0.1:{port}/lab/tree/00_start_here.ipynb?token=")
            assert urllib.request.urlopen(address).status == 200
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents")
        finally:
            server.terminate()
    assert (tmp_path / "my-course" / "00_start_here.ipynb").exists()


def loaded_from_hosts(page: str) -> list[str]:
    """Whatever a browser would fetch from elsewhere on opening the page."""
    tags = r"<(?:script|link|img|iframe|source|object)\b[^>]*(?:src|href|data)=[\"']?(?!data:)([^\"'>]+)"
    styles = r"@import\s*([^;]*)|url\(\s*[\"']?((?!data:|#)[^)]+)\)"
    return re.findall(tags, page) + re.findall(styles, page)


def test_the_rule_for_pages_knows_what_is_fetched():
    fetched = (
        '<script src="https://a/b.js"></script><link rel=x href=//c/d><style>@import "e"; i{f:url(https://g)}</style>'
    )
    assert len(loaded_from_hosts(fetched)) == 4
    assert not loaded_from_hosts('<img src="data:image/png;base64,xx"><a href="https://a">b</a> url(data:x)')


def test_pages_need_no_network_and_show_equations_and_pictures(stored, tmp_path):
    main(["html", "--stored", str(tmp_path / "pages")])
    page = (tmp_path / "pages" / "00_a.html").read_text(encoding="utf-8")
    assert (tmp_path / "pages" / "solutions" / "00_a.html").exists()
    assert not loaded_from_hosts(page)
    assert page.count("<math") == 2 and page.count("<mtr>") == 2 and "<msqrt>" in page
    assert 'alt="an empty &lt;figure&gt;"' in page and 'alt="one &lt;dot&gt;"' in page and 'href="01_b.html#x"' in page
    assert "widget-view" not in page


def test_no_page_of_the_course_needs_a_network(tmp_path):
    pages.write(tmp_path, living=False)
    files = list(tmp_path.rglob("*.html"))
    assert len(files) >= len(course.notebooks())
    for page in files:
        text = page.read_text(encoding="utf-8")
        assert not loaded_from_hosts(text), page
        assert "$$" not in text and "\\begin{" not in text and "<mi>&<" not in text, page
        assert "No description has been provided" not in text, page


def test_a_missing_model_is_told_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "assets_dir", lambda: tmp_path)
    with pytest.raises(InputError, match="no trained model at .*shalab export"):
        course.trained_model()


def test_the_check_of_the_machine_names_every_notebook(stored, monkeypatch, capsys):
    monkeypatch.setattr(course, "trained_model", lambda: torch.nn.Linear(1, 1))
    monkeypatch.setattr("torch.nn.Linear.n_parameters", 2, raising=False)
    content = nbformat.read(stored, as_version=4)
    content.metadata.training_steps = 9000
    nbformat.write(content, stored)
    monkeypatch.setattr(course, "steps_per_minute", lambda: 6000)
    course.environment_check()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["00_a", "1.5", "minutes"]
    assert any("2 parameters" in line for line in lines) and any("1,000,000 bytes" in line for line in lines)


def test_what_is_no_notebook_is_refused_by_name_and_left_alone(tmp_path, capsys):
    path = tmp_path / "notes.ipynb"
    path.write_text("no JSON", encoding="utf-8")
    assert main(["execute", str(path)]) == 2
    assert "notes.ipynb is no notebook" in capsys.readouterr().err and path.read_text(encoding="utf-8") == "no JSON"
