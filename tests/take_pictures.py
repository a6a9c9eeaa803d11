"""The README's pictures of the real widgets in JupyterLab; `python tests/take_pictures.py` takes them again."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import Lab, Server, launch_browser
from PIL import Image

FOLDER = Path(__file__).parents[1] / "assets" / "pictures"
EXPLORER = """
from shalab.corpus import load_corpus
from shalab.course import trained_model
from shalab.widgets import AttentionExplorer
model = trained_model()
model.max_context = 3000
explorer = AttentionExplorer.from_model(model, load_corpus("enwik6").split("valid")[39_000:44_000], window=700)
weights = explorer._weights[explorer.block][explorer.head]
explorer.pinned = int(weights.max(1).argmax())  # the byte that is surest where to look
explorer
"""
DASHBOARD = """
from shalab.baselines import archivers, baselines
from shalab.bundled import assets_dir
from shalab.corpus import load_corpus
from shalab.widgets import Dashboard
corpus = load_corpus("enwik6")
prices = baselines(corpus.data, corpus.bounds) | archivers(corpus)
references = {name: prices[name][0] for name in prices if name.startswith(("gzip", "xz", "zpaq"))}
dashboard = Dashboard.replay(assets_dir() / "model", 20, references)
dashboard
"""


def taken(lab: Lab) -> Iterator[tuple[str, bytes]]:
    """Name and PNG of each picture: the explorer with a byte pinned, the dashboard while it replays a recorded run."""
    with lab.notebook(EXPLORER, name="explorer.ipynb", height=1300) as page:
        widget = page.locator(".shalab")
        widget.get_by_role("img", name="700 query bytes by 3,000 ages").wait_for()
        widget.get_by_role("button", name="Unpin").wait_for()
        yield "explorer", small(widget.screenshot())
    with lab.notebook(DASHBOARD, name="dashboard.ipynb", height=1300) as page:
        board = page.get_by_role("group", name="training dashboard")
        board.get_by_text("running").wait_for()
        page.wait_for_function("document.querySelector('.shalab').textContent.match(/step 3,\\d+ of 4,800/)")
        yield "dashboard", small(board.screenshot())


def small(png: bytes) -> bytes:
    """The same in 128 colours: a third of the bytes."""
    packed = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        packed, "PNG", optimize=True
    )
    return packed.getvalue()


def main() -> None:
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = launch_browser(playwright)
        folder, home = Path(place) / "notebooks", Path(place) / "home"
        folder.mkdir()
        home.mkdir()
        with Server(folder, home) as server:
            for name, png in taken(Lab(server, browser, Path(place))):
                (FOLDER / f"{name}.png").write_bytes(png)
                print(FOLDER / f"{name}.png", f"{len(png) / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
