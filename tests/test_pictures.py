"""Every picture shows its data, however odd they are: no warning, nothing outside the axes, no name that breaks it."""

import math
import os
import random
import sys
import threading
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from lab import violations
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from playwright.sync_api import expect

from shalab import InputError, plots
from shalab.metrics import NATS_PER_BIT
from shalab.tokenization import Claim
from shalab.widgets import (
    AttentionExplorer,
    BoomExplorer,
    ClaimDial,
    Dashboard,
    GuessingGame,
    MemoryView,
    PredictedCurve,
    Prediction,
    SurpriseMap,
    TokenExplorer,
    TrustInspector,
)
from shalab.widgets.base import source
from shalab.widgets.history import History

NAMES = ("plain", "_hidden", "$x_$ \\frac", "<script>alert(1)</script>", "名字\x00\x1b[31m\u202e", "long " * 40)
NUMBERS = {  # of a run: bits per byte, then gradient norm
    "near 8": [(7.99, 0.7), (8.01, 0.8), (8.0, 0.9)],
    "above 8": [(9.5, 1e6), (11.0, 1e-9), (30.0, 3.0)],
    "near 0": [(1e-4, 0.0), (2e-5, 0.0), (0.0, 0.0)],
    "one": [(3.0, 0.7)],
    "one that is missing": [(None, None)],
    "constant": [(2.0, 0.5)] * 3,
    "not finite": [(math.nan, math.inf), (3.0, None), (2.0, math.nan), (math.inf, -math.inf), (2.5, 0.7)],
    "nothing": [],
}


def run(numbers, valid=(), trust=()):
    """Lines of metrics.jsonl: a step for each of `numbers`, scores after the steps they are given for."""
    lines = []
    for step, (bpc, norm) in enumerate(numbers, 1):
        where = {"step": step, "n_bytes": 100 * step, "elapsed_s": 0.1 * step}
        loss = None if bpc is None else bpc * NATS_PER_BIT
        lines.append({
            "event": "step", **where, "total_steps": 9, "bpc": bpc, "loss_nats": loss, "lr": 1e-3, "grad_norm": norm,
        })  # fmt: skip
        if step <= len(valid):
            lines.append({"event": "eval", **where, "valid_bpc": valid[step - 1], "best": True})
        if step <= len(trust):
            lines.append({"event": "trust", "step": step, "tensors": trust[step - 1]})
    return lines


def outside(figure) -> list:
    """Numbers that a figure draws beyond the limits of their axes."""
    faults = []
    for axes in figure.axes:
        for artist in [*axes.lines, *axes.patches]:
            if isinstance(artist, Line2D):
                points = np.asarray(artist.get_xydata(), float)
            elif isinstance(artist, Rectangle):
                points = artist.get_bbox().get_points()
            else:
                continue
            transform = axes.transData if artist.get_transform().contains_branch(axes.transData) else None
            for axis, limits in ((0, axes.get_xlim()), (1, axes.get_ylim())):
                if transform is None and axis == 0:
                    continue  # a line across has no place from left to right
                values = points[np.isfinite(points).all(1), axis]
                low, high = sorted(limits)
                if axes.get_yscale() == "log" and axis == 1 or axes.get_xscale() == "log" and axis == 0:
                    values = values[values > 0]
                slack = 1e-6 * (high - low)
                faults += [value for value in values if not low - slack <= value <= high + slack]
    return faults


