"""The attention explorer: what it computes, without a browser; what a reader sees and does, in one."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from lab import violations
from playwright.sync_api import expect
from waiting import until

from shalab import SHARNN, InputError, ModelConfig
from shalab.plots import png
from shalab.widgets.explorer import LEVELS, AttentionExplorer, binned, by_age, largest, octaves, pooled, quantised

AGES = [3, 0, 5, 1, 7]  # the age that each row of `pointing` looks at
TEXT = b"ab\xc3\xa9\n\xff<&z"  # the window is \n, a byte that is no character, <, &, z


def pointing() -> np.ndarray:
    """(5, 9) weights: 0.9 at one age, the rest spread evenly."""
    weights = np.zeros((5, 9), np.float32)
    for t, age in enumerate(AGES):
        weights[t, : 5 + t] = 0.1 / (4 + t)
        weights[t, 4 + t - age] = 0.9
    return weights


def softmaxes(n_queries: int, n_keys: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.exp(2 * rng.standard_normal((n_queries, n_keys))).astype(np.float32)
    weights = np.tril(weights, n_keys - n_queries)
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("n_queries, n_keys", [(7, 18), (11, 11), (1, 5), (1, 1)])
def test_ages_count_back_from_the_query(n_queries, n_keys):
    weights = softmaxes(n_queries, n_keys)
    expected = np.zeros_like(weights)
    for t in range(n_queries):
        for key in range(n_keys - n_queries + t + 1):
            expected[t, n_keys - n_queries + t - key] = weights[t, key]
    np.testing.assert_array_equal(by_age(weights), expected)


@pytest.mark.parametrize("n_bytes, width", [(10_000, 1), (7 * 101, 1), (7 * 100, 2), (7 * 40, 3), (7, 101), (1, 101)])
def test_binning_keeps_every_sum(n_bytes, width):
    ages = by_age(softmaxes(7, 101))
    cells, found = binned(ages, n_bytes)
    assert found == width and cells.shape == (7, -(-101 // width))
    for cell in range(cells.shape[1]):
        expected = ages[:, cell * width : (cell + 1) * width].astype(np.float64).sum(1)
        assert np.abs(cells[:, cell] - expected).max() < 1e-6


def test_a_map_of_16000_ages_fits():
    cells, width = binned(np.zeros((1024, 16_001), np.float32))
    assert width == 3 and cells.size < 7_500_000


def test_a_level_is_the_nearest_on_a_logarithmic_scale():
    np.testing.assert_array_equal(quantised(LEVELS), np.arange(256))
    weights = 10 ** np.random.default_rng(0).uniform(-7, 0, 5000)
    assert np.abs(np.log(LEVELS[quantised(weights)] / weights)).max() < np.log(1e7) / 254 / 2 + 1e-6
    np.testing.assert_array_equal(quantised(np.array([0, 1e-30, 1.0000001])), [0, 0, 255])


def test_the_largest_weights_come_first_and_of_equal_ones_the_youngest():
    ages = np.random.default_rng(0).integers(0, 9, (7, 31)).astype(np.float32)
    for row, found in zip(ages, largest(ages, 5), strict=True):
        values = sorted(row, reverse=True)[:5]
        np.testing.assert_array_equal(row[found], values)
        pairs = list(zip(-row[found], found, strict=True))
        assert pairs == sorted(pairs) and len(set(found)) == 5
    np.testing.assert_array_equal(largest(np.array([[0.2, 0.5, 0.3]]), 10), [[1, 2, 0]])


def test_patches_hold_the_largest_and_nothing_before_the_text():
    codes = np.random.default_rng(0).integers(0, 256, (11, 17)).astype(np.uint8)
    patches = pooled(codes, 3, 41, 4, 7)  # cells of 3 ages, 41 bytes of memory: patches of 3 x 3 cells
    assert patches.shape == (4, 6)
    for i in range(4):
        for j in range(6):
            patch = codes[3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
            assert patches.data[i, j] == patch.max()
            assert patches.mask[i, j] == (9 * j > 41 + min(10, 3 * i + 2))


def test_what_is_sent_is_what_numpy_computes():
    weights = softmaxes(7, 40)
    view = AttentionExplorer(weights, bytes(40))._view
    ages = by_age(weights)
    assert view["octaves"] == [0, 1, 2, 4, 8, 16, 32] == list(octaves(40)) and list(octaves(33))[-1] == 32
    assert list(octaves(32))[-1] == 16 and list(octaves(1)) == [0]
    shares = np.frombuffer(view["shares"], np.float32).reshape(7, 7)
    for t in range(7):
        for i, first in enumerate(view["octaves"]):
            assert abs(shares[t, i] - sum(ages[t, first : max(1, 2 * first)].astype(float))) < 1e-6
    top = np.frombuffer(view["top_ages"], np.uint32).reshape(7, view["n_top"])
    exact = np.frombuffer(view["top_weights"], np.float32).reshape(7, 10)
    np.testing.assert_array_equal(exact, -np.sort(-weights, 1)[:, :10])
    np.testing.assert_array_equal(ages[np.arange(7)[:, None], top], exact)
    np.testing.assert_array_equal(np.frombuffer(view["map"], np.uint8).reshape(7, 40), quantised(ages))


def test_block_and_head_choose_what_is_sent():
    maps = {1: np.stack([softmaxes(5, 9, s) for s in (1, 2)]), 3: np.stack([softmaxes(5, 9, s) for s in (3, 4)])}
    explorer = AttentionExplorer(maps, TEXT)
    assert (explorer.block, explorer._blocks, explorer._n_heads) == (1, [1, 3], 2)
    explorer.block, explorer.head = 3, 1
    assert explorer._view == AttentionExplorer(maps[3][1], TEXT)._view
    for name, value in (("block", 2), ("head", 2), ("query", 5), ("pinned", -1)):
        with pytest.raises(InputError, match=f"{name} must be"):
            setattr(explorer, name, value)
    assert (explorer.block, explorer.head, explorer.query, explorer.pinned) == (3, 1, 4, None)


def test_summary_tells_one_row_the_last_set():
    explorer = AttentionExplorer(pointing(), TEXT, n_dropped=1234)
    assert explorer.summary().splitlines()[:3] == [
        "Attention of block 0, head 0. 5 query bytes, 4 bytes of memory before them. "
        "The 1,234 bytes read before those have been dropped.",
        r"Query byte 4: abé\n\xff<&«z»",
        r"  0.900 at age 7: a«b»é\n\xff<&z",
    ]
    explorer.query = 1
    assert "Query byte 1" in explorer.summary()
    explorer.pinned = 2
    assert explorer.summary().splitlines()[1:3] == [
        r"Query byte 2: abé\n\xff«<»&z",
        r"  0.900 at age 5: a«b»é\n\xff<&z",
    ]
    explorer.query = 3  # what is pinned is what is looked at
    assert explorer.pinned == 3 and "Query byte 3" in explorer.summary()
    explorer.pinned = None
    assert explorer.query == 3


def test_picture_is_the_same_for_the_same_data():
    explorer = AttentionExplorer(pointing(), TEXT)
    first = png(explorer.picture())
    assert png(AttentionExplorer(pointing(), TEXT).picture()) == first
    explorer.pinned = 1
    assert png(explorer.picture()) != first
    assert explorer.picture().axes[1].get_title() == "query byte 1"
    image = explorer.picture().axes[0].images[0].get_array()
    assert [int(row.argmax()) for row in image] == AGES
    np.testing.assert_array_equal(image.mask, np.arange(9) > 4 + np.arange(5)[:, None])


def model(**changes) -> SHARNN:
    config = dict(
        d_model=12, d_boom=24, n_layers=3, n_heads=2, attention_layers=(0, 2), max_context=200, init_scale=3.0
    )
    return SHARNN(ModelConfig(**{**config, **changes}))


def test_a_model_is_read_window_by_window(text):
    """As in one piece: memory and hidden state have been carried. Dropout is off, and on again afterwards."""
    reader = model().train()
    explorer = AttentionExplorer.from_model(reader, text[:150], window=13)
    assert reader.training
    with torch.no_grad():
        _, _, weights = reader.eval()(torch.from_numpy(text[:150].astype(np.int64))[:, None], need_weights=True)
    for block in (0, 2):
        expected = weights[block][0, :, -13:]
        np.testing.assert_allclose(explorer._weights[block], expected, atol=1e-5)
    assert explorer._text == text[:150].tobytes() and explorer.query == 12
    assert explorer._reach == "13 query bytes, 137 bytes of memory before them."


def test_text_longer_than_the_memory_and_text_without_one(text):
    explorer = AttentionExplorer.from_model(model(max_context=50), text[:211].tobytes(), window=13)
    assert explorer._text == text[161:211].tobytes()
    assert explorer._reach.endswith(
        "37 bytes of memory before them. The 161 bytes read before those have been dropped."
    )
    explorer = AttentionExplorer.from_model(model(), "né", window=13)
    assert explorer._text == b"n\xc3\xa9" and explorer._reach == "3 query bytes, no memory before them."


@pytest.mark.parametrize(
    "act, said",
    [
        (lambda: AttentionExplorer.from_model(model(attention_layers=()), "text"), "no attention"),
        (lambda: AttentionExplorer.from_model(model(), ""), "at least one byte"),
        (lambda: AttentionExplorer.from_model(model(), "text", window=0), "window must be at least 1, got 0"),
        (lambda: AttentionExplorer.from_model(model(vocab_size=100), "text"), "bytes below 100, text holds a 120"),
        (lambda: AttentionExplorer(pointing()[0], TEXT), r"\(T, K\)"),
        (lambda: AttentionExplorer({}, TEXT), r"\(T, K\)"),
        (lambda: AttentionExplorer({0: pointing()[None], 1: pointing()[None, 1:]}, TEXT), "of one shape"),
        (lambda: AttentionExplorer(pointing(), TEXT[1:]), "9 keys' bytes, at least 5, got 8"),
        (lambda: AttentionExplorer(pointing()[:, :3], TEXT[:3]), "3 keys' bytes, at least 5"),
        (lambda: AttentionExplorer(pointing() * np.nan, TEXT), "finite"),
        (lambda: AttentionExplorer(-pointing(), TEXT), "at least 0"),
        (lambda: AttentionExplorer(pointing() * 2, TEXT), "sum to 1"),
        (lambda: AttentionExplorer(softmaxes(5, 5).T, TEXT[:5]), "rows are queries, columns are keys"),
        (lambda: AttentionExplorer(np.eye(5)[[1, 0, 0, 0, 0]], TEXT[:5]), "bytes after the query"),
    ],
)
def test_bad_input_is_told(act, said):
    with pytest.raises(InputError, match=said):
        act()


CELL = f"""
import numpy as np
from shalab.widgets.explorer import AttentionExplorer
weights = np.zeros((5, 9), np.float32)
for t, age in enumerate({AGES}):
    weights[t, : 5 + t] = 0.1 / (4 + t)
    weights[t, 4 + t - age] = 0.9
