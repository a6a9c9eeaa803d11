"""What min-trust LAMB did to each tensor: norms, trust ratio, and which floor or clamp made it."""

from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from shalab.errors import InputError
from shalab.events import read_metrics
from shalab.plots import BLUE, GREEN, GREY, ORANGE, drawable
from shalab.widgets.base import Widget, source

CLAMP, FLOOR, ZERO = 1, 2, 4  # bits
NAMES = {CLAMP: "norm clamped to 10", FLOOR: "floor", ZERO: "a norm is 0"}


def acting(norms: np.ndarray) -> np.ndarray:
    """Which rules made the ratios: (..., 3) weight norm, update norm and trust ratio -> (...) bits.

    The floor acts where the ratio is above that of the norms; where a norm is 0, the ratio is 1 by definition.
    """
    weight, update, ratio = np.moveaxis(norms.astype(np.float64), -1, 0)
    zero = (weight == 0) | (update == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = ~zero & (ratio > weight / update * (1 + 1e-5))
    return np.where(weight >= 10, CLAMP, 0) | np.where(floor, FLOOR, 0) | np.where(zero, ZERO, 0)


class TrustInspector(Widget):
    """A table of all tensors at a recorded step, and the chosen tensor's curves over the run.

    recorded  a run's folder, or the lines of its metrics.jsonl
    place     number of the recorded step that is looked at; the last at the start
    tensor    name of the chosen tensor; the one with the lowest ratio at the end at the start
    """

    _esm = source("chart", "trust")
    steps: traitlets.List[Any] = traitlets.List().tag(sync=True)
    names: traitlets.List[Any] = traitlets.List().tag(sync=True)
    norms = traitlets.Bytes().tag(sync=True)  # float32 (steps, tensors, 3)
    rules = traitlets.Bytes().tag(sync=True)  # uint8 (steps, tensors)
    rule_names: traitlets.List[Any] = traitlets.List().tag(sync=True)
    place = traitlets.Int().tag(sync=True)
    tensor = traitlets.Unicode().tag(sync=True)

    def __init__(self, recorded: Path | list[dict]):
        lines = recorded if isinstance(recorded, list) else read_metrics(recorded)
        lines = [line for line in lines if line.get("event") == "trust" and line["tensors"]]
        names = list(lines[0]["tensors"]) if lines else []
        if any(list(line["tensors"]) != names for line in lines):
            raise InputError("the lines name different tensors: expected those of one run")
        self.values = np.array([[line["tensors"][name] for name in names] for line in lines], np.float32)
        self.values = self.values.reshape(len(lines), len(names), 3)
        if not (np.isfinite(self.values) & (self.values >= 0)).all():
            raise InputError("norms and trust ratios must be finite and at least 0")
        self.acting = acting(self.values)
        super().__init__(
            steps=[line["step"] for line in lines],
            names=names,
            norms=self.values.tobytes(),
            rules=self.acting.astype(np.uint8).tobytes(),
            rule_names=[[bit, name] for bit, name in NAMES.items()],
            place=max(0, len(lines) - 1),
            tensor=names[self.values[-1, :, 2].argmin()] if lines else "",
        )

    @traitlets.validate("place")
    def _within(self, proposal):
        if not 0 <= proposal["value"] < max(1, len(self.steps)):
            raise InputError(f"place must be 0 to {len(self.steps) - 1}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("tensor")
    def _known(self, proposal):
        if proposal["value"] not in self.names and self.names:
            raise InputError(f"tensor must be one of {', '.join(self.names)}, got {proposal['value']!r}")
        return proposal["value"]

    def table(self, place: int | None = None) -> list[tuple[str, float, float, float, str]]:
        """(tensor, weight norm, update norm, trust ratio, rules) of each tensor; place: by default that looked at."""
        if not self.steps:
            return []
        place = self.place if place is None else place
        rules = [", ".join(name for bit, name in NAMES.items() if bits & bit) for bits in self.acting[place]]
        return [
            (name, *map(float, row), rule)
            for name, row, rule in zip(self.names, self.values[place], rules, strict=True)
        ]

    def picture(self) -> Figure:
        figure = Figure(figsize=(8, 1.2 + 0.2 * len(self.names)), layout="constrained")
        axes = figure.subplots()
        if not self.steps:
            axes.set_title("no trust ratios were recorded")
            return figure
        ratios = self.values[..., 2]  # (steps, tensors)
        axes.hlines(range(len(self.names)), ratios.min(0), ratios.max(0), color=GREY, alpha=0.4, linewidth=5)
        styles = {0: (BLUE, "o"), CLAMP: (GREEN, "s"), FLOOR: (ORANGE, "v"), ZERO: (GREY, "x")}
        made_by = [next((bit for bit in (ZERO, FLOOR, CLAMP) if bits & bit), 0) for bits in self.acting[self.place]]
        for row, (ratio, kind) in enumerate(zip(ratios[self.place], made_by, strict=True)):
            color, marker = styles[kind]
            axes.plot([ratio], [row], color=color, marker=marker)
        there = [kind for kind in styles if kind in made_by]
        figure.legend(
            [Line2D([], [], color=styles[kind][0], marker=styles[kind][1], linestyle="") for kind in there],
            [NAMES.get(kind, "ratio of the norms") for kind in there], loc="outside upper right", ncols=4, fontsize=8,
        )  # fmt: skip
        names = [drawable(name, longest=60) for name in self.names]
        axes.set_yticks(range(len(self.names)), names, fontsize=8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2.5, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set(xlabel=f"trust ratio at step {self.steps[self.place]:,}; grey: its range over the run")
        axes.invert_yaxis()
        axes.grid(alpha=0.3, axis="x")
        return figure

    def summary(self) -> str:
        if not self.steps:
            return "no trust ratios were recorded"
        rows = sorted(self.table(), key=lambda row: row[3])
        counts = [f"{name}: {int((self.acting[self.place] & bit > 0).sum())}" for bit, name in NAMES.items()]
        chosen = {row[0]: row for row in (rows[0], rows[-1])}.values()
        return "\n".join(
            [f"step {self.steps[self.place]:,}, {len(rows)} tensors; {', '.join(counts)}"]
            + [f"{name}: |w| {w:.2g}, |u| {u:.2g}, trust ratio {ratio:.2g}" for name, w, u, ratio, _ in chosen]
        )
