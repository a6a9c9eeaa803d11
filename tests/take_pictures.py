"""The README's pictures of the real widgets, in Chromium; `python tests/take_pictures.py` takes them again."""

import io
from collections.abc import Iterator
from pathlib import Path

from lab import launch_browser, settle
from PIL import Image

from shalab.baselines import baselines
from shalab.bundled import assets_dir
from shalab.corpus import load_corpus
from shalab.course import trained_model
from shalab.events import read_metrics
from shalab.laboratory.widgets import show
from shalab.widgets.dashboard import Dashboard, Replay
from shalab.widgets.explorer import AttentionExplorer
from shalab.widgets.history import History

FOLDER = Path(__file__).parents[1] / "assets" / "pictures"


def explorer() -> AttentionExplorer:
    """Of the trained model, on a part of notebook 07's text; the byte is pinned that is surest where to look."""
    model = trained_model()
    model.max_context = 3000
    widget = AttentionExplorer.from_model(model, load_corpus("enwik6").split("valid")[39_000:44_000], window=500)
    weights = widget._weights[widget.block][widget.head]  # (T, K)
    widget.pinned = int(weights.max(1).argmax())
    return widget


def dashboard() -> Dashboard:
    """The recorded training of the same model, as it was at update 3,000."""
    lines = read_metrics(assets_dir() / "model")
    before = lines[: next(place for place, line in enumerate(lines) if line.get("step") == 3001)]
    history = History(before, 4800)
    history.state = "running"
    corpus = load_corpus("enwik6")
    prices = baselines(corpus.data, corpus.bounds)
    references = {name: prices[name][0] for name in ("gzip -9", "xz -9e")}
    return Dashboard(Replay(lines, 1), references, history)


WIDGETS = {"explorer": explorer, "dashboard": dashboard}


def taken(browser) -> Iterator[tuple[str, object, bytes]]:
    """The name of each picture, the page that shows it, and its PNG in 64 colours, which is a third of the bytes."""
    for name, widget in WIDGETS.items():
        page = browser.new_page(viewport={"width": 1040, "height": 1000})
        page.goto("data:text/html,<!doctype html>")  # without it, tables have another font
        show(page, widget())
        settle(page)
        packed = io.BytesIO()
        picture = Image.open(io.BytesIO(page.locator("#root").screenshot())).convert("RGB")
        picture.quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        yield name, page, packed.getvalue()
        page.close()


def main() -> None:
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        for name, _, png in taken(browser):
            (FOLDER / f"{name}.png").write_bytes(png)
            print(FOLDER / f"{name}.png", f"{len(png) / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
