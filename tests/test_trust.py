import math

import numpy as np
import pytest
from lab import narrow, violations
from playwright.sync_api import expect

from shalab import InputError
from shalab.widgets.trust import CLAMP, FLOOR, ZERO, TrustInspector, acting


def recorded():
    """Three steps of four tensors: one each for floor, clamp, a zero norm, and none of them."""
    return [{"event": "step", "step": 1}] + [
        {"event": "trust", "step": step, "tensors": {
            "floor": (0.5, 7.0 * step, 0.25), "clamp": (10.0, 2.0, 5.0),
            "zero": (0.0, 3.0, 1.0), "free": (3.0, 2.0, 1.5),
        }} for step in (7, 11, 13)
    ]  # fmt: skip


def test_which_rule_acts_agrees_with_lamb():
    """Norms drawn at random, the ratio made as the specification says, with and without a floor."""
    random = np.random.default_rng(0)
    for _ in range(500):
        norm, update = random.choice([0, 1], 2, p=[0.1, 0.9]) * np.exp(random.normal(0, 3, 2))
        weight, min_trust = min(norm, 10.0), random.choice([0, 0.25])
        ratio = 1.0 if weight == 0 or update == 0 else max(weight / update, min_trust)
        expected = CLAMP * (norm >= 10)
        if weight == 0 or update == 0:
            expected |= ZERO
        elif weight / update < min_trust * (1 - 1e-4):
            expected |= FLOOR
        assert acting(np.array([weight, update, ratio], np.float32)) == expected


def test_table_and_summary():
    inspector = TrustInspector(recorded())
    assert inspector.steps == [7, 11, 13] and inspector.place == 2 and inspector.tensor == "floor"
    assert inspector.table(1) == [
        ("floor", 0.5, 77.0, 0.25, "floor"), ("clamp", 10.0, 2.0, 5.0, "norm clamped to 10"),
        ("zero", 0.0, 3.0, 1.0, "a norm is 0"), ("free", 3.0, 2.0, 1.5, ""),
    ]  # fmt: skip
    assert inspector.summary() == (
        "step 13, 4 tensors; norm clamped to 10: 1, floor: 1, a norm is 0: 1\n"
        "floor: |w| 0.5, |u| 91, trust ratio 0.25\n"
        "clamp: |w| 10, |u| 2, trust ratio 5"
    )
    assert inspector._repr_mimebundle_() == inspector._repr_mimebundle_()


def test_ratios_below_the_picture_do_not_overlap():
    """0.25 to 4, as in notebook 05: Matplotlib's own labels of a logarithmic axis ran into each other."""
    lines = [{"event": "trust", "step": 1, "tensors": {"a": (1.0, 4.0, 0.25), "b" * 40: (4.0, 1.0, 4.0)}}]
    figure = TrustInspector(lines).picture()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = axes.get_xticklabels(which="both")
    shown = [label for label in labels if label.get_text() and low <= label.get_position()[0] <= high]
    boxes = sorted((box.x0, box.x1) for box in (label.get_window_extent() for label in shown))
    assert len(boxes) > 3 and all(end < begin for (_, end), (begin, _) in zip(boxes, boxes[1:], strict=False))


def test_without_records_it_says_so():
    inspector = TrustInspector(recorded()[:1])
    assert inspector.summary() == "no trust ratios were recorded" and inspector.table() == []
    assert inspector._repr_mimebundle_()[0]["image/png"]


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        TrustInspector(tmp_path)
    with pytest.raises(InputError, match="different tensors"):
        TrustInspector([*recorded(), {"event": "trust", "step": 17, "tensors": {"other": (1.0, 1.0, 1.0)}}])
    with pytest.raises(InputError, match="finite"):
        TrustInspector([{"event": "trust", "step": 17, "tensors": {"a": (1.0, math.nan, 1.0)}}])
    inspector = TrustInspector(recorded())
    with pytest.raises(InputError, match="place must be 0 to 2, got 3"):
        inspector.place = 3
    with pytest.raises(InputError, match="tensor must be one of floor, clamp, zero, free, got 'x'"):
        inspector.tensor = "x"


def test_in_the_browser(lab):
    """The slider by keyboard, the tensor by list and by row; the kernel sees both.

    Seen to fail with `save_changes` removed.
    """
    source = f"from shalab.widgets.trust import TrustInspector\ninspector = TrustInspector({recorded()!r})\ninspector"
    with lab.notebook(source, "TrustInspector([])", name="trust.ipynb") as page:
        board = page.get_by_role("group", name="trust ratio inspector").first
        slider = board.get_by_role("slider", name="recorded step")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        expect(slider).to_have_attribute("aria-valuetext", "step 11")
        board.get_by_role("combobox", name="tensor").select_option("clamp")
        expect(
            board.get_by_role("img", name="trust ratio of clamp at step 11: |w| 10, |u| 2, trust ratio 5")
        ).to_be_visible()
        expect(board.get_by_role("row", name="floor 0.5 77 0.25 floor")).to_be_visible()
        expect(board.get_by_role("row", name="free 3 2 1.5 |w| / |u|")).to_be_visible()
        lab.says(page, "print(inspector.place, inspector.tensor)", "1 clamp")
        board.get_by_role("row", name="free").click()
        lab.says(page, "print(inspector.tensor)", "free")
        lab.execute(page, "inspector.place = 0")
        expect(board.get_by_role("img", name="norms of free at step 7: |w| 3, |u| 2, trust ratio 1.5")).to_be_visible()
        assert violations(page, ".shalab") == []
        expect(page.get_by_text("No trust ratios were recorded: a run writes")).to_be_visible()
        lab.picture(board, "trust-light")
    with lab.open("trust.ipynb", dark=True) as page:
        lab.run_all(page)
        board = page.get_by_role("group", name="trust ratio inspector").first
        narrow(page, board)
        assert violations(page, ".shalab") == []
        lab.picture(board, "trust-dark-800")
