"""Pictures. Imported by the command line and the notebooks, by nothing else."""

from pathlib import Path

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
        [line["n_bytes"] / 1e6 for line in steps], _smooth([line["bpc"] for line in steps]),
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
    axes.set(xlabel="bytes read, millions", ylabel="bits per byte", ylim=(low - 0.2, 5), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG, without the metadata that would differ from one machine to the next."""
    with matplotlib.rc_context({"svg.hashsalt": "shalab"}):
        figure.savefig(path, dpi=120, metadata={"Software": None})


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential moving average that starts unbiased."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
