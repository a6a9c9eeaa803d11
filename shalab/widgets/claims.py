"""An attack with a control: what would be published, beside all that a receiver must be told."""

from typing import Any

import traitlets
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from shalab.errors import InputError
from shalab.plots import BLUE, GREEN, GREY, ORANGE, drawable, finite
from shalab.tokenization import Claim, honest_bits_per_byte, table
from shalab.widgets.base import Widget, above, source


class ClaimDial(Widget):
    """Claims about one text, one for each setting of an attack.

    claims   in the order of the slider
    setting  what the slider sets, in words
    title    of the picture: what was found, in a sentence
    """

    _esm = source("claims")

    setting = traitlets.Unicode().tag(sync=True)
    # of each claim: name, tokens, perplexity or None, claimed, honest, parts
    rows: traitlets.List[Any] = traitlets.List().tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)  # index of rows

    def __init__(self, claims: list[Claim], setting: str, title: str = ""):
        if not claims:
            raise InputError("expected at least one claim, got none")
        self.claims, self.title = claims, title
        super().__init__(setting=setting, rows=list(map(_row, claims)))

    @traitlets.validate("shown")
    def _in_range(self, proposal):
        if not 0 <= proposal["value"] < len(self.rows):
            raise InputError(f"shown must be from 0 to {len(self.rows) - 1}, got {proposal['value']}")
        return proposal["value"]

    def picture(self) -> Figure:
        places = range(len(self.rows))
        figure = Figure(figsize=(9, 0.45 * len(self.rows) + (1.6 if self.title else 1.3)), layout="constrained")
        if self.title:
            figure.suptitle(self.title, weight="bold", fontsize=11)
        published, honest = figure.subplots(1, 2, sharey=True)
        # Dots, for a bar has no length on an axis without a zero.
        perplexities = [row["perplexity"] or 1 for row in self.rows]
        published.plot(perplexities, places, "o", color=GREY)
        for place, perplexity in zip(places, perplexities, strict=True):
            published.annotate(
                above(self.rows[place]["perplexity"]), (perplexity, place), xytext=(0, 5), textcoords="offset points",
                ha="center", fontsize="small",
            )  # fmt: skip
        # From a little below 1, the least that a perplexity can be.
        published.set(xlabel="published: perplexity per token", xscale="log", xlim=(0.6, 6 * max(perplexities)))
        if max(perplexities) < 1e6:  # 1 and not 10⁰
            published.xaxis.set_major_formatter("{x:,.0f}")
        published.xaxis.set_minor_formatter(NullFormatter())
        left = [0.0] * len(self.rows)
        for part, color in zip(self.rows[0]["parts"], (BLUE, GREEN, ORANGE, GREY), strict=True):
            width = [row["parts"][part] for row in self.rows]
            if any(width):
                honest.barh(places, width, left=left, color=color, label=part)
            left = [a + b for a, b in zip(left, width, strict=True)]
        for place, total in zip(places, left, strict=True):
            honest.annotate(f"{total:.3f}", (total, place), xytext=(3, 0), textcoords="offset points", va="center")
        honest.set(xlabel="honest: bits per byte", xlim=(0, 1.2 * max(left) or 1))
        honest.set_yticks(places, [drawable(row["name"]) for row in self.rows])
        honest.invert_yaxis()
        figure.legend(*honest.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        for axes in (published, honest):
            axes.spines[["top", "right"]].set_visible(False)
        return figure

    def summary(self) -> str:
        return f"{self.setting}\n{table(self.claims)}"


def _row(claim: Claim) -> dict:
    return {
        "name": claim.name,
        "tokens": len(claim.nats),
        "perplexity": finite(claim.perplexity),
        "claimed": claim.claimed_bits_per_byte,
        "honest": honest_bits_per_byte(claim),
        "parts": {name: bits / len(claim.text) for name, bits in claim.bits().items()},
    }
