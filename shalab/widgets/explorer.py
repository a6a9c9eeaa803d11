"""Where one head looks: thousands of bytes of memory, and the exact numbers of the byte under the pointer."""

import math

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from shalab.device import to_host
from shalab.errors import InputError
from shalab.model import SHARNN
from shalab.plots import BLUE
from shalab.widgets.base import Widget, source

# T queries, M bytes in memory, K = M + T keys, A = K ages: age 0 is the query's own byte, age 1 the one before it

MAP_CELLS = 6_000_000  # of a map, a byte each; ages are put together until it fits
N_TOP = 10
LEAST = 1e-6  # weights below are drawn as nothing


def by_age(weights: np.ndarray) -> np.ndarray:
    """(T, K) -> (T, A): column a of row t is the weight that query t gives to the byte `a` bytes before it."""
    n_queries, n_keys = weights.shape
    ages = np.zeros_like(weights)
    for t, row in enumerate(weights):
        own = n_keys - n_queries + t
        ages[t, : own + 1] = row[own::-1]
    return ages


def binned(ages: np.ndarray, width: int) -> np.ndarray:
    """(T, A) -> (T, ceil(A / width)): sums over `width` ages each"""
    return np.add.reduceat(ages, np.arange(0, ages.shape[1], width), axis=1)


def quantised(weights: np.ndarray) -> np.ndarray:
    """uint8: 0 for less than LEAST, then logarithmically 1 to 255, for a weight of 1."""
    level = 255 - 254 * np.log10(np.clip(weights, LEAST, 1)) / math.log10(LEAST)
    return np.where(weights < LEAST, 0, np.round(level)).astype(np.uint8)


