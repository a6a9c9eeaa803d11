"""One text under several tokenizations: what each piece costs, and what the tables would say."""

from typing import Any

import numpy as np
import traitlets
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shalab.errors import InputError
from shalab.metrics import NATS_PER_BIT, perplexity
from shalab.plots import drawable, finite
from shalab.tokenization import chop, grouped
from shalab.widgets.base import Widget, above, as_bytes, printable, source

MAX_BYTES = 2_000  # every piece is a node of the page, with its price
_SIGNS = {"\n": "↵", " ": "␣"}


class TokenExplorer(Widget):
    """Choose a tokenization, cut its pieces shorter, and walk over them with the arrow keys.

    text           the bytes that were charged, at most 2,000
    bits           (N,) what each byte cost under one model; a piece costs the sum over its bytes
    tokenizations  name -> how many bytes each piece takes, (M,)
    """

    _esm = source("tokens")

    text = traitlets.Bytes().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    longest_piece = traitlets.Int().tag(sync=True)  # bytes, of all tokenizations
    shown = traitlets.Int(0).tag(sync=True)  # index of names
    longest = traitlets.Int().tag(sync=True)  # pieces are cut into parts of so many bytes
    cursor = traitlets.Int(0).tag(sync=True)  # index of the pieces
    pieces: traitlets.List[Any] = traitlets.List().tag(sync=True)  # [bytes, bits] of each piece of what is shown
    # for each name: pieces, perplexity per piece (or None), bits per byte
    totals: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, text: str | bytes | np.ndarray, bits: np.ndarray, tokenizations: dict[str, np.ndarray]):
        text, self.bits = as_bytes(text), np.asarray(bits, float)
        if not 0 < len(text) <= MAX_BYTES:
            raise InputError(f"the text must have 1 to {MAX_BYTES:,} bytes, got {len(text):,}; pass a part of it")
        if self.bits.shape != (len(text),) or not np.isfinite(self.bits).all():
            raise InputError(f"expected finite bits of shape ({len(text)},), got shape {self.bits.shape} or others")
        if not tokenizations:
            raise InputError("expected at least one tokenization, got none")
        self.lengths = [np.asarray(lengths, np.int64) for lengths in tokenizations.values()]
        for lengths in self.lengths:
            grouped(self.bits, lengths)
        longest = int(max(map(max, self.lengths)))
        super().__init__(text=text, names=list(tokenizations), longest_piece=longest, longest=longest)

    @traitlets.validate("shown", "longest", "cursor")
    def _in_range(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        low, high = {
            "shown": (0, len(self.names) - 1), "longest": (1, self.longest_piece), "cursor": (0, len(self.pieces) - 1),
        }[name]  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"{name} must be from {low} to {high}, got {value}")
        return value

    @traitlets.observe("shown", "longest")
    def _compute(self, _):
        cuts = [chop(lengths, self.longest) for lengths in self.lengths]
        prices = [grouped(self.bits, cut) for cut in cuts]
        with self.hold_sync():
            self.totals = [
                [len(price), finite(perplexity(price.sum() * NATS_PER_BIT, len(price))), self.bits.mean()]
                for price in prices
            ]
            self.pieces = [
                list(row) for row in zip(cuts[self.shown].tolist(), prices[self.shown].tolist(), strict=True)
            ]
            self.cursor = min(self.cursor, len(self.pieces) - 1)

    def parts(self) -> list[bytes]:
        """The pieces of what is shown."""
        ends = np.cumsum([length for length, _ in self.pieces])
        return [self.text[end - n : end] for end, (n, _) in zip(ends, self.pieces, strict=True)]

    def picture(self) -> Figure:
        columns, rows = 76, 9
        x, y = 0.0, 0
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        axes = figure.subplots()
        scale = LinearSegmentedColormap.from_list("price", ["white", "#e8820c"])
        for part, (_, bits) in zip(self.parts(), self.pieces, strict=True):
            text = part.decode("utf-8", "backslashreplace")
            sign = "".join(_SIGNS.get(c, c if c.isprintable() and c < "\u0250" else "·") for c in text)
            sign = sign if len(sign) < columns else sign[: columns - 2] + "…"
            width = max(len(sign), 4) + 0.5  # room for the price
            if x + width > columns:
                x, y = 0.0, y + 1
            if y == rows:
                break
            axes.add_patch(
                Rectangle((x, y), width - 0.5, 0.9, facecolor=scale(min(1.0, bits / 16)), edgecolor="#7f7f7f")
            )
            axes.text(x + 0.2, y + 0.38, sign, va="center", family="monospace", fontsize=8, parse_math=False)
            axes.text(x + 0.2, y + 0.74, f"{bits:.1f}", va="center", fontsize=5.5)
            x += width
        axes.set(xlim=(0, columns), ylim=(rows, 0))
        axes.set_axis_off()
        axes.set_title(f"{drawable(self.names[self.shown])}: pieces and their bits, from the beginning", fontsize=10)
        return figure

    def summary(self) -> str:
        lines = [f"{len(self.text):,} bytes, {self.bits.sum():,.1f} bits under every tokenization"]
        for name, (n, ppl, bpb) in zip(self.names, self.totals, strict=True):
            lines.append(f"{name}: {n:,} pieces, perplexity {above(ppl)} per piece, {bpb:.3f} bits per byte")
        first = ", ".join(
            f"'{printable(part)}' {bits:.2f}" for part, (_, bits) in zip(self.parts()[:8], self.pieces, strict=False)
        )
        return "\n".join([*lines, f"{self.names[self.shown]} begins with: {first}"])
