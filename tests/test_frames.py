import base64

from lab import violations
from matplotlib.figure import Figure
from waiting import until

from shalab import plots
from shalab.widgets import Frames

CELL = """
from shalab import plots
from shalab.widgets import Frames
Frames("slope", {m: (plots.lines([0, 1], {"y": [0, m]}, "x", "y"), f"slope {m}") for m in (0.5, 1.0, 1.5)},
       plots.lines([0, 1], {"all": [0, 1]}, "x", "y"))
"""


def test_what_is_stored_is_the_whole_picture_and_every_sentence():
    one, other, whole = Figure((1, 1)), Figure((1, 2)), Figure((2, 2))
    frames = Frames("size", {1: (one, "one"), 2: (other, "two")}, whole)
    assert frames.values == [1, 2] and frames.summary() == "one\ntwo"
    assert [base64.b64decode(image) for image in frames.images] == [plots.png(one), plots.png(other)]
    bundle, _ = frames._repr_mimebundle_()
    assert bundle["image/png"] == base64.b64encode(plots.png(whole)).decode() and bundle["text/plain"] == "one\ntwo"


def test_in_the_browser(lab):
    with lab.notebook(CELL, name="frames.ipynb") as page:
        page.get_by_role("img", name="slope 0.5").wait_for()
        page.get_by_label("slope").press("ArrowRight")
        page.get_by_role("img", name="slope 1").wait_for()
        page.get_by_label("slope").press("End")
        shown = page.get_by_role("img", name="slope 1.5")
        shown.wait_for()
        until(lambda: shown.evaluate("node => node.naturalWidth") > 500, "picture of its size")
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), "frames")
