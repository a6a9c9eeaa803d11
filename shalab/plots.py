"""Pictures. Imported by the command line and the notebooks, by nothing else."""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import matplotlib
from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"


def learning_curve(metrics: list[dict], references: dict[str, float] | None = None) -> Figure:
    """Training and validation bits per byte against bytes read, from the lines of metrics.jsonl.

    references: name -> bits per byte, drawn as dashed lines.
    """
    steps = [line for line in metrics if line["event"] == "step"]
    scores = [line for line in metrics if line["event"] == "eval"]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [line["n_bytes"] / 1e6 for line in steps], smooth([line["bpc"] for line in steps]),
        color=BLUE, linewidth=1.2, label="train (smoothed)",
    )  # fmt: skip
    axes.plot(
        [line["n_bytes"] / 1e6 for line in scores], [line["valid_bpc"] for line in scores],
        color=ORANGE, marker="o", markersize=4, label="valid",
    )  # fmt: skip
    for name, bpc in (references or {}).items():
        axes.axhline(bpc, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            name, (1, bpc), xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points",
            ha="right", color=GREY,
        )  # fmt: skip
    low = min([line["valid_bpc"] for line in scores] + list((references or {}).values()), default=1.0)
    axes.set(xlabel="bytes read, millions", ylabel="bits per byte", ylim=(low - 0.5, 5.5), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


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
    for model, color in zip(dict.fromkeys(row["model"] for row in scores), (BLUE, ORANGE, GREEN), strict=False):
        points = [(row["minutes"], row["valid_bpc"]) for row in scores if row["model"] == model]
        learning.plot(*zip(*points, strict=True), color=color, marker="o", label=model)
    learning.set(xlabel="minutes of training", ylabel="valid bits per byte", xlim=(0, None))
    learning.grid(alpha=0.3)
    learning.legend()
    return figure


def save(figure: Figure, path: Path | BinaryIO) -> None:
    """As PNG, without the metadata that would differ from one machine to the next."""
    with matplotlib.rc_context({"svg.hashsalt": "shalab"}):
        figure.savefig(path, dpi=120, metadata={"Software": None})


def smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average that starts unbiased."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result


def png(figure: Figure) -> bytes:
    """The picture's bytes, for a notebook's display."""
    buffer = io.BytesIO()
    save(figure, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Picture:
    """A figure for a notebook's display, with the words for a reader who cannot see it.

    As HTML, since JupyterLab shows a bare PNG without its alternative text.
    """

    figure: Figure
    alt: str

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        image = base64.b64encode(png(self.figure)).decode()
        tag = f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{image}">'
        return {"text/html": tag, "text/plain": self.alt}


def ladder(rows: dict[str, float]) -> Figure:
    """Bits per byte as horizontal bars, in the order given."""
    figure = Figure(figsize=(7.5, 0.45 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(rows), list(rows.values()), color=[GREY] * (len(rows) - 1) + [BLUE])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="bits per byte", xlim=(0, 8.8))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_place(rows: dict[str, tuple[str, list[float]]]) -> Figure:
    """Mean prices by place, a panel each: title -> (what the places are, bits at the first, second, ... place)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for axes, (title, (places, bits)) in zip(panels, rows.items(), strict=True):
        names = [str(place) for place in range(1, len(bits))] + [f"{len(bits)} on"]
        bars = axes.bar(names, bits, color=[ORANGE] + [BLUE] * (len(bits) - 1))
        axes.bar_label(bars, fmt="%.2f", padding=2)
        axes.set(title=title, xlabel=places)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set(ylabel="mean bits")
    return figure
