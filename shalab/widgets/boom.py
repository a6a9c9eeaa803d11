"""Boom beside a Transformer's feed-forward layer: what each costs, and the fold step by step."""

from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from shalab.boom import fold, gelu
from shalab.errors import InputError
from shalab.plots import BLUE, GREEN, ORANGE
from shalab.widgets.base import Widget, source

# D width, H inner width, C = H / D chunks
# A multiplication and an addition count as one FLOP each. Both layers apply the same function to the same H
# numbers in between: that is left out.
PURPLE = "#CC79A7"  # of the fourth chunk: grey is for references


def boom_parameters(d_model: int, d_boom: int) -> int:
    """One matrix (H, D) and its bias (H,)."""
    return d_boom * d_model + d_boom


def boom_flops(d_model: int, d_boom: int) -> int:
    """Per byte: H dot products of length D with a bias, 2 D H, and H - D additions that fold H numbers into D."""
    return 2 * d_model * d_boom + d_boom - d_model


def feed_forward_parameters(d_model: int, d_boom: int) -> int:
    """Two matrices, (H, D) and (D, H), and their biases (H,) and (D,)."""
    return 2 * d_model * d_boom + d_boom + d_model


def feed_forward_flops(d_model: int, d_boom: int) -> int:
    """Per byte: H dot products of length D, then D of length H, each with a bias."""
    return 4 * d_model * d_boom


def costs(d_model: int, d_boom: int) -> dict[str, dict[str, int]]:
    """Layer -> its parameters and its FLOPs per byte."""
    return {
        "Boom": {"parameters": boom_parameters(d_model, d_boom), "flops": boom_flops(d_model, d_boom)},
        "feed-forward": {
            "parameters": feed_forward_parameters(d_model, d_boom),
            "flops": feed_forward_flops(d_model, d_boom),
        },
    }


def example(chunks: int, d_model: int = 6) -> np.ndarray:
    """What a small Boom layer may hold before its fold: (C, D), rounded so that a reader can add it up."""
    u = np.random.default_rng(0).normal(0.4, 1, chunks * d_model)
    return gelu(torch.from_numpy(u)).numpy().round(2).reshape(chunks, d_model)


def stacked(rows: np.ndarray) -> np.ndarray:
    """(C, D) -> where each bar of a stack starts, (C, D): positive numbers pile up from 0, negative ones hang down."""
    bottoms = np.zeros_like(rows)
    for sign in (rows >= 0, rows < 0):
        piled = np.where(sign, rows, 0).cumsum(0)
        bottoms += np.where(sign, piled - rows, 0)
    return bottoms


class BoomExplorer(Widget):
    """Sliders for the width and the number of chunks; the fold as an animation.

    d_model  D, width that goes in and comes out
    chunks   C; the inner width H is C times D
    """

    _esm = source("boom")

    d_model = traitlets.Int().tag(sync=True)
    chunks = traitlets.Int().tag(sync=True)
    costs = traitlets.Dict().tag(sync=True)
    example: traitlets.List[Any] = traitlets.List().tag(sync=True)  # (C, D) of the animation
    bottoms: traitlets.List[Any] = traitlets.List().tag(sync=True)  # (C, D), of the stack it ends in

    def __init__(self, d_model: int = 256, chunks: int = 4):
        super().__init__(d_model=d_model, chunks=chunks)

    @traitlets.validate("d_model", "chunks")
    def _positive(self, proposal):
        if proposal["value"] < 1:
            raise InputError(f"{proposal['trait'].name} must be at least 1, got {proposal['value']}")
        return proposal["value"]

    @traitlets.observe("d_model", "chunks")
    def _compute(self, _):
        rows = example(self.chunks)
        with self.hold_sync():
            self.costs = costs(self.d_model, self.d_model * self.chunks)
            self.example, self.bottoms = rows.tolist(), stacked(rows).round(2).tolist()

    def picture(self) -> Figure:
        rows = np.array(self.example)
        total = fold(torch.from_numpy(rows).flatten(), rows.shape[1]).numpy()
        figure = Figure(figsize=(9, 3), layout="constrained")
        before, after = figure.subplots(1, 2, sharey=True, width_ratios=(len(rows), 1.6))
        places = np.arange(rows.shape[1])
        for c, (row, bottom) in enumerate(zip(rows, stacked(rows), strict=True)):
            color = (BLUE, ORANGE, GREEN, PURPLE)[c % 4]
            before.bar(places + c * rows.shape[1], row, color=color)
            after.bar(places, row, bottom=bottom, color=color, edgecolor="white", linewidth=0.5)
        after.hlines(total, places - 0.45, places + 0.45, color="black", linewidth=2)
        before.set_xticks(
            (np.arange(len(rows)) + 0.5) * rows.shape[1] - 0.5, [f"chunk {c + 1}" for c in range(len(rows))]
        )
        before.tick_params(axis="x", length=0)
        before.set_title(f"after the matrix: {rows.size} numbers in {len(rows)} chunks", fontsize=10)
        after.set_title("folded; black: the sum", fontsize=10)
        after.set_xticks([])
        before.set_ylabel("toy numbers")
        for axes in (before, after):
            axes.spines[["top", "right"]].set_visible(False)
            axes.axhline(0, color="black", linewidth=0.6)
        return figure

    def summary(self) -> str:
        d_boom = self.d_model * self.chunks
        lines = [
            f"D {self.d_model:,}, H {d_boom:,} ({self.chunks} chunks)",
            f"{'':14}{'parameters':>14}{'FLOPs per byte':>18}",
        ]
        lines += [f"{name:14}{cost['parameters']:>14,}{cost['flops']:>18,}" for name, cost in self.costs.items()]
        boom, other = self.costs.values()
        ratios = (boom[unit] / other[unit] for unit in ("parameters", "flops"))
        return "\n".join([*lines, "{:14}{:>14.3f}{:>18.3f}".format("ratio", *ratios)])
