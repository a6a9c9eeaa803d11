"""One step of an LSTM unit as a picture, whole or question by question. Imported by notebook 02, by nothing else.

cell_diagram("keep", old_c=0.930, f=0.018, kept=0.017)
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from shalab.errors import InputError
from shalab.plots import BLUE, Picture

INK, DIM, GATE, CANDIDATE = "#333333", "#D9D9D9", "#F6D9C8", "#D3E5F1"
QUESTIONS = {
    "keep": "How much of c stays?",
    "let in": "What is added to c?",
    "say": "What is said?",
}
# name -> where it is, what is computed, what it decides, colour, the question it belongs to
GATES = {
    "f": (3.0, "σ(f)", "keep?", GATE, "keep"),
    "i": (4.6, "σ(i)", "let in?", GATE, "let in"),
    "g": (6.4, "tanh(g)", "what?", CANDIDATE, "let in"),
    "o": (8.4, "σ(o)", "say it?", GATE, "say"),
}
# line or sign -> the question it belongs to
LINES = (
    (((0.4, 4.6), (2.7, 4.6)), "keep"), (((3.3, 4.6), (5.2, 4.6)), "keep"), (((5.8, 4.6), (10.6, 4.6)), "let in"),
    (((3.0, 2.06), (3.0, 4.28)), "keep"), (((4.6, 2.06), (4.6, 3.3), (5.2, 3.3)), "let in"),
    (((6.4, 2.06), (6.4, 3.3), (5.82, 3.3)), "let in"), (((5.5, 3.62), (5.5, 4.28)), "let in"),
    (((9.4, 4.6), (9.4, 3.32)), "say"), (((8.4, 2.06), (8.4, 3.0), (9.08, 3.0)), "say"),
    (((9.72, 3.0), (10.6, 3.0)), "say"),
)  # fmt: skip
SIGNS = ((3.0, 4.6, "×", "keep"), (5.5, 3.3, "×", "let in"), (5.5, 4.6, "+", "let in"), (9.4, 3.0, "×", "say"))
ENDS = {"old_c": (0.3, 4.6, "right", "old c", "keep"), "new_c": (10.7, 4.6, "left", "new c", "let in"),
        "new_h": (10.7, 3.0, "left", "new h", "say")}  # fmt: skip
BETWEEN = {"kept": (4.2, 4.8), "added": (5.65, 3.9)}  # results on the way


def cell_diagram(question: str | None = None, **numbers: float) -> Picture:
    """The gates of one unit, and c as a straight way with one factor and one sum.

    question  one of QUESTIONS: its part alone is in colour; None: all of it
    numbers   values to write beside f, i, g, o (after sigma or tanh), old_c, kept, added, new_c, new_h

    Raises InputError for another question or name.
    """
    known = {*GATES, *ENDS, *BETWEEN}
    if question is not None and question not in QUESTIONS or not known.issuperset(numbers):
        raise InputError(
            f"expected one of {', '.join(QUESTIONS)} and numbers for {', '.join(sorted(known))}, "
            f"got {question!r} and {', '.join(numbers)}"
        )
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.8, 12), ylim=(0, 5.3), aspect="equal")
    axes.axis("off")
    title = QUESTIONS[question] if question else "c runs straight through: one factor, one sum"
    axes.set_title(title, loc="left", weight="bold", fontsize=11)

    def ink(part: str, color: str = INK) -> str:
        return color if question in (None, part) else DIM

    for points, part in LINES:
        straight = points[0][1] == points[-1][1] == 4.6
        _arrow(axes, points, ink(part, BLUE if straight else INK), 3 if straight else 1.2)
    axes.plot((0.4, 8.4), (0.5, 0.5), color=INK, lw=1.2)
    axes.text(0.3, 0.5, "byte x,\nold h", ha="right", va="center", weight="bold", color=INK)
    for name, (x, computed, decides, color, part) in GATES.items():
        face = color if question in (None, part) else "white"
        axes.add_patch(FancyBboxPatch((x - 0.42, 1.4), 0.84, 0.6, boxstyle="round,pad=0.05", fc=face, ec=ink(part)))
        axes.text(x, 1.7, computed, ha="center", va="center", color=ink(part))
        told = f"{numbers[name]:.3f}" if name in numbers else decides
        axes.text(x + 0.14, 2.3, told, va="center", color=ink(part), fontsize=10 if name in numbers else 9)
        _arrow(axes, ((x, 0.5), (x, 1.32)), ink(part), 1.2)
    axes.text(9.55, 3.95, "tanh", va="center", fontsize=9, color=ink("say"))
    for x, y, sign, part in SIGNS:
        axes.add_patch(Circle((x, y), 0.3, fc="white", ec=ink(part), lw=1.2, zorder=3))
        axes.text(x, y, sign, ha="center", va="center", fontsize=13, zorder=4, color=ink(part))
    for name, (x, y, side, label, part) in ENDS.items():
        told = f"{label}\n{numbers[name]:.3f}" if name in numbers else label
        color = ink(question if name in numbers and question else part, BLUE if y == 4.6 else INK)
        axes.text(x, y, told, ha=side, va="center", color=color, weight="bold")
    for name, (x, y) in BETWEEN.items():
        if name in numbers:
            axes.text(x, y, f"{numbers[name]:.3f}", ha="center" if name == "kept" else "left", color=INK)
    told = ", ".join(f"{name.replace('_', ' ')} {number:.3f}" for name, number in numbers.items())
    return Picture(
        figure,
        "One step of an LSTM unit. The old c runs along a straight line at the top: it is multiplied by sigma(f), then "
        "sigma(i) times tanh(g) is added, and that is the new c. The new h is sigma(o) times tanh of the new c. f, i, "
        "g and o are all computed from the byte x and the old h."
        + (f" In colour: {QUESTIONS[question]}" if question else "")
        + (f" Toy numbers: {told}." if told else ""),
    )


def _arrow(axes: Axes, points: tuple[tuple[float, float], ...], color: str, width: float) -> None:
    """A line through the points with a head at the last one."""
    axes.plot(*zip(*points, strict=True), color=color, lw=width)
    axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": color, "lw": width})
