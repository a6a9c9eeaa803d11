import numpy as np
import pytest
import torch
from lab import violations
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from waiting import until

from shalab import InputError
from shalab.boom import Boom, fold
from shalab.dropout import Dropout
from shalab.widgets import BoomExplorer
from shalab.widgets.boom import (
    boom_flops,
    boom_parameters,
    costs,
    example,
    feed_forward_flops,
    feed_forward_parameters,
    stacked,
)


def matrix_flops(layer, *arguments):
    """What PyTorch counts: the matrix products, a bias' addition in place of the one a dot product saves."""
    with FlopCounterMode(display=False) as counter:
        layer(*arguments)
    return counter.get_total_flops()


@pytest.mark.parametrize("d_model, chunks", [(7, 1), (11, 3), (13, 5)])
def test_formulas_are_those_of_the_modules(d_model, chunks):
    d_boom = d_model * chunks
    boom = Boom(d_model, d_boom, 0.0)
    other = nn.Sequential(nn.Linear(d_model, d_boom), nn.GELU(), nn.Linear(d_boom, d_model))
    assert boom_parameters(d_model, d_boom) == sum(p.numel() for p in boom.parameters())
    assert feed_forward_parameters(d_model, d_boom) == sum(p.numel() for p in other.parameters())
    x = torch.randn(1, d_model)
    additions = d_model * (chunks - 1)
    assert boom_flops(d_model, d_boom) == matrix_flops(boom, x, Dropout(False)) + additions
    assert feed_forward_flops(d_model, d_boom) == matrix_flops(other, x)


def test_costs_by_hand():
    assert costs(2, 6) == {
        "Boom": {"parameters": 6 * 2 + 6, "flops": 6 * 2 * 2 + 2 * 2},
        "feed-forward": {"parameters": 6 * 2 + 6 + 2 * 6 + 2, "flops": 6 * 2 * 2 + 2 * 6 * 2},
    }


def test_stack_by_hand():
    """Positive numbers on positive ones, negative under negative."""
    rows = np.array([[1.0, -1], [-2, -3], [4, 5]])
    assert stacked(rows).tolist() == [[0, 0], [0, -1], [1, 0]]


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_stack_ends_where_the_fold_ends(chunks):
    rows = example(chunks)
    positive = np.where(rows >= 0, stacked(rows) + rows, 0).max(0)
    negative = np.where(rows < 0, stacked(rows) + rows, 0).min(0)
    expected = fold(torch.from_numpy(rows).flatten(), rows.shape[1]).numpy()
    assert np.allclose(positive + negative, expected)


def test_summary_and_picture_follow_the_sliders():
    explorer = BoomExplorer(7, 3)
    explorer.chunks = 5
    assert explorer.summary().splitlines()[0] == "D 7, H 35 (5 chunks)"
    assert explorer.summary().splitlines()[2].split() == ["Boom", "280", "518"]
    assert np.shape(explorer.example) == np.shape(explorer.bottoms) == (5, 6)
    bundle, _ = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == explorer.summary()
    assert bundle["image/png"] == BoomExplorer(7, 5)._repr_mimebundle_()[0]["image/png"]


@pytest.mark.parametrize("arguments", [(0, 4), (256, 0)])
def test_no_width_below_one(arguments):
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        BoomExplorer(*arguments)


FITS = "node => node.scrollWidth <= node.parentElement.clientWidth"
NAMES = """node => {
    window.names = [];
    new MutationObserver(() => names.push(node.textContent)).observe(node, { childList: true });
}"""
CELL = "from shalab.widgets import BoomExplorer\nexplorer = BoomExplorer(200, 3)\nexplorer"


def test_in_the_browser(lab):
    """Broken on purpose and seen to fail: sums of `rows.slice(0, whole)`; play that does not stop at the end."""
    with lab.notebook(CELL, name="boom.ipynb") as page:
        page.get_by_label("chunks H / D").focus()
        page.keyboard.press("ArrowRight")
        page.get_by_role("row", name="feed-forward").get_by_text("321,000").wait_for()  # 2 * 200 * 800 + 800 + 200
        page.get_by_label("width D").press("ArrowRight")
        page.get_by_text("H = 864").wait_for()
        lab.says(page, "print(explorer.d_model, explorer.chunks)", "216 4")

        rows = example(4)
        scrubber = page.get_by_label("chunks folded")
        scrubber.fill("2.5")
        told = ", ".join(f"{value:.2f}" for value in rows[:3].sum(0))
        page.get_by_role("img", name=f"3 of 4 chunks summed: {told}").wait_for()
        lab.picture(page.locator(".shalab"), "boom")
        play = page.get_by_role("button", name="Play")
        play.evaluate(NAMES)
        play.press("Enter")
        play.wait_for()  # it stops by itself, all chunks summed
        assert page.evaluate("names") == ["Pause", "Play"]
        told = ", ".join(f"{value:.2f}" for value in rows.sum(0) + 0.0)
        page.get_by_role("img", name=f"4 of 4 chunks summed: {told}").wait_for()
        assert scrubber.input_value() == "3"
        assert violations(page, ".shalab") == []


def test_in_the_browser_dark_small_and_still(lab):
    """Broken on purpose and seen to fail: motion that does not ask for prefers-reduced-motion."""
    with lab.notebook(CELL, name="boom-dark.ipynb", dark=True, width=800, height=600) as page:
        page.emulate_media(reduced_motion="reduce")
        page.get_by_role("img", name="1 of 3 chunks summed").wait_for()
        page.evaluate("""() => {
            window.places = new Set();
            const output = document.querySelectorAll(".shalab output")[2];
            new MutationObserver(() => window.places.add(output.textContent)).observe(output, {childList: true});
        }""")
        page.get_by_role("button", name="Play").click()
        page.get_by_role("img", name="3 of 3 chunks summed").wait_for()
        places = page.evaluate("[...window.places]")
        assert [place for place in places if place != "0"] == ["1", "2"]  # 0 is drawn again at another width
        until(lambda: page.locator(".shalab").evaluate(FITS), "widget that fits")
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".shalab"), "boom-dark")