def drawn(figure):
    """The figure's pictures must come without a warning, with all data inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.png(figure).startswith(b"\x89PNG")
    assert not outside(figure)
    for axes in figure.axes:
        assert axes.get_ylim()[0] != axes.get_ylim()[1] and np.isfinite([axes.get_xlim(), axes.get_ylim()]).all()
    return figure


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("valid", [(), (7.995,), (None,), (2.0, 2.0, 2.0)], ids=str)
def test_learning_curves(numbers, valid):
    lines = run(numbers, valid)
    references = {name: 1.9 for name in NAMES} | {"gzip": 8.3} if numbers else None
    axes = drawn(plots.learning_curve(lines, references)).axes[0]
    low, high = axes.get_ylim()
    assert low < high
    known = [bpc for bpc, _ in numbers if plots.finite(bpc) is not None]
    scores = [score for score in valid[: len(numbers)] if score is not None]
    legend = [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []
    assert legend == ["train (smoothed)"] * bool(known) + ["valid"] * bool(scores)
    assert all(low < score < high for score in scores)


def test_the_fall_at_the_start_leaves_room_for_what_follows():
    numbers = [(10.0, 1.0)] * 2 + [(2.0, 1.0)] * 198
    low, high = plots.learning_curve(run(numbers)).axes[0].get_ylim()
    assert low < 2.0 and high < 8.0
    low, high = plots.learning_curve(run(numbers, (9.5, 2.1))).axes[0].get_ylim()  # a score never runs out
    assert low < 2.0 and 9.5 < high


def test_the_name_of_a_reference_covers_no_curve():
    figure = plots.learning_curve(run([(2.7, 1.0)] * 50, (2.65,)), {"gzip -9": 2.59})
    figure.draw_without_rendering()
    (name,) = figure.axes[0].texts
    box = name.get_window_extent()
    assert figure.axes[0].bbox.x1 <= box.x0 and box.x1 <= figure.bbox.x1


def test_a_point_that_stands_alone_is_a_dot():
    (line,) = plots.learning_curve(run(NUMBERS["one"])).axes[0].lines
    assert line.get_marker() == "o"
    (line,) = plots.lines(range(5), {"a": [1, None, 3, 4, math.nan]}, "x", "y").axes[0].lines
    assert line.get_marker() == "o" and line.get_markevery() == [True, False, False, False, False]
    (line,) = plots.lines(range(3), {"a": [1, 2, 3]}, "x", "y").axes[0].lines
    assert line.get_marker() == "None"


@pytest.mark.parametrize("numbers", NUMBERS.values(), ids=NUMBERS)
def test_dashboards(numbers):
    trust = [{name: (1.0, 2.0, ratio) for name in NAMES} for ratio in (0.5, math.inf, 1e-7)]
    dashboard = Dashboard(history=History(run(numbers, (8.2, None), trust)), references={NAMES[-1]: 1.9})
    drawn(dashboard.picture())
    assert "nan" not in dashboard.summary() and "inf" not in dashboard.summary()


def test_ranges_of_trust_over_many_decades_have_few_ticks():
    """One each for 1, 2 and 5 of a few decades; of eight, fewer."""
    for highest in (50.0, 1e7):
        history = History([], 7)
        history.trust = [(step, 85 * step, 0.1 * step, 0.25, 1.5, highest) for step in range(1, 5)]
        *_, trust = drawn(Dashboard(history=history).picture()).axes
        low, high = trust.get_ylim()
        assert 3 <= sum(low <= tick <= high for tick in trust.get_yticks()) <= 10


@pytest.mark.parametrize("yscale", ["linear", "log"])
@pytest.mark.parametrize(
    "y", [[0, 0], [-1, 3], [None, None], [math.inf, 2], [5, 5], [1e-30, 1e30], [math.nan, 0]], ids=str
)
def test_curves(y, yscale):
    drawn(plots.lines(["1", "2"], {name: y for name in NAMES * 2}, "x", "y", yscale=yscale))
    drawn(plots.lines([1], {name: y[:1] for name in NAMES}, "x", "y", reference=NAMES[0], yscale=yscale))


def test_other_plots():
    for rows in ({name: 9.7 for name in NAMES}, {"a": math.inf, "b": None, "c": math.nan}, {"a": 0.0}, {}):
        figure = drawn(plots.ladder(rows, NAMES[0]))
    labels = [text.get_text() for text in plots.ladder({"a": math.inf, "b": 2.0}, "b").axes[0].texts]
    assert labels == ["no score", "2.00"]
    drawn(plots.paths([1], {name: [[1.0, 2.0]] for name in NAMES}, "x", "y"))
    for grid in ([[None]], [[7.0]], [[math.nan]], [[5.0]], [[0.0]]):
        figure = drawn(plots.heat_maps({name: grid for name in NAMES[:5]}, "x", [1], "y", [1], 3, limit=5.0))
        assert len(figure.axes) == 5
    for bits in ([math.nan, 1.0], [3.0], [0.0, 0.0], [40.0] * 9):
        drawn(plots.by_place({name: (name, bits) for name in NAMES[:3]}))
    speed = {"plain_bytes_per_s": 1.0, "fast_bytes_per_s": 9.0, "ratio": 9.0, "size": NAMES[-1][:20], "memory": 5}
    drawn(plots.benchmark({"training": [speed]}))
    rows = [{"model": name, "minutes": 1, "threads": 2, "valid_bpc": 2.0} for name in NAMES]
    assert len(drawn(plots.benchmark({"training": [speed], "learning": rows})).axes[1].lines) == len(NAMES)


def test_a_ladder_tells_networks_from_the_rest():
    figure = drawn(plots.ladder({"a": 3.0, "b": 2.0, "c": 1.0}, "b", networks={"b", "c"}))
    inks = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in figure.axes[0].patches]
    assert inks == [plots.GREY, plots.BLUE, plots.GREEN]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()][0] == "b"


@pytest.mark.parametrize("y, told", [([0.3, 8.0], ["0.5", "1", "2", "5"]), ([1e-6, 2.0], ["$\\mathdefault{10^{-6}}$"])])
def test_a_logarithmic_axis_counts_in_plain_numbers_where_they_are_short(y, told):
    figure = drawn(plots.lines([1, 2], {"a": y}, "x", "y", yscale="log"))
    low, high = figure.axes[0].get_ylim()
    ticks = zip(figure.axes[0].get_yticks(), figure.axes[0].get_yticklabels(), strict=True)
    assert [label.get_text() for place, label in ticks if low <= place <= high][: len(told)] == told


def _played(text, guesses):
    game = GuessingGame(text + "x" * len(guesses), len(text.encode()), len(text.encode()) + len(guesses))
    game.guesses = guesses
    return game


WIDGETS = {
    "one weight": lambda: AttentionExplorer(np.ones((1, 1)), b"\x00"),
    "even weights": lambda: AttentionExplorer(np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None], "今天<".encode()),
    "one head that points": lambda: AttentionExplorer(np.eye(9), b"$x$ \xff\n\t\x1b\x7f"),
    "one chunk": lambda: BoomExplorer(1, 1),
    "many chunks": lambda: BoomExplorer(3, 40),
    "no guess": lambda: GuessingGame("今天<", 6, 7),
    "many guesses": lambda: _played("今天\u202e $x$ " * 9, [96, -95, 0, 1] * 5),
    "a number at the end": lambda: Prediction(NAMES[2], 0, low=0, high=1e-9, unit=NAMES[4]),
    "a curve of nothing": lambda: PredictedCurve([0, 1e9], [0, 0], *NAMES[2:5]),
    "one query": lambda: MemoryView(1, 0, 0),
    "no memory": lambda: MemoryView(5, 0, 3, "今天"),
    "a large window": lambda: MemoryView(64, 1000, 30),
    "one byte": lambda: SurpriseMap("\n", np.array([8.0])),
    "certain bytes": lambda: SurpriseMap("今天", {name: np.zeros(6) for name in NAMES}),
    "dear bytes": lambda: SurpriseMap("ab", {name: np.array([900.0, 0.0]) for name in NAMES}),
    "one piece": lambda: TokenExplorer("今天\u202e<i>" * 100, np.ones(1200), {NAMES[-1]: [1200]}),
    "bytes of characters": lambda: TokenExplorer("今天", np.ones(6) * 40, {NAMES[3]: [1, 1, 1, 3]}),
    "a price that no float holds": lambda: TokenExplorer("x" * 99, np.ones(99) * 800, {"$": [99], "_": [1] * 99}),
    "no ratios": lambda: TrustInspector([]),
    "one ratio": lambda: TrustInspector([{"event": "trust", "step": 1, "tensors": {NAMES[-1]: (1.0, 2.0, 0.5)}}]),
    "ratios of nothing": lambda: TrustInspector(
        [{"event": "trust", "step": n, "tensors": {name: (0.0, 0.0, 1.0) for name in NAMES}} for n in (1, 2)]
    ),
    "tiny and huge ratios": lambda: TrustInspector(
        [{"event": "trust", "step": 1, "tensors": {"a": (1e-30, 1, 1e-30), "b": (9, 1e-20, 1e20), "c": (1, 1, 0)}}]
    ),
    "one claim": lambda: ClaimDial([Claim(NAMES[-1], b"ab", np.zeros(2), b"ab")], NAMES[3]),
    "claims of one name": lambda: ClaimDial([Claim("same", b"ab", np.full(2, nats), b"ab") for nats in (1, 9)], "x"),
    "a perplexity that no float holds": lambda: ClaimDial(
        [Claim(name, b"ab", np.full(1, nats), b"ab") for name, nats in zip(NAMES, (1.0, 999.0, 3.0), strict=False)], "x"
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", WIDGETS.values(), ids=WIDGETS)
def test_widgets(make):
    widget = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        widget._repr_mimebundle_()
    drawn(widget.picture())
    assert "\ufffd" not in widget.summary() and "nan" not in widget.summary()


def test_claims_of_one_name_have_a_dot_and_a_bar_each():
    published, honest = WIDGETS["claims of one name"]().picture().axes
    (dots,) = published.lines
    assert len({*dots.get_ydata()}) == 2 == len({bar.get_y() for bar in honest.patches})
    assert dots.get_xdata() == pytest.approx(np.exp([1, 9]))


def test_pictures_of_pieces_inside_a_character_show_their_bytes():
    summary = WIDGETS["bytes of characters"]().summary()
    assert summary.endswith(r"begins with: '\xe4' 40.00, '\xbb' 40.00, '\x8a' 40.00, '天' 120.00")


def test_claims_are_on_an_axis_of_plain_numbers_where_they_are_short():
    def ticks(nats):
        published, _ = drawn(ClaimDial([Claim("a", b"ab", np.full(1, nats), b"ab")], "x").picture()).axes
        low, high = published.get_xlim()
        labels = zip(published.get_xticks(), published.get_xticklabels(), strict=True)
        return [label.get_text() for place, label in labels if low <= place <= high]

    assert ticks(7.0) == ["1", "10", "100", "1,000"] and "10^{12}" in ticks(30.0)[-1]


def test_what_a_head_hardly_looks_at_is_dark_and_what_is_not_there_is_left_white():
    weights = np.eye(3, dtype=np.float32)[[0, 0, 1]]  # each row looks at one byte, and gives the others nothing
    image = AttentionExplorer(weights, b"abc").picture().axes[0].images[0]
    assert image.get_array().mask.tolist() == [[False, True, True], [False, False, True], [False] * 3]
    assert image.get_array().min() > 0  # a logarithmic norm leaves 0 white


def test_no_chunk_of_boom_has_the_colour_of_a_reference():
    before, _ = BoomExplorer(chunks=4).picture().axes
    inks = {matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in before.patches}
    assert len(inks) == 4 and plots.GREY not in inks


def test_a_legend_of_regions_names_those_that_are_there():
    def legend(view):
        return [text.get_text() for text in view.picture().legends[0].get_texts()]

    assert legend(MemoryView(1, 0, 0)) == ["window, visible"]
    assert legend(MemoryView(5, 20, 1)) == ["memory, visible", "window, visible", "window, masked future"]


def test_a_bill_names_only_what_is_on_it():
    def legend(*claims):
        return [text.get_text() for text in ClaimDial(list(claims), "rule").picture().legends[0].get_texts()]

    whole, torn = (Claim("a", b"abcd", np.ones(4), decoded) for decoded in (b"abcd", b"abc"))
    assert legend(whole) == ["tokens", "length"]
    assert legend(whole, torn) == ["tokens", "repair", "length"]
    assert ClaimDial([whole], "rule", "What was found").picture().get_suptitle() == "What was found"


def test_a_trust_inspector_shows_the_step_it_is_set_to():
    lines = [{"event": "trust", "step": n, "tensors": {"a": (1.0, 2.0 * n, 0.5 / n)}} for n in (3, 5)]
    inspector = TrustInspector(lines)
    assert inspector.summary().startswith("step 5,")
    inspector.place = 0
    assert inspector.summary().startswith("step 3,") and "step 3;" in inspector.picture().axes[0].get_xlabel()
    legend = [text.get_text() for text in inspector.picture().legends[0].get_texts()]
    assert legend == ["ratio of the norms"]


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    figure = plots.ladder({"a": 2.0}, "a")
    with pytest.raises(InputError, match="cannot write .*gone"):
        plots.save(figure, tmp_path / "gone" / "curve.png")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        plots.save(figure, tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())


def global_state():
    """What a kernel shares among all that runs in it."""
    sdp = torch.backends.cuda
    return {
        "matplotlib": dict(matplotlib.rcParams), "pyplot": "matplotlib.pyplot" in sys.modules,
        "warnings": list(warnings.filters), "environment": dict(os.environ), "stdout": sys.stdout.errors,
        "threads": torch.get_num_threads(), "hooks": (sys.excepthook, sys.displayhook),
        "formats": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), sdp.matmul.allow_tf32),
        "attention": (sdp.flash_sdp_enabled(), sdp.mem_efficient_sdp_enabled(), sdp.math_sdp_enabled()),
        "draws": (torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()),
        "gradients": torch.is_grad_enabled(),
    }  # fmt: skip


def test_opening_a_widget_changes_nothing_that_others_see(small, text):
    before, threads = global_state(), threading.enumerate()
    for make in WIDGETS.values():
        make()
    for opened in (SurpriseMap.from_model(small, text[:99], 9), AttentionExplorer.from_model(small, text[:99], 7)):
        opened._repr_mimebundle_()
    Dashboard(history=History(run(NUMBERS["near 8"])))._repr_mimebundle_()
    assert global_state() == before and small.training
    assert {*threading.enumerate()} <= {*threads}  # one that an earlier test left may end meanwhile


# What plot() draws into a panel of 400 x 200, without a panel: its points and its texts.
PLOT = """
([script, y, settings]) => {
  const { plot } = new Function(`${script}; themed = () => "#000"; return { plot };`)();
  const points = [], dots = [], texts = [], say = (list) => (...drawn) => list.push(drawn);
  const known = { lineTo: say(points), moveTo: say(points), arc: say(dots), fillText: say(texts) };
  const context = new Proxy({ canvas: null, measureText: () => ({ width: 9 }) }, {
    get: (target, name) => known[name] ?? target[name] ?? (() => {}), set: () => true,
  });
  const curves = [{ x: y.map((_, i) => i + 1), y, ink: "--x", name: "curve" }];
  plot(context, 400, 200, { title: "title", curves, ...settings });
  return { points, dots, texts: texts.map(([text, x, y]) => [String(text), x, y]) };
}
"""


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("y", [[point[0] for point in numbers] for numbers in NUMBERS.values()], ids=NUMBERS)
def test_panels_of_the_dashboard_show_their_data(lab, y, log):
    page = lab.browser.new_page()
    y = [plots.finite(value) for value in y]
    there = [value for value in y if value is not None and (value > 0 or not log)]
    drawn = page.evaluate(PLOT, [source("chart"), y, {"log": log, "levels": [] if log else [{"name": "xz", "y": 7.5}]}])
    page.close()
    names = [text for text, *_ in drawn["texts"]]
    assert ("nothing yet" in names) == (not there) and ("curve" in names) == bool(there)
    if there:
        assert all(46 <= x <= 392 and 22 <= y <= 180 for x, y in drawn["points"]), drawn
        marks = [text for text, x, _ in drawn["texts"] if x == 41]  # beside the axis
        assert len(set(marks)) == len(marks) >= 2, marks
        assert drawn["dots"] or len(there) > 1


HOSTILE = (
    "<script>alert(1)</script></script><img src=x onerror=alert(2)>\"'&amp; "
    "\x00\x1b[31m\u202eabc\u2066\ufeff</textarea>"
)
PAGE = f"""
import json
import numpy as np
from IPython.display import display
from shalab.checks import Verdict
from shalab.plots import Picture, ladder
from shalab.tokenization import Claim
from shalab.widgets import *
from shalab.widgets.history import History
name = {HOSTILE!r}
text = name.encode()
n = len(text)
line = dict(event="step", step=1, n_bytes=9, elapsed_s=0.1, total_steps=9, bpc=8.0, lr=1e-3, grad_norm=float("inf"))
lines = [line, dict(line, step=2, bpc=7.99), dict(line, step=3, bpc=8.01, grad_norm=0.5)]
lines.append(dict(event="sample", step=3, text=text.decode("latin-1")))
trust = [dict(event="trust", step=step, tensors={{name: (1.0, 2.0, 0.5)}}) for step in (1, 2)]
history = History(lines + trust)
history.error = name
history.state = name
for widget in (
    AttentionExplorer(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None], text),
    MemoryView(5, 12, 1, text), SurpriseMap(text, {{name: np.ones(n), name + "2": np.zeros(n)}}),
    TokenExplorer(text, np.ones(n), {{name: np.array([n])}}), ClaimDial([Claim(name, text, np.ones(n), text)], name),
    TrustInspector(trust), Dashboard(history=history, references={{name: 7.0}}),
    GuessingGame(name + "x", n, n + 1), Prediction(name, 1, low=0, high=2, unit=name),
    PredictedCurve([1, 2], [1, 2], name, name, name), BoomExplorer(7, 2),
    Picture(ladder({{name: 2.0}}, name), name), Verdict("wrong", name),
):
    display(widget)
