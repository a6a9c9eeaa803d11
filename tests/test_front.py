"""What a newcomer and a teacher read first agrees with the course."""

import io
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image
from take_pictures import FOLDER, taken

from shalab import checks, course
from shalab.course.__main__ import main
from shalab.pages import course as pages

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_a_line_for_each_notebook_with_its_minutes():
    rows = re.findall(r"^\| \[(\d\d [^\]]+)\]\(notebooks/(\w+)\.ipynb\) \| .+ \| (\d+) \|$", README, re.MULTILINE)
    listed = {stem: (title, int(total)) for title, stem, total in rows}
    assert {path.stem: course.minutes(path)[:2] for path in course.notebooks()}.items() <= listed.items(), (
        "python -m shalab.course minutes"
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", course.teaching()], ids=lambda page: page.stem)
def test_links_lead_somewhere_and_pictures_are_described(page):
    text = page.read_text(encoding="utf-8")
    for alt, target in re.findall(r"(!?\[[^\]]*\])\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
        assert not alt.startswith("!") or len(alt) > 60
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert {*re.findall(r"\]\(#([^)]+)\)", text)} <= headings


def test_the_page_for_teachers_says_what_the_notebooks_say():
    text = course.teaching().read_text(encoding="utf-8")
    assert course.MINUTES.search(text)[0] == course.minutes_tables(), "python -m shalab.course minutes"
    known = {check.key: check.mistakes for notebook in checks.exercises().values() for check in notebook}
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.+?) \|", text, re.MULTILINE)
    assert len(rows) > 10
    for key, mistake in rows:
        assert mistake in known[key], (key, mistake)


@pytest.mark.parametrize("path", course.notebooks(), ids=lambda path: path.stem)
def test_the_sections_take_as_long_as_the_notebook_says(path):
    _, total, sections = course.minutes(path)
    assert not sections or abs(sum(n for _, n in sections) - total) <= 10


def test_minutes_are_read_and_stored(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = ["# 00 A\n\n*Time: 40\nminutes, one of them computing.*", "## 1. First · 7 min\n\n## Last"]
    cells = [nbformat.v4.new_markdown_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "00_a.ipynb")
    monkeypatch.setattr(course, "notebooks_dir", lambda: folder)
    assert course.minutes(folder / "00_a.ipynb") == ("00 A", 40, [("1. First", 7)])
    (folder / "teaching.md").write_text("a\n<!-- minutes -->\nold\n<!-- end of minutes -->\nb\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("| [00 A](notebooks/00_a.ipynb) | what | 5 |\n", encoding="utf-8")
    for _ in range(2):
        assert main(["minutes"]) == 0
        text = (folder / "teaching.md").read_text(encoding="utf-8")
        assert text == f"a\n<!-- minutes -->\n{course.minutes_tables()}<!-- end of minutes -->\nb\n"
        assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith("| what | 40 |\n")
    assert "### [00 A](00_a.ipynb): 40 minutes" in text and "| 1. First | 7 |" in text and "old" not in text
    pages.write(tmp_path / "pages", living=False)
    assert 'href="00_a.html"' in (tmp_path / "pages" / "teaching.html").read_text(encoding="utf-8")
    assert (course.copy() / "teaching.md").read_text(encoding="utf-8") == text


def test_readme_shows_pictures_that_are_there():
    names = re.findall(r"\]\(assets/pictures/(\w+)\.png\)", README)
    assert names == ["explorer", "dashboard"]
    for name in names:
        png = (FOLDER / f"{name}.png").read_bytes()
        assert len(png) < 150_000 and Image.open(io.BytesIO(png)).width > 600


SHOWN = {
    "explorer": ["500 query bytes, 2,500 bytes of memory before them.", "(pinned)", "Largest weights"],
    "dashboard": ["training", "step 3,000 of 4,800", "Latest sample"],
}


def test_the_pictures_show_the_widgets_as_they_are_now(lab):
    """Seen to fail when the dashboard's curves are drawn 40 pixels higher."""
    for name, page, png in taken(lab.browser):
        text = page.locator("#root").inner_text()
        assert all(part in text for part in SHOWN[name]), text
        stored, now = (Image.open(io.BytesIO(of)) for of in ((FOLDER / f"{name}.png").read_bytes(), png))
        assert now.width == stored.width and abs(now.height - stored.height) < 25, "python tests/take_pictures.py"
