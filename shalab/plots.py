"""Pictures. Imported by the command line and the notebooks, by nothing else."""

import base64
import html
import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from PIL import Image

from shalab.files import replacing

# Okabe & Ito's palette: told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"
_GLYPHS = frozenset(map(chr, get_font(findfont("DejaVu Sans")).get_charmap()))


def drawable(text: str, longest: int = 40) -> str:
    """A name as a picture can show it: what the font lacks as an escape, no formulas, no more than `longest` signs."""
    text = "".join(c if c in _GLYPHS and c.isprintable() else ascii(c)[1:-1] for c in text)
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")  # a legend leaves out what begins with _


def curve(
    axes: Axes,
    x: Sequence | np.ndarray,
    y: Sequence[float | None] | np.ndarray,
    log: bool = False,
    **style: Any,
) -> None:
    """A line through the numbers that there are: a gap where one is missing, a dot where one stands alone.

    Missing is None, what is not finite, and with `log` what is not above 0. Of no number at all, nothing is drawn.
    """
    heights = np.array(y, float)
    there = np.isfinite(heights) & ((heights > 0) | (not log))
    if there.any():
        alone = there & ~np.append(False, there[:-1]) & ~np.append(there[1:], False)
        if alone.any():
            style = {"marker": "o", "markersize": 4, "markevery": alone.tolist(), **style}
        axes.plot(x, np.where(there, heights, np.nan), **style)
        axes.set_yscale("log" if log else "linear")
        if log and axes.dataLim.minposy > 1e-3 and axes.dataLim.y1 < 1e4:  # 0.5 and not 5 × 10⁻¹
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")


def learning_curve(metrics: list[dict], references: dict[str, float] | None = None) -> Figure:
    """Training and validation bits per byte against bytes read, from the lines of metrics.jsonl.

    references: name -> bits per byte, drawn as dashed lines.
    """
    steps = [line for line in metrics if line["event"] == "step"]
    train = zip([line["n_bytes"] for line in steps], smooth([line["bpc"] for line in steps]), strict=True)
    valid = [(line["n_bytes"], line["valid_bpc"]) for line in metrics if line["event"] == "eval"]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    draw_learning_curve(figure.subplots(), list(train), valid, references)
    return figure


