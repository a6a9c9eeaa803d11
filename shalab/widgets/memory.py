"""What the head sees while a text is read window by window: the memory, the causal mask, and what is dropped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import traitlets
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from shalab.attention import attention_mask, last_rows
from shalab.errors import InputError
from shalab.plots import BLUE, ORANGE
from shalab.widgets.base import Widget, as_bytes, source

# T window, M bytes in memory, K = M + T, P bytes of the text up to the window's end

DROPPED, MEMORY, WINDOW, FUTURE = range(4)
KINDS = ("dropped", "memory, visible", "window, visible", "window, masked future")


@dataclass(frozen=True)
class Reading:
    """Positions in the text, while window number `step` is read; all windows are of one length.

    memory  what the head sees beside the window
    window  the bytes that are read
    kept    what the memory holds afterwards
    """

    memory: range
    window: range
    kept: range


def reading(step: int, bptt: int, max_context: int) -> Reading:
    """The rule of `shalab.model.Block`, applied to positions instead of vectors; step counts from 0."""
    held = last_rows(range(step * bptt), max_context)
    memory = last_rows(held, max_context - bptt)
    window = range(step * bptt, (step + 1) * bptt)
    return Reading(memory, window, last_rows(range(memory.start, window.stop), max_context))


def kinds(read: Reading) -> np.ndarray:
    """(T, P) uint8: what the byte at each position is to each query, as an index of KINDS."""
    n_keys = len(read.memory) + len(read.window)
    visible = attention_mask(len(read.window), n_keys).numpy()  # (T, K)
    result = np.full((len(read.window), read.window.stop), DROPPED, np.uint8)
    result[:, -n_keys:] = np.where(visible, WINDOW, FUTURE)
    result[:, read.memory.start : read.memory.stop] = MEMORY
    return result


class MemoryView(Widget):
    """Rows are the queries of a window, columns the positions of the text; sliders for T, max_context and the step.

    bptt         T, bytes per window
    max_context  most bytes that attention sees, memory and window together
    step         number of the window, from 0
    text         labels the columns where there is room for it
    """

    _esm = source("memory")

    bptt = traitlets.Int().tag(sync=True)
    max_context = traitlets.Int().tag(sync=True)
    step = traitlets.Int().tag(sync=True)
    text = traitlets.Bytes().tag(sync=True)
    spans = traitlets.Dict().tag(sync=True)  # memory, window, kept -> [start, stop]
    seen: traitlets.List[Any] = traitlets.List().tag(sync=True)  # (T,) number of context rows that each query sees
    last_step = traitlets.Int().tag(sync=True)  # from then on nothing changes but the positions

    def __init__(self, bptt: int = 8, max_context: int = 20, step: int = 2, text: str | bytes | np.ndarray = b""):
        super().__init__(bptt=bptt, max_context=max_context, step=step, text=as_bytes(text))

    @traitlets.validate("bptt", "max_context", "step")
    def _in_range(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        least = 1 if name == "bptt" else 0
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
        return value

    @traitlets.observe("bptt", "max_context", "step")
    def _compute(self, _):
        read = reading(self.step, self.bptt, self.max_context)
        mask = attention_mask(self.bptt, len(read.memory) + self.bptt)  # (T, K)
        with self.hold_sync():
            self.spans = {
                name: [span.start, span.stop]
                for name, span in (("memory", read.memory), ("window", read.window), ("kept", read.kept))
            }
            self.seen = mask.sum(1).tolist()
            self.last_step = -(-self.max_context // self.bptt) + 2

    def picture(self) -> Figure:
        colors = ("#e8e8e8", BLUE, ORANGE, "#ffffff")
        read = reading(self.step, self.bptt, self.max_context)
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        grid = kinds(read)
        axes.imshow(
            grid, cmap=ListedColormap(colors), vmin=0, vmax=3, aspect="auto", interpolation="nearest",
            extent=(0, read.window.stop, read.window.stop, read.window.start),
        )  # fmt: skip
        axes.set(xlabel="position in the text", ylabel="query")
        patches = [Patch(facecolor=colors[kind], edgecolor="#7f7f7f", label=KINDS[kind]) for kind in np.unique(grid)]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
        return figure

    def summary(self) -> str:
        spans = {name: range(*ends) for name, ends in self.spans.items()}
        gone = spans["memory"].start
        return "\n".join([
            f"T {self.bptt:,}, max_context {self.max_context:,}, window {self.step}",
            f"window   {_places(spans['window'])}",
            f"memory   {_places(spans['memory'])}",
            f"dropped  {_places(range(gone))}",
            f"first query sees {self.seen[0]:,} bytes, last {self.seen[-1]:,}",
            f"memory afterwards  {_places(spans['kept'])}",
        ])  # fmt: skip


def _places(span: range) -> str:
    if not span:
        return "nothing"
    return f"{len(span):,} bytes: {span.start:,} to {span.stop - 1:,}" if len(span) > 1 else f"1 byte: {span.start:,}"
