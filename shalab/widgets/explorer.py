"""Where a head looks: every query byte of a window against every byte that it can see, by age."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from shalab.device import to_host
from shalab.errors import InputError
from shalab.model import SHARNN
from shalab.plots import BLUE, ORANGE
from shalab.widgets.base import Widget, as_bytes, printable, source

# N heads, T window, M bytes in memory, K = M + T; an age is the bytes from a query back to a key, 0 for itself,
# so there are as many ages as keys: A = K

TOP = 10  # largest weights listed per query byte
MAP_BYTES = 7_500_000  # of one head's map; with all else that is drawn it stays below 8 MB
# What a byte of the map stands for, in steps of 6.6 %; 0 is what is too small to be seen.
LEVELS = np.concatenate([[0], np.geomspace(1e-7, 1, 255)]).astype(np.float32)


def by_age(weights: np.ndarray) -> np.ndarray:
    """(T, K) -> (T, A): row t from age 0 on, and 0 where the text had not begun."""
    n_queries, n_keys = weights.shape
    padded = np.concatenate([weights[:, ::-1], np.zeros((n_queries, n_queries), weights.dtype)], 1)  # (T, K + T)
    # Read in rows that are one shorter, each row starts one place earlier: at its own byte, not at the window's last.
    width = n_keys + n_queries - 1
    return padded.ravel()[n_queries - 1 :][: n_queries * width].reshape(n_queries, width)[:, :n_keys]


def binned(ages: np.ndarray, n_bytes: int = MAP_BYTES) -> tuple[np.ndarray, int]:
    """Sums of neighbouring ages, as few together as let the map have n_bytes cells: the map, and ages per cell."""
    width = -(-ages.shape[1] // max(1, n_bytes // len(ages)))
    return np.add.reduceat(ages, np.arange(0, ages.shape[1], width), axis=1), width


def quantised(weights: np.ndarray) -> np.ndarray:
    """The nearest of LEVELS for each weight, on their logarithmic scale: uint8."""
    low, high = np.log(LEVELS[1]), np.log(LEVELS[-1])
    with np.errstate(divide="ignore"):
        place = 1 + (np.log(weights) - low) / (high - low) * (len(LEVELS) - 2)
    return np.rint(place.clip(0, len(LEVELS) - 1)).astype(np.uint8)


def pooled(codes: np.ndarray, width: int, n_memory: int, n_rows: int, n_columns: int) -> np.ma.MaskedArray:
    """The largest code of each patch of the map, at most n_rows x n_columns of them; none where the text had not begun.

    codes: (T, cells), each cell `width` ages.
    """
    rows, columns = (np.arange(0, n, -(-n // most)) for n, most in zip(codes.shape, (n_rows, n_columns), strict=True))
    patches = np.maximum.reduceat(np.maximum.reduceat(codes, rows), columns, axis=1)
    last_rows = np.append(rows[1:], len(codes))[:, None] - 1
    return np.ma.array(patches, mask=columns * width > n_memory + last_rows)


def colour_range(patches: np.ma.MaskedArray) -> tuple[float, float]:
    """The weights that get the first and the last colour.

    Taken from what is there: heads that point and heads that spread their attention differ by a factor of hundreds.
    """
    low, high = LEVELS[np.quantile(patches.compressed(), (0.3, 0.999), method="nearest").clip(1)]
    return float(min(low, high / 2)), float(high)


def largest(ages: np.ndarray, n: int = TOP) -> np.ndarray:
    """(T, A) -> (T, n): the ages of each row's n largest weights, largest first, of equal ones the youngest first."""
    n = min(n, ages.shape[1])
    found = np.sort(np.argpartition(-ages, n - 1, axis=1)[:, :n], axis=1)
    order = np.argsort(-np.take_along_axis(ages, found, 1), axis=1, kind="stable")
    return np.take_along_axis(found, order, 1)


def octaves(n_ages: int) -> np.ndarray:
    """The first age of each octave of distance: 0, 1, 2, 4, 8, ..."""
    return np.concatenate([[0], 2 ** np.arange((n_ages - 1).bit_length())])


