"""The attention explorer: what Python reduces, and what a reader does with it in JupyterLab."""

import re

import numpy as np
import pytest
import torch
from lab import violations

from shalab import SHARNN, InputError, ModelConfig
from shalab.widgets import explorer
from shalab.widgets.explorer import AttentionExplorer


def causal(n_heads, n_queries, n_keys, seed=0):
    """Random weights (N, T, K) whose rows sum to 1."""
    scores = np.random.default_rng(seed).normal(size=(n_heads, n_queries, n_keys)) * 3
    mask = np.tril(np.ones((n_queries, n_keys)), n_keys - n_queries)
    weights = np.exp(scores) * mask
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def test_ages_count_back_from_the_query():
    weights = np.array([[0.1, 0.2, 0.7, 0.0], [0.3, 0.1, 0.2, 0.4]], np.float32)
    assert (
        explorer.by_age(weights).tolist() == np.array([[0.7, 0.2, 0.1, 0], [0.4, 0.2, 0.1, 0.3]], np.float32).tolist()
    )


@pytest.mark.parametrize("n_queries, n_keys, width", [(7, 7, 1), (11, 29, 3), (13, 31, 31), (5, 23, 40)])
def test_bins_and_distances_keep_every_row_s_sum(n_queries, n_keys, width):
    ages = explorer.by_age(causal(1, n_queries, n_keys)[0])
    cells = explorer.binned(ages, width)
    assert cells.shape == (n_queries, -(-n_keys // width))
    np.testing.assert_allclose(cells.sum(1), ages.sum(1, dtype=np.float64), atol=1e-6)
    assert cells[3, 0] == pytest.approx(ages[3, :width].sum(), abs=1e-6)
    edges = explorer.distance_edges(n_keys)
    assert edges.tolist() == [0] + [2**i for i in range(20) if 2**i < n_keys]
    np.testing.assert_allclose(np.add.reduceat(ages, edges, axis=1).sum(1), 1, atol=1e-6)


def test_levels_are_logarithmic():
    levels = explorer.quantised(np.array([0, 9e-7, 1e-6, 1e-3, 1]))
    assert levels.tolist() == [0, 0, 1, 128, 255]


def test_the_heaviest_are_those_of_a_sort():
    weights = causal(1, 17, 37)[0]
    positions, values = explorer.heaviest(weights, 5)
    np.testing.assert_array_equal(values, np.sort(weights, axis=1)[:, :-6:-1])
    np.testing.assert_array_equal(np.take_along_axis(weights, positions, 1), values)


def test_what_the_browser_gets():
    weights, text = causal(3, 11, 29), bytes(range(60, 89))
    widget = AttentionExplorer(text, {2: weights})
    view = widget.view
    assert (view["queries"], view["keys"], view["width"], view["bins"]) == (11, 29, 1, 29) and view["text"] == text
    assert np.frombuffer(view["cells"], np.uint8).reshape(11, 29)[4, 0] == explorer.quantised(weights[0, 4, 22:23])[0]
    before = view["weights"]
    widget.head = 1
    assert widget.view["weights"] != before
    top = widget.top(4, 1)
    row = weights[1, 4]
    assert top == [(float(row.max()), 22 - int(row.argmax()), int(row.argmax()))]


def test_a_long_memory_is_put_together_until_it_fits():
    weights = np.zeros((1, 1024, 16384), np.float32)
    weights[0, :, 100] = 1
    view = AttentionExplorer(bytes(16384), weights).view
    assert view["width"] == 3 and len(view["cells"]) == 1024 * view["bins"] < explorer.MAP_CELLS
    payload = sum(len(value) for value in view.values() if isinstance(value, bytes))
    assert payload < 8e6


def test_from_model_shows_the_model_s_own_weights():
    model = SHARNN(ModelConfig(256, 11, 33, n_layers=3, attention_layers=(1,), max_context=23)).train()
    text = bytes(np.random.default_rng(1).integers(0, 256, 61, np.uint8))
    widget = AttentionExplorer.from_model(model, text, window=7)
    assert model.training and widget.block == 1 and widget.text == text[-23:] and widget.dropped == 61 - 23
    model.eval()
    ids, state = torch.tensor(list(text)).unsqueeze(1), None
    with torch.no_grad():
        for part in ids[:54].split(7):
            _, state = model(part, state)
        _, _, seen = model(ids[54:], state, need_weights=True)
    np.testing.assert_array_equal(widget.weights, seen[1][0, 0])
    short = AttentionExplorer.from_model(model, "né", window=7)
    assert short.text == "né".encode() and short.weights.shape == (3, 3) and short.dropped == 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda m: AttentionExplorer.from_model(m, ""), "text is empty"),
        (lambda m: AttentionExplorer.from_model(m, "abc", window=0), "window must be at least 1 byte, got 0"),
        (
            lambda m: AttentionExplorer.from_model(
                SHARNN(ModelConfig(d_model=8, d_boom=8, attention_layers=())), "abc"
            ),
            "no block with attention",
        ),
        (
            lambda m: AttentionExplorer(b"abcd", causal(1, 3, 5)),
            r"as the text has bytes, 4, .* \(1, 3, 5\)",
        ),
        (lambda m: AttentionExplorer(b"abcde", causal(1, 3, 5)[0]), "weights must be"),
        (lambda m: AttentionExplorer(b"abcde", causal(1, 3, 5) * np.nan), "NaN or infinity"),
        (lambda m: AttentionExplorer(b"abcde", {}), "no block with attention"),
    ],
)
def test_bad_input(small, make, message):
    with pytest.raises(InputError, match=message):
        make(small)