even = np.tril(np.ones((5, 9), np.float32), 4) / np.arange(5, 10)[:, None]
e = AttentionExplorer({{1: [weights, even], 3: [even, weights]}}, {TEXT!r})
e
"""
# Red of each cell's middle, None where nothing is drawn.
CELLS = """
canvas => Array.from({length: 5}, (_, t) => Array.from({length: 9}, (_, age) => {
  const [x, y] = [(age + 0.5) * canvas.width / 9, (t + 0.5) * canvas.height / 5].map(Math.floor);
  const [red, , , alpha] = canvas.getContext('2d').getImageData(x, y, 1, 1).data;
  return alpha ? red : null;
}))
"""


def test_explorer_in_jupyterlab(lab):
    """Seen to fail when `paint` exchanges x and y, when `keys` loses PageUp, when `top` takes the row above, when `set`
    forgets save_changes, and when the button Unpin pins another row."""
    with lab.notebook(CELL, height=1300) as page:
        widget = page.locator(".shalab")
        image = widget.get_by_role(
            "img", name="Attention of block 1, head 0: 5 query bytes by 9 ages; the largest weight is 0.900"
        )
        says = partial(lab.says, page, "print(e.block, e.head, e.query, e.pinned)")
        title = widget.locator("[role=status]")

        shown = image.evaluate(CELLS)
        for t, row in enumerate(shown):
            assert [red is None for red in row] == [age > 4 + t for age in range(9)]
            assert row.index(max(filter(None, row))) == AGES[t]
        shares = widget.get_by_role("img", name="Share of the weight by age").get_attribute("aria-label")
        shares = [float(share) for share in re.findall(r"([\d.]+) %", shares)]
        assert shares == pytest.approx([1.25, 1.25, 2.5, 93.75, 1.25], abs=0.06)

        box = image.bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + box["height"] * 0.5)
        assert title.inner_text() == "Query byte 2 of 5: “<”"
        first = widget.locator("tbody tr").first.locator("td")
        assert first.all_inner_texts() == ["0.900", "5", "abé↵⟨FF⟩<&z"] and first.locator("mark").inner_text() == "b"
        text = widget.get_by_role("group", name="Text around the query byte")
        assert text.inner_text() == "abé↵\n⟨FF⟩<&z"
        assert text.locator(".shalab-query").inner_text() == "<"
        page.mouse.move(box["x"] + 50, box["y"] + box["height"] * 0.9)
        page.mouse.click(box["x"] + 50, box["y"] + box["height"] * 0.3)
        page.mouse.move(box["x"] + 50, box["y"] + box["height"] * 0.9)
        assert title.inner_text() == "Query byte 1 of 5: “⟨FF⟩” (pinned)"
        page.mouse.move(0, 0)
        says("1 0 1 1")

        widget.get_by_role("group", name="Map of weights").focus()
        slider = widget.get_by_role("slider", name="Query byte")
        mark = widget.locator(".shalab-figure > svg").last.locator("line").first
        height = """node => {
            const [box, figure] = [node, node.closest(".shalab-figure")].map((part) => part.getBoundingClientRect());
            return getComputedStyle(node).visibility === "visible" && box.top + box.height / 2 - figure.top;
        }"""
        for key, row in (("Home", 0), ("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 4), ("PageUp", 3)):
            page.keyboard.press(key)
            assert slider.input_value() == str(row), key  # slider, text and mark tell of one row
            assert title.inner_text().startswith(f"Query byte {row} of 5") and "(pinned)" in title.inner_text()
            assert mark.evaluate(height) == pytest.approx(24 + 320 * (row + 0.5) / 5, abs=0.6)
        page.keyboard.press("Enter")
        assert title.inner_text() == "Query byte 3 of 5: “&”"
        says("1 0 3 None")
        slider.focus()
        page.keyboard.press("Enter")
        assert title.inner_text() == "Query byte 3 of 5: “&” (pinned)"
        says("1 0 3 3")
        slider.focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        widget.get_by_role("button", name="Unpin").click()
        says("1 0 1 None")

        lab.execute(page, "e.pinned = 4")
        expect(title).to_have_text("Query byte 4 of 5: “z” (pinned)")
        assert slider.input_value() == "4"
        widget.get_by_role("combobox", name="Head").select_option("1")
        widget.get_by_role("img", name="Attention of block 1, head 1").wait_for()
        assert first.all_inner_texts()[0] == "0.111"
        widget.get_by_role("combobox", name="Block").select_option("3")
        image = widget.get_by_role("img", name="Attention of block 3, head 1")
        image.wait_for()
        assert image.evaluate(CELLS) == shown
        says("3 1 4 4")

        assert "weight ≤ 0.0" in widget.locator("svg").first.inner_html()
        widget.get_by_role("combobox", name="Colour").select_option("linear")
        assert "weight 0<" in widget.locator("svg").first.inner_html()

        with page.expect_download() as saved:
            widget.get_by_role("button", name="Save as SVG").click()
        drawing = saved.value.path().read_text(encoding="utf-8")
        assert saved.value.suggested_filename == "attention.svg" and "data:image/png;base64," in drawing
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
        assert "Query byte 4 of 5: “z” (pinned)" in texts and "age: bytes back from the query byte" in texts
        assert "0.900 at age 7: a«b»é↵⟨FF⟩&lt;&amp;z" in texts
        parse = "svg => new DOMParser().parseFromString(svg, 'image/svg+xml').querySelector('parsererror')"
        assert page.evaluate(parse, drawing) is None
        with page.expect_download() as saved:
            widget.get_by_role("button", name="Save as PNG").click()
        assert saved.value.path().read_bytes().startswith(b"\x89PNG")
        saved.value.save_as(lab.pictures / "explorer_saved.png")
        assert violations(page, ".shalab") == []


LONG = """
import torch
from shalab import SHARNN, ModelConfig
from shalab.corpus import load_corpus
from shalab.widgets.explorer import AttentionExplorer
torch.manual_seed(0)
model = SHARNN(ModelConfig(d_model=32, d_boom=64, n_layers=2, attention_layers=(0,), max_context=1500, init_scale=3.0))
e = AttentionExplorer.from_model(model, load_corpus("enwik6").split("valid")[:2000], window=500)
e
"""


def test_explorer_scrolls_and_fits(lab):
    """Seen to fail when `reveal` does nothing, and when dragging does not scroll."""
    for name, options in (("light", {"height": 1300}), ("dark", {"width": 800, "height": 600, "dark": True})):
        with lab.notebook(LONG, **options) as page:
            widget, area = page.locator(".shalab"), page.get_by_role("group", name="Map of weights")
            widget.get_by_role("img", name="500 query bytes by 1,500 ages").wait_for()
            lab.picture(page, f"explorer_{name}")
            fits = """el => el.scrollWidth <= el.clientWidth
                && el.getBoundingClientRect().right <= el.parentElement.getBoundingClientRect().right"""
            until(partial(widget.evaluate, fits), "widget that fits")
            zoom = widget.get_by_role("button", name="Zoom in")
            while zoom.is_enabled():
                zoom.click()
            assert area.evaluate("el => el.scrollTop") > 0  # the last row, which was chosen, stays in sight
            area.focus()
            page.keyboard.press("Home")
            assert area.evaluate("el => el.scrollTop") < 50
            page.keyboard.press("End")
            assert area.evaluate("el => el.scrollTop + el.clientHeight > el.scrollHeight - 200")
            box = area.bounding_box()
            page.mouse.move(box["x"] + 150, box["y"] + 100)
            page.mouse.down()
            page.mouse.move(box["x"] + 50, box["y"] + 100, steps=4)
            page.mouse.up()
            assert area.evaluate("el => el.scrollLeft") == 100
            assert lab.execute(page, "print(e.pinned)") == "None"
            lab.picture(page, f"explorer_{name}_zoomed")
            assert violations(page, ".shalab") == []
            widget.get_by_role("button", name="Show the whole map").click()
            assert area.evaluate("el => el.scrollHeight == el.clientHeight")
