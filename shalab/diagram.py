"""One picture of the whole model, shown in every notebook with the part at hand lit.

    model_diagram("head", "memory")

Imported by the notebooks, by nothing else.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from shalab.errors import InputError
from shalab.plots import BLUE, Picture

# part -> (left, bottom, width, height, label); the way of a byte goes from the bottom to the top
PARTS = {
    "bytes": (0.4, 0.2, 3.2, 0.7, "bytes  … [ [ A u s t"),
    "embedding": (0.4, 1.4, 3.2, 0.7, "embedding: a row per byte"),
    "lstm": (0.4, 3.0, 3.2, 0.8, "LayerNorm, LSTM"),
    "head": (0.4, 4.55, 3.2, 0.8, "LayerNorm, single head"),
    "boom": (0.4, 6.25, 3.2, 0.8, "LayerNorm, Boom"),
    "decoder": (0.4, 7.7, 3.2, 0.7, "same embedding: logits"),
    "loss": (0.4, 8.9, 3.2, 0.7, "price of the byte that came"),
    "memory": (5.2, 4.55, 3.6, 0.8, "memory: a row per byte read"),
    "state": (5.2, 3.0, 3.6, 0.8, "state (h, c) carried over"),
    "lamb": (5.2, 8.9, 3.6, 0.7, "min-trust LAMB: all weights"),
}
WAYS = (("bytes", "embedding"), ("embedding", "lstm"), ("lstm", "head"), ("head", "boom"), ("boom", "decoder"),
        ("decoder", "loss"))  # fmt: skip
LIT, DIM, INK = BLUE, "#EEF1F4", "#333333"


def model_diagram(*lit: str) -> Picture:
    """The model from bytes to loss; `lit`, some of PARTS, are coloured.

    Raises InputError for a part that is not in the picture.
    """
    if unknown := [part for part in lit if part not in PARTS]:
        raise InputError(f"no part {', '.join(unknown)}; the picture shows {', '.join(PARTS)}")
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-1.3, 9), ylim=(0, 9.8))
    axes.axis("off")
    axes.add_patch(FancyBboxPatch((-1.2, 2.6), 5.1, 4.82, boxstyle="round,pad=0.06", fill=False, ec=INK, ls="--"))
    axes.text(4.2, 7.25, "one block; the model stacks several.\nOnly one of them has the head.", va="top", color=INK)
    for part, (left, bottom, width, height, label) in PARTS.items():
        box = FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.06", ec=INK, lw=0.8)
        box.set_facecolor(LIT if part in lit else DIM)
        axes.add_patch(box)
        axes.text(left + width / 2, bottom + height / 2, label, ha="center", va="center",
                  color="white" if part in lit else INK, weight="bold" if part in lit else "normal")  # fmt: skip
    for start, end in WAYS:
        _arrow(axes, (2.0, _top(start)), (2.0, PARTS[end][1] - 0.06))
    for part, below in (("head", "lstm"), ("boom", "head")):  # what goes past the head and past Boom is normalised, too
        fork, sum_ = _top(below) + (0.25 if below == "lstm" else 0.5), _top(part) + 0.27
        axes.plot([2.0, -0.55, -0.55, 2.0], [fork, fork, sum_, sum_], color=INK, lw=0.9)
        axes.text(-0.55, PARTS[part][1] + PARTS[part][3] / 2, "LayerNorm", ha="center", va="center", color=INK,
                  size="small", rotation=90, bbox={"boxstyle": "round", "fc": DIM, "ec": INK, "lw": 0.8})  # fmt: skip
        axes.text(2.0, sum_, "+", ha="center", va="center", color=INK, weight="bold",
                  bbox={"boxstyle": "circle,pad=0.1", "fc": "white", "ec": INK, "lw": 0.8})  # fmt: skip
    for part, name, label in (("state", "lstm", "starts from"), ("memory", "head", "looked up")):
        height = PARTS[part][1] + PARTS[part][3] / 2
        _arrow(axes, (PARTS[part][0] - 0.06, height), (PARTS[name][0] + PARTS[name][2] + 0.06, height))
        axes.text(4.5, height + 0.12, label, ha="center", color=INK, size="small")
    _arrow(axes, (3.66, 9.25), (5.14, 9.25))
    axes.text(4.4, 9.37, "gradient", ha="center", color=INK, size="small")
    named = " and ".join(PARTS[part][4].split(":")[0] for part in lit) or "nothing"
    return Picture(
        figure,
        "Diagram of the model. Bytes become rows of the embedding, pass through a block of LayerNorm and "
        "LSTM, LayerNorm and single head, LayerNorm and Boom, and are turned into 256 logits by the same "
        "embedding; from them follows the price of the byte that came. The LSTM starts from the state carried "
        "over, the head looks into a memory with a row per byte read. The gradient of the price goes to min- "
        "trust LAMB, which changes all weights. "
        f"Lit: {named}.",
    )


def _top(part: str) -> float:
    return PARTS[part][1] + PARTS[part][3] + 0.06


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9})