@pytest.mark.parametrize("name, value", [("query", 3), ("query", -1), ("pinned", 3), ("block", 5), ("head", 2)])
def test_selections_that_are_not_there(name, value):
    widget = AttentionExplorer(b"abcde", causal(2, 3, 5))
    before = getattr(widget, name)
    with pytest.raises(InputError, match=f"{name} must be"):
        setattr(widget, name, value)
    assert getattr(widget, name) == before


def test_picture_and_summary_follow_the_selection():
    widget = AttentionExplorer(b"a\xc3\nde", causal(1, 3, 5))
    assert widget.query == 2 and "query 2 'e' attends to" in widget.summary()
    widget.pinned = 0
    row = widget.weights[0]
    best = int(row.argmax())
    shown = repr(widget.text[best : best + 1])[1:]
    assert f"query 0 '\\n' attends to\n  {row[best]:.3f} {shown} {2 - best} back" in widget.summary()
    data, _ = widget._repr_mimebundle_()
    assert data["text/plain"] == widget.summary() and data["image/png"] == widget._repr_mimebundle_()[0]["image/png"]


CELL = """
import numpy as np
from shalab.widgets import AttentionExplorer

text = "Ein [[café]] in\\n[[Zürich]], ein café.".encode() + b"\\xff\\x00"
scores = np.random.default_rng(0).normal(size=(2, 20, len(text))) * 2
weights = np.exp(scores) * np.tril(np.ones(scores.shape[1:]), len(text) - 20)
explorer = AttentionExplorer(text, weights / weights.sum(-1, keepdims=True))
explorer
"""


@pytest.mark.parametrize("dark, width, height", [(False, 1280, 1100), (True, 800, 600)])
def test_in_jupyterlab(lab, dark, width, height):
    """Broken on purpose and seen to fail: `choose(row() - 1)` made `+ 1`; an error thrown in `load`."""
    with lab.notebook(CELL, dark=dark, width=width, height=height) as page:
        widget = page.locator(".shalab")
        rows = widget.get_by_role("slider", name="query byte")
        rows.focus()
        for key in ("ArrowUp", "ArrowUp", "PageUp", "ArrowDown", "End", "ArrowUp"):
            rows.press(key)
        assert rows.get_attribute("aria-valuenow") == "18"
        assert re.search(r"byte 18 ⟨FF⟩: 0\.\d+ on .*, \d+ back", rows.get_attribute("aria-valuetext"))
        rows.press("Enter")
        assert widget.get_by_role("button", name="Unpin row").is_visible()
        widget.get_by_label(re.compile("^head")).select_option("1")
        widget.get_by_label(re.compile("^colour")).select_option("linear")
        widget.get_by_role("img", name="attention of block 0, head 1: 20 queries").wait_for()
        assert widget.get_by_role("img", name=re.compile("weight by distance: from 0 ")).count() == 1
        widget.get_by_label(re.compile("^zoom")).press("ArrowRight")
        lab.picture(widget, f"explorer-{width}")
        assert violations(page, ".shalab") == []
        edge = widget.bounding_box()
        assert edge["x"] + edge["width"] <= width
        told = lab.execute(page, "print(explorer.query, explorer.pinned, explorer.head, explorer.colour)")
        assert told == "18 18 1 linear"
        lab.execute(page, "explorer.pinned = 3")
        page.wait_for_function("document.querySelector('[role=slider]').getAttribute('aria-valuenow') === '3'")
        for kind in ("PNG", "SVG"):
            with page.expect_download() as download:
                widget.get_by_role("button", name=kind).click()
            assert download.value.suggested_filename == f"attention-block-0-head-1.{kind.lower()}"