"""


def test_hostile_texts_do_nothing_in_the_browser(lab):
    """No script runs, no element comes into being, no error is in the console; every widget shows its text."""
    with lab.notebook(PAGE, name="hostile.ipynb", height=6000) as page:
        widgets = page.locator(".jp-OutputArea-output .shalab")
        expect(widgets).to_have_count(11)
        assert page.evaluate("document.querySelectorAll('img[src=x], .shalab script, .shalab textarea').length") == 0
        for place in range(10):
            shown = widgets.nth(place)
            content = shown.inner_text() + str(shown.evaluate("node => node.innerHTML"))
            assert "alert(1)" in content or place == 1, place
            assert not any(sign in shown.inner_text() for sign in "\u202e\ufeff\x1b") or place > 1, place
        norm = page.get_by_role("img", name="gradient norm 0.5")
        norm.wait_for()
        assert page.locator("img[alt*='<script>']").count() == 1
        assert page.get_by_role("status").last.inner_text().startswith("✘ <script>alert(1)</script>")
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), "hostile")


def test_curves_are_named_where_they_end_if_there_is_room():
    apart = plots.lines(range(3), {"up": [1, 2, 3], "down": [3, 2, 1]}, "x", "y", title="They cross").axes[0]
    assert [text.get_text() for text in apart.texts] == ["up", "down"] and apart.get_legend() is None
    assert apart.get_title(loc="left") == "They cross"
    close = plots.lines(range(3), {"one": [1, 2, 3], "other": [3, 2, 3.01]}, "x", "y").axes[0]
    assert not close.texts and [text.get_text() for text in close.get_legend().texts] == ["one", "other"]
