"""`shalab page`: a run as one file that loads nothing, tells nothing private, and runs nothing that its text says."""

import re
import socket
from pathlib import Path

import pytest
from lab import WAIT_MS, violations

from shalab import SHARNN, InputError, ModelConfig
from shalab.bundled import assets_dir
from shalab.checkpoint import NEWEST, load_checkpoint, save_checkpoint
from shalab.cli import main
from shalab.pages.run import page

EVIL = '</script><script>window.bad = 1</script><img src=x onerror="window.bad = 2"><!--<script>{{ 7 * 7 }} &amp; ${1}'


@pytest.fixture
def opened(browser):
    """Opens a file as a reader does, in a browser that may ask nobody for anything; errors fail the test."""
    pages = []

    def open_(path: Path, before: str = "", **options):
        context = browser.new_context(offline=True, **options)
        context.add_init_script(before)
        shown = context.new_page()
        shown.set_default_timeout(WAIT_MS)
        errors, asked = [], []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        shown.on("request", lambda request: asked.append(request.url))
        pages.append((shown, errors, asked))
        shown.goto(path.as_uri())
        shown.wait_for_selector("body[data-drawn]")
        shown.get_by_role("row", name=re.compile(r"^the model \d\.\d{3}")).wait_for()
        return shown

    yield open_
    for shown, errors, asked in pages:
        assert not errors and not [url for url in asked if not url.startswith(("file:", "blob:"))], (errors, asked)
        shown.context.close()


def test_the_course_model(opened, tmp_path):
    out = tmp_path / "model.html"
    assert main(["page", str(assets_dir() / "model"), str(out)]) == 0
    assert out.stat().st_size < 6e6
    for width, dark in ((1280, "light"), (320, "dark")):
        shown = opened(out, viewport={"width": width, "height": 800}, color_scheme=dark)
        assert shown.get_by_role("row", name="bits per byte on valid 1.670").count() == 1
        assert shown.get_by_role("heading", name="After 4,800 updates").count() == 1
        assert shown.get_by_role("img", name=re.compile("bits per byte")).count() == 1  # the curve
        shown.get_by_label("bytes", exact=True).fill("5")
        shown.get_by_label("bytes", exact=True).press("Enter")
        shown.get_by_role("button", name="write on").click()
        shown.wait_for_function("document.querySelectorAll('.shalab-written').length === 5")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(shown, "body") == []


def test_a_run_on_a_text_with_scripts(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "private-host")
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "private-user")
    data = tmp_path / "a<b>{{ 7 * 7 }}<script>.txt"
    data.write_text(EVIL * 40, encoding="utf-8")
    run, out = tmp_path / "private-folder", tmp_path / "page.html"
    arguments = f"--preset tiny --steps 4 --evaluations 2 --dtype float32 --sample-bytes 20 --out {run}"
    assert main(["train", "--data", str(data), *arguments.split()]) == 0
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8")
    samples = re.findall(r'"event": "sample".*?"text": (".*")\}', lines)
    for sample in samples:  # as if the model had learned its text by heart
        lines = lines.replace(sample, '"' + EVIL.replace('"', '\\"') + '"')
    (run / "metrics.jsonl").write_text(lines, encoding="utf-8")
    assert samples and main(["page", str(run), str(out)]) == 0
    shown = opened(out)
    assert shown.evaluate("window.bad") is None
    assert shown.locator("img[src=x]").count() == 0
    assert shown.locator("pre.out").first.inner_text() == EVIL
    assert shown.get_by_role("textbox", name="the text").input_value() == EVIL
    assert shown.locator("h1").inner_text() == f"A SHA-RNN trained on {data.name}"
    text = out.read_text(encoding="utf-8")
    for private in (str(tmp_path), str(Path.home()), "private-folder", "private-host", "private-user"):
        assert private not in text


def test_a_checkpoint_alone_and_a_model_without_a_head(opened, tmp_path):
    model = SHARNN(ModelConfig(256, 8, 16, 1, attention_layers=()))
    content = load_checkpoint(assets_dir() / "model")
    content["config"]["model"] = {"d_model": 8, "d_boom": 16, "n_layers": 1, "attention_layers": []}
    save_checkpoint(tmp_path / "alone.pt", {"config": content["config"], "best": model.state_dict()})
    assert page(tmp_path / "alone.pt", tmp_path / "alone.html") == (tmp_path / "alone.html").stat().st_size
    shown = opened(tmp_path / "alone.html", "Worker = undefined")  # a page may have none
    shown.get_by_label("bytes", exact=True).fill("20000")
    shown.get_by_label("bytes", exact=True).press("Enter")
    shown.get_by_role("button", name="write on").click()
    shown.wait_for_function("document.querySelectorAll('.shalab-written').length > 3")
    shown.get_by_role("button", name="stop").click()
    assert shown.get_by_role("heading", name="How it learned").count() == 0
    assert shown.get_by_role("combobox", name="colours show").count() == 0  # there is nothing to compare with


def test_wrong_input(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["page", str(tmp_path / "nowhere"), str(out)]) == 2
    assert "no checkpoint at" in capsys.readouterr().err and not out.exists()
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is there already: name a new file"):
        page(assets_dir() / "model", out)
    assert out.read_text(encoding="utf-8") == "mine"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NEWEST).write_bytes((assets_dir() / "model" / NEWEST).read_bytes())
    (tmp_path / "run" / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="result.json is damaged"):
        page(tmp_path / "run", tmp_path / "other.html")