class AttentionExplorer(Widget):
    """One head's weights as a map that scrolls and zooms; a query byte's largest weights, in their text.

    block, head  which head is shown
    query        the row that is looked at, 0 to T - 1: moved by the pointer, the slider and the arrow keys
    pinned       the same row while the pointer no longer moves it, else None: set by a click or Enter

    >>> explorer = AttentionExplorer.from_model(model, text)  # doctest: +SKIP
    >>> explorer.pinned = 17  # doctest: +SKIP
    """

    _esm = source("explorer")
    block = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    pinned = traitlets.Int(None, allow_none=True).tag(sync=True)
    _blocks: traitlets.List[Any] = traitlets.List().tag(sync=True)
    _n_heads = traitlets.Int().tag(sync=True)
    _text = traitlets.Bytes().tag(sync=True)
    _reach = traitlets.Unicode().tag(sync=True)
    _view = traitlets.Dict().tag(sync=True)

    def __init__(self, weights: np.ndarray | dict[int, np.ndarray], text: bytes | str | np.ndarray, n_dropped: int = 0):
        """weights    (T, K) of one head, or block -> (N, T, K); a row is a softmax over a byte and those before it
        text       the K bytes that were looked at, the window's T last
        n_dropped  bytes that were read before these and are in no memory any more
        """
        if not isinstance(weights, dict):
            weights = {0: np.asarray(weights)[None]}
        self._weights = {block: np.asarray(weights[block], np.float32) for block in sorted(weights)}
        text = as_bytes(text)
        _check(self._weights, len(text))
        n_heads, self._n_queries, n_keys = next(iter(self._weights.values())).shape
        self._n_memory = n_keys - self._n_queries
        super().__init__(
            block=min(weights), query=self._n_queries - 1, _blocks=list(self._weights), _n_heads=n_heads,
            _text=text, _reach=_reach(self._n_memory, self._n_queries, n_dropped),
        )  # fmt: skip
        self._reduce()
        self.observe(self._reduce, ["block", "head"])
        self.observe(self._one_row, ["query", "pinned"])

    @classmethod
    def from_model(cls, model: SHARNN, text: bytes | str | np.ndarray, window: int = 1024) -> "AttentionExplorer":
        """The weights of the text's last `window` bytes; what comes before them is read first, window by window."""
        text = as_bytes(text)
        if not model.config.attention_layers:
            raise InputError("this model has no attention: it needs a block in its attention_layers")
        if window < 1:
            raise InputError(f"window must be at least 1, got {window}")
        if not text:
            raise InputError("text must have at least one byte, got none")
        if max(text) >= model.config.vocab_size:
            raise InputError(f"the model knows bytes below {model.config.vocab_size}, text holds a {max(text)}")
        was_training = model.training
        model.eval()
        try:
            weights = _last_weights(model, text, window)
        finally:
            model.train(was_training)
        n_keys = next(iter(weights.values())).shape[-1]
        return cls(weights, text[-n_keys:], len(text) - n_keys)

    def picture(self) -> Figure:
        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        self._draw_map(left)
        row = self.query
        left.axhline(row + 0.5, color=ORANGE)
        top = self._top(row)
        bars = right.barh(range(len(top)), [weight for _, weight in top], color=BLUE)
        right.bar_label(bars, fmt="%.3g", padding=3)
        # The font that draws the picture has few scripts: what is not Latin-1 is written as an escape.
        words = [f"{self._around(row, age, 6)} {age:>6,}" for age, _ in top]
        labels = [label.encode("latin-1", "backslashreplace").decode("latin-1") for label in words]
        right.set_yticks(range(len(top)), labels, parse_math=False, family="monospace", fontsize=9)
        right.invert_yaxis()
        right.margins(x=0.3)
        right.set(xlabel="weight", title=f"query byte {row:,}")
        right.spines[["top", "right"]].set_visible(False)
        return figure

    def summary(self) -> str:
        row = self.query
        lines = [
            f"Attention of block {self.block}, head {self.head}. {self._reach}",
            f"Query byte {row:,}: {self._around(row, 0, 24)}",
            *(f"  {weight:.3f} at age {age:,}: {self._around(row, age, 12)}" for age, weight in self._top(row)[:5]),
        ]
        return "\n".join(lines)

    @traitlets.validate("block", "head", "query", "pinned")
    def _exists(self, proposal: dict) -> int | None:
        name, value = proposal["trait"].name, proposal["value"]
        there: Sequence[int] = self._blocks
        if name != "block":
            there = range(self._n_heads if name == "head" else self._n_queries)
        if value is not None and value not in there:
            expected = f"one of {there}" if name == "block" else f"from 0 to {there[-1]}"
            raise InputError(f"{name} must be {expected}, got {value}")
        return value

    def _reduce(self, _=None) -> None:
        """Puts all that is drawn of one head into one message, so that the client never waits for a row."""
        ages = by_age(self._weights[self.block][self.head])  # (T, A)
        cells, width = binned(ages)
        codes = quantised(cells)
        top = largest(ages)
        starts = octaves(ages.shape[1])
        self._view = {
            "map": codes.tobytes(),
            "bin": width,
            "levels": LEVELS.tobytes(),
            "range": colour_range(pooled(codes, width, self._n_memory, 320, 1000)),  # about as many as pixels
            "n_top": top.shape[1],
            "top_weights": np.take_along_axis(ages, top, 1).tobytes(),
            "top_ages": top.astype(np.uint32).tobytes(),
            "octaves": starts.tolist(),
            "shares": np.add.reduceat(ages, starts, axis=1).tobytes(),
        }

    def _one_row(self, change: dict) -> None:
        """What is set last takes the other along, so that slider, map and text tell of one row."""
        if change["new"] is not None:
            self.query = change["new"]
            if self.pinned is not None:
                self.pinned = change["new"]

    def _top(self, row: int) -> list[tuple[int, float]]:
        """(age, weight) of the row's largest weights."""
        ages = self._weights[self.block][self.head, row, : self._n_memory + row + 1][None, ::-1]  # (1, M + row + 1)
        return [(int(age), float(ages[0, age])) for age in largest(ages)[0]]

    def _around(self, row: int, age: int, n: int) -> str:
        """The byte of that age between guillemets, with n bytes on either side of it."""
        place = self._n_memory + row - age
        parts = self._text[max(0, place - n) : place], self._text[place : place + 1], self._text[place + 1 :][:n]
        before, byte, after = map(printable, parts)
        return f"{before}«{byte}»{after}"

    def _draw_map(self, axes) -> None:
        codes, width = np.frombuffer(self._view["map"], np.uint8).reshape(self._n_queries, -1), self._view["bin"]
        patches = pooled(codes, width, self._n_memory, 100, 250)
        image = axes.imshow(
            np.ma.array(LEVELS[patches.data.clip(1)], mask=patches.mask), norm=LogNorm(*colour_range(patches)),
            cmap="cividis", aspect="auto", interpolation="nearest", extent=(0, len(self._text), self._n_queries, 0),
        )  # fmt: skip
        axes.figure.colorbar(image, ax=axes, label="largest weight in a patch", extend="both")
        axes.set(xlabel="age, bytes", ylabel="query byte", title=f"block {self.block}, head {self.head}")