def heaviest(weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n largest of each row, largest first: positions (T, n) uint32 and weights (T, n) float32."""
    n = min(n, weights.shape[1])
    some = np.argpartition(-weights, n - 1, axis=1)[:, :n]
    order = np.argsort(-np.take_along_axis(weights, some, 1), axis=1, kind="stable")
    positions = np.take_along_axis(some, order, 1)
    return positions.astype(np.uint32), np.take_along_axis(weights, positions, 1).astype(np.float32)


def distance_edges(n_ages: int) -> np.ndarray:
    """Where the distance bins begin: 0, 1, 2, 4, 8, ..."""
    return np.array([0, *(1 << np.arange(max(0, (n_ages - 1).bit_length())))])


class AttentionExplorer(Widget):
    """A heat map of one head, rows are the window's bytes, columns ages; and the selected byte's row in numbers.

    text     bytes, the K keys: what the memory holds and then the window
    weights  block -> (N, T, K), or one such array; N heads, rows sum to 1, the last T keys are the queries
    dropped  bytes before the text that the memory no longer holds

    query and pinned are traitlets: rows from 0 to T - 1, pinned also None. block, head and colour ("log" or
    "linear") are too.

    >>> explorer = AttentionExplorer(b"abc", np.array([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]]))
    >>> explorer.query = 0
    """

    _esm = source("explorer")
    blocks = traitlets.List().tag(sync=True)  # [block, heads] each
    block = traitlets.Int().tag(sync=True)
    head = traitlets.Int().tag(sync=True)
    colour = traitlets.Enum(("log", "linear"), "log").tag(sync=True)
    query = traitlets.Int().tag(sync=True)
    pinned = traitlets.Int(None, allow_none=True).tag(sync=True)
    view = traitlets.Dict().tag(sync=True)  # all that is drawn of a head, so that the browser need not ask

    def __init__(self, text: bytes, weights: np.ndarray | dict[int, np.ndarray], dropped: int = 0):
        weights = weights if isinstance(weights, dict) else {0: weights}
        self._weights = {block: _checked(np.asarray(array), len(text)) for block, array in weights.items()}
        if not self._weights:
            raise InputError("there is no block with attention: nothing to explore")
        self.text, self.dropped = bytes(text), dropped
        first = next(iter(self._weights))
        self._n_queries = self._weights[first].shape[1]
        super().__init__(
            blocks=[[block, len(array)] for block, array in self._weights.items()],
            block=first, query=self._n_queries - 1,
        )  # fmt: skip
        self._look()

    @classmethod
    def from_model(cls, model: SHARNN, text: bytes | str, window: int = 1024) -> "AttentionExplorer":
        """Reads `text` with the state carried along; the queries are its last `window` bytes, or all of a shorter text.

        What precedes them is in memory, as far as `model.max_context` reaches.
        """
        data = text.encode() if isinstance(text, str) else bytes(text)
        if not data:
            raise InputError("text is empty: give at least one byte")
        if window < 1:
            raise InputError(f"window must be at least 1 byte, got {window}")
        ids = torch.tensor(list(data), device=model.embedding.weight.device).unsqueeze(1)  # (N, 1)
        before, last = ids[: max(0, len(ids) - window)], ids[-window:]
        was_training, state = model.training, None
        model.eval()
        try:
            with torch.no_grad():
                for part in before.split(window) if len(before) else ():
                    _, state = model(part, state)
                _, _, seen = model(last, state, need_weights=True)
        finally:
            model.train(was_training)
        if not seen:
            raise InputError("this model has no block with attention (attention_layers is empty): nothing to explore")
        weights = {block: to_host(array[0].float()).numpy() for block, array in seen.items()}
        n_keys = next(iter(weights.values())).shape[-1]
        return cls(data[-n_keys:], weights, dropped=len(data) - n_keys)

    @property
    def weights(self) -> np.ndarray:
        """The head that is shown, (T, K)"""
        return self._weights[self.block][self.head]

    @property
    def row(self) -> int:
        """The query whose numbers are shown: the pinned one, else the selected one."""
        return self.query if self.pinned is None else self.pinned

    def top(self, query: int, n: int = N_TOP) -> list[tuple[float, int, int]]:
        """The bytes that `query` attends to most: (weight, distance, position in the text)."""
        own = len(self.text) - self._n_queries + query
        (positions,), (weights,) = heaviest(self.weights[query : query + 1], n)
        pairs = zip(positions, weights, strict=True)
        return [(float(w), own - int(p), int(p)) for p, w in pairs if w > 0]

    def picture(self) -> Figure:
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        width = math.ceil(len(self.text) / 800)
        level = np.log10(np.clip(binned(by_age(self.weights), width), 1e-4, 1))
        extent = (0, width * level.shape[1], self._n_queries, 0)
        image = left.imshow(level, "cividis", aspect="auto", extent=extent, interpolation="nearest")
        left.axhline(self.row + 0.5, color="white", linewidth=0.8, linestyle=":")
        left.set(xlabel="bytes back", ylabel="query byte", title=f"block {self.block}, head {self.head}")
        figure.colorbar(image, ax=left, label="weight, powers of ten", shrink=0.7)
        top = self.top(self.row)
        names = [f"{_shown(self.text[place])}  {distance:,} back" for _, distance, place in top]
        right.barh(range(len(top)), [weight for weight, _, _ in top], color=BLUE)
        right.set_yticks(range(len(top)), names, family="monospace", fontsize=8)
        right.invert_yaxis()
        right.set(xlabel="weight", title=f"most attended by byte {self.row}")
        return figure

    def summary(self) -> str:
        n_memory = len(self.text) - self._n_queries
        lines = [
            f"attention of block {self.block}, head {self.head}: "
            f"{self._n_queries:,} queries, {n_memory:,} bytes in memory",
            f"query {self.row} {_shown(self.text[n_memory + self.row])} attends to",
        ]
        for weight, distance, place in self.top(self.row, 5):
            lines.append(f"  {weight:.3f} {_shown(self.text[place])} {distance:,} back")
        return "\n".join(lines)

    @traitlets.validate("query", "pinned")
    def _a_row(self, proposal):
        row = proposal["value"]
        if row is not None and not 0 <= row < self._n_queries:
            raise InputError(f"{proposal['trait'].name} must be a row from 0 to {self._n_queries - 1}, got {row}")
        return row

    @traitlets.validate("block")
    def _a_block(self, proposal):
        if proposal["value"] not in self._weights:
            raise InputError(f"block must be one with attention, {list(self._weights)}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("head")
    def _a_head(self, proposal):
        n_heads = len(self._weights[self.block])
        if not 0 <= proposal["value"] < n_heads:
            raise InputError(f"head must be from 0 to {n_heads - 1} in block {self.block}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.observe("block", "head")
    def _look(self, change=None) -> None:
        if change and change["name"] == "block":
            self.head = min(self.head, len(self._weights[self.block]) - 1)
        ages = by_age(self.weights)
        width = math.ceil(ages.size / MAP_CELLS)
        cells = binned(ages, width)
        positions, top_weights = heaviest(self.weights, N_TOP)
        edges = distance_edges(ages.shape[1])
        self.view = {
            "queries": self._n_queries, "keys": len(self.text), "width": width, "bins": cells.shape[1],
            "dropped": self.dropped, "edges": edges.tolist(), "top": positions.shape[1],
            "text": self.text, "cells": quantised(cells).tobytes(), "most": float(cells.max()),
            "positions": positions.astype("<u4").tobytes(), "weights": top_weights.astype("<f4").tobytes(),
            "distances": np.add.reduceat(ages, edges, axis=1).astype("<f4").tobytes(),
        }  # fmt: skip


def _checked(weights: np.ndarray, n_keys: int) -> np.ndarray:
    if weights.ndim != 3 or weights.shape[2] != n_keys or not 0 < weights.shape[1] <= n_keys:
        raise InputError(
            f"weights must be (heads, queries, keys) with as many keys as the text has bytes, {n_keys}, "
            f"and no more queries than keys, got {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise InputError("weights hold NaN or infinity: look at the model's parameters, it has probably diverged")
    return weights.astype(np.float32)


def _shown(byte: int) -> str:
    """Quoted, escaped where it cannot be seen: 'e', '\\n', '\\xc3'"""
    return repr(bytes([byte]))[1:]