def draw_learning_curve(axes, train: list, valid: list, references: dict[str, float] | None = None) -> None:
    """train and valid: (bytes read, bits per byte) each; bits that are missing are None or not finite."""
    styles_of: tuple[tuple[list, dict[str, Any]], ...] = (
        (train, {"color": BLUE, "linewidth": 1.2, "label": "train (smoothed)"}),
        (valid, {"color": ORANGE, "marker": "o", "markersize": 4, "markevery": None, "label": "valid"}),
    )
    for points, style in styles_of:
        curve(axes, [n_bytes / 1e6 for n_bytes, _ in points], [bpc for _, bpc in points], **style)
    for name, bpc in (references or {}).items():
        axes.axhline(bpc, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            drawable(name), (1, bpc), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", color=GREY,
        )  # fmt: skip
    axes.set(xlabel="bytes read, millions", ylabel="bits per byte", xlim=(0, None))
    # A twentieth of the training may run out at the top: its fall would leave no room for what follows.
    rest = [bpc for _, bpc in valid] + list((references or {}).values())
    every, late = (
        [bpc for bpc in [point[1] for point in part] + rest if finite(bpc) is not None]
        for part in (train, train[len(train) // 20 :])
    )
    if late:
        low, high = min(every), max(late)
        axes.set_ylim(low - (0.05 * (high - low) or 0.5), high + (0.05 * (high - low) or 0.5))
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def benchmark(results: dict) -> Figure:
    """The results of `make bench`: training speed beside the plain path's, and what is learned in so many minutes."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    speed, learning = figure.subplots(1, 2)
    rows = results["training"]
    places = range(len(rows))
    for shift, path, color in ((-0.2, "plain", GREY), (0.2, "fast", BLUE)):
        heights = [row[f"{path}_bytes_per_s"] for row in rows]
        speed.bar([place + shift for place in places], heights, 0.4, color=color, label=path)
    for place, row in zip(places, rows, strict=True):
        speed.annotate(
            f"{row['ratio']:.1f}x", (place + 0.2, row["fast_bytes_per_s"]), xytext=(0, 2), textcoords="offset points",
            ha="center",
        )  # fmt: skip
    labels = [f"{row['size'].replace(', ', chr(10))}\nmemory {row['memory']:,}" for row in rows]
    speed.set_xticks(places, labels, fontsize=8)
    speed.set(ylabel="training bytes per second", yscale="log")
    speed.legend()
    scores = results.get("learning", [])
    for model, style in zip(dict.fromkeys(row["model"] for row in scores), styles(), strict=False):
        points = [(row["minutes"] * row["threads"], row["valid_bpc"]) for row in scores if row["model"] == model]
        minutes, bpc = zip(*points, strict=True)
        curve(learning, minutes, bpc, marker="o", markevery=None, label=drawable(model), **style)
    learning.set(xlabel="minutes of training, times threads", ylabel="valid bits per byte", xlim=(0, None))
    learning.grid(alpha=0.3)
    if scores:
        learning.legend()
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG; whole or not at all."""
    with replacing(Path(path)) as file:
        file.write(png(figure))


def finite(value: float | None) -> float | None:
    """The number, or None if there is none: None, infinite or not a number."""
    return value if value is not None and math.isfinite(value) else None


class MovingAverage:
    """Exponential moving average that starts unbiased: call it with one value after the other.

    None and what is not finite give None, and do not count.
    """

    def __init__(self, keep: float = 0.95):
        self.keep, self.sum, self.weight = keep, 0.0, 0.0

    def __call__(self, value: float | None) -> float | None:
        value = finite(value)
        if value is None:
            return None
        self.sum = self.keep * self.sum + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.sum / self.weight


def smooth(values: list[float | None], keep: float = 0.95) -> list[float | None]:
    return list(map(MovingAverage(keep), values))


def png(figure: Figure) -> bytes:
    """The picture's bytes in 256 colours, a third of the size; without metadata that would differ between machines."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, dpi=120)
    Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(small, "png", optimize=True)
    return small.getvalue()


@dataclass(frozen=True)
class Picture:
    """A figure for a notebook's display, with the words for a reader who cannot see it.

    As HTML, since JupyterLab shows a bare PNG without its alternative text.
    """

    figure: Figure
    alt: str

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        image = base64.b64encode(png(self.figure)).decode()
        return {"text/html": img_tag(image, self.alt), "text/plain": self.alt}


def img_tag(image: str, alt: str) -> str:
    """A PNG in base64 with its alternative text, as HTML."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{image}">'


# A picture's title says what was found, in a sentence; its axes say of what, with units.


def _single(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", weight="bold", fontsize=11, wrap=True)
    return figure, axes


def ladder(rows: dict[str, float], own: str, title: str = "", networks: Collection[str] = ()) -> Figure:
    """Bits per byte as horizontal bars, in the order given.

    The bar called `own` stands out; those in `networks` have a colour that a legend explains.
    """
    figure, axes = _single(0.45 * len(rows) + (1.2 if title else 0.9), title)
    widths = [finite(value) or 0 for value in rows.values()]
    colors = [BLUE if name == own else GREEN if name in networks else GREY for name in rows]
    bars = axes.barh(range(len(rows)), widths, color=colors)
    if networks:
        meanings = {own: BLUE, "networks": GREEN, "counting and compressors": GREY}
        handles = [Patch(color=ink, label=drawable(name)) for name, ink in meanings.items()]
        axes.legend(handles=handles, loc="lower right")
    signs = ["no score" if finite(value) is None else f"{value:.2f}" for value in rows.values()]
    axes.bar_label(bars, signs, padding=3)
    axes.set_yticks(range(len(rows)), map(drawable, rows))
    axes.invert_yaxis()
    axes.set(xlabel="bits per byte", xlim=(0, max([8.8, *(1.1 * width for width in widths)])))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def lines(
    x: Sequence[float | str],
    curves: dict[str, Sequence[float | None]],
    xlabel: str,
    ylabel: str,
    reference: str | None = None,
    yscale: str = "linear",
    title: str = "",
) -> Figure:
    """Curves over x, named where they end if there is room; the one named `reference` is drawn dashed and grey."""
    figure, axes = _single(3.6, title)
    looks = styles()
    for name, values in curves.items():
        style: dict[str, Any] = {"color": GREY, "linestyle": "--"} if name == reference else next(looks)
        curve(axes, x, values, yscale == "log", **style, label=drawable(name))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0] and not _named_at_the_end(figure, axes):
        axes.legend()
    return figure


def _named_at_the_end(figure: Figure, axes: Axes) -> bool:
    """Writes each curve's name right of its last point; False, and nothing written, where two would touch."""
    figure.draw_without_rendering()
    points = [np.asarray(line.get_xydata(), float) for line in axes.lines]  # each (n, 2)
    ends = [there[np.isfinite(there[:, 1])][-1] for there in points]
    heights = sorted(axes.transData.transform(ends)[:, 1])
    one_line = 12 * figure.dpi / 72
    if len({end[0] for end in ends}) > 1 or any(b - a < one_line for a, b in zip(heights, heights[1:], strict=False)):
        return False
    axes.set_xlim(right=ends[0][0])
    axes.spines["right"].set_visible(False)
    for line, end in zip(axes.lines, ends, strict=True):
        axes.annotate(
            str(line.get_label()).strip(), tuple(end), xytext=(4, 0), textcoords="offset points", va="center",
            color=str(line.get_color()), fontsize=9, annotation_clip=False,
        )  # fmt: skip
    return True


def styles() -> Iterator[dict]:
    """Of one curve after the other in a picture; after nine they begin again."""
    return cycle({"color": ink, "linestyle": dashes} for dashes in ("-", "-.", ":") for ink in (BLUE, ORANGE, GREEN))


def _several(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height + (0.3 if title else 0)), layout="constrained")
    if title:
        figure.suptitle(title, weight="bold", fontsize=11)
    return figure


def paths(x: list[int], panels: dict[str, list[list[float]]], xlabel: str, ylabel: str, title: str = "") -> Figure:
    """Title -> several numbers for each x: a panel each, side by side on one scale."""
    figure = _several(9, 3.4, title)
    for axes, (name, values) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        axes.plot(x, values, color=BLUE, linewidth=1, alpha=0.8, marker="o" if len(x) == 1 else None)
        axes.set(title=drawable(name), xlabel=xlabel)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(ylabel)
    return figure


def heat_maps(
    grids: dict[str, list[list[float | None]]],
    xlabel: str,
    xticks: list,
    ylabel: str,
    yticks: list,
    columns: int,
    limit: float,
    title: str = "",
) -> Figure:
    """Title -> a row per ytick and a column per xtick, the number in each field.

    All have one scale of colours, which ends at `limit`; None, where there is no number, counts as above it.
    """
    n_rows = -(-len(grids) // columns)
    figure = _several(3.6 * columns, 0.5 * len(yticks) * n_rows + 1.1, title)
    panels = figure.subplots(n_rows, columns, sharex=True, sharey=True, squeeze=False)
    values = [value for grid in grids.values() for row in grid for value in row if value is not None]
    low = min([*values, limit])
    for axes in panels.flat[len(grids) :]:
        axes.remove()
    for axes, (name, grid) in zip(panels.flat, grids.items(), strict=False):
        filled = [[limit if value is None else value for value in row] for row in grid]
        axes.imshow(filled, cmap="cividis", vmin=low, vmax=limit, aspect="auto")
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                dark = value is not None and value < (low + limit) / 2
                axes.text(
                    x, y, "-" if value is None else f"{value:.2f}", ha="center", va="center", fontsize=9,
                    color="white" if dark else "black",
                )  # fmt: skip
        axes.set_title(drawable(name), fontsize=10)
        axes.set_xticks(range(len(xticks)), xticks)
        axes.set_yticks(range(len(yticks)), yticks)
    for axes in panels[-1]:
        axes.set_xlabel(xlabel)
    for axes in panels[:, 0]:
        axes.set_ylabel(ylabel)
    return figure


def by_place(rows: dict[str, tuple[str, list[float]]], title: str = "") -> Figure:
    """Mean prices by place, a panel each: title -> (what the places are, bits at the first, second, ... place)."""
    figure = _several(9, 3.4, title)
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, (name, (places, bits)) in zip(panels, rows.items(), strict=True):
        names = [str(place) for place in range(1, len(bits))] + [f"{len(bits)} on"]
        bars = axes.bar(names, [finite(price) or 0 for price in bits], color=[ORANGE] + [BLUE] * (len(bits) - 1))
        axes.bar_label(bars, ["-" if finite(price) is None else f"{price:.2f}" for price in bits], padding=2)
        axes.set(title=drawable(name), xlabel=drawable(places))
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="mean bits")
    return figure