@torch.no_grad()
def _last_weights(model: SHARNN, text: bytes, window: int) -> dict[int, np.ndarray]:
    """block -> (N, T, K) of the last `window` bytes, in a state that has read all bytes before them."""
    x = torch.tensor(list(text), device=model.decoder.weight.device)[:, None]  # (bytes, 1)
    begin = max(0, len(x) - window)
    state = None
    for low in range(0, begin, window):
        _, state = model(x[low : min(low + window, begin)], state)
    _, _, weights = model(x[begin:], state, need_weights=True)
    return {block: to_host(values)[0].float().numpy() for block, values in weights.items()}


def _check(weights: dict[int, np.ndarray], n_bytes: int) -> None:
    shapes = {values.shape for values in weights.values()}
    if len(shapes) != 1 or len(min(shapes)) != 3 or 0 in min(shapes):
        raise InputError(f"weights must be (T, K), or block -> (N, T, K) of one shape, got {sorted(shapes)}")
    _, n_queries, n_keys = min(shapes)
    if n_keys < n_queries or n_keys != n_bytes:
        raise InputError(f"weights of {n_queries} queries need their {n_keys} keys' bytes, at least {n_queries}, "
                         f"got {n_bytes} bytes")  # fmt: skip
    for block, values in weights.items():
        if not np.isfinite(values).all() or (values < 0).any():
            raise InputError(f"weights must be finite and at least 0, those of block {block} are not")
        if np.triu(values, n_keys - n_queries + 1).any():
            raise InputError(f"weights of block {block} see bytes after the query: rows are queries, columns are keys")
        if np.abs(values.sum(-1) - 1).max() > 0.01:
            raise InputError(f"each row of weights must sum to 1, a row of block {block} does not")


def _reach(n_memory: int, n_queries: int, n_dropped: int) -> str:
    """What there is to see, in a sentence or two."""
    memory = f"{n_memory:,} bytes of memory before them" if n_memory else "no memory before them"
    dropped = f" The {n_dropped:,} bytes read before those have been dropped." if n_dropped else ""
    return f"{n_queries:,} query bytes, {memory}.{dropped}"
