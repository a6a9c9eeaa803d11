"""A text coloured by what each byte cost, under one model or several."""

from typing import Any

import numpy as np
import torch
import traitlets
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from shalab.device import Precision
from shalab.errors import InputError
from shalab.evaluate import charges
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN
from shalab.plots import curve, drawable, styles
from shalab.widgets.base import Widget, as_bytes, source

MAX_BYTES = 20_000  # every byte is a node of the page


def byte_bits(
    model: SHARNN, text: str | bytes | np.ndarray, skip: int = 0, precision: Precision | None = None, window: int = 1024
) -> np.ndarray:
    """What each byte of text[skip:] costs, (N - skip,) in bits, after the model has read text[:skip].

    The first byte of a text has nothing before it and costs log2(V) bits, as in `shalab.evaluate.evaluate`.
    precision  None takes float32 on the device where the model is
    window     bytes per step: a window sees all of itself, so with max_context 0 and window 1 nothing is
               looked back at
    """
    data = np.frombuffer(as_bytes(text), np.uint8)
    if not 0 <= skip < len(data):
        raise InputError(f"skip must be from 0 to below the text's {len(data)} bytes, got {skip}")
    precision = precision or Precision.pick(next(model.parameters()).device.type, "float32")
    begin = max(skip, 1)
    parts = [torch.zeros(0)]
    if begin < len(data):
        parts += [part[:, 0] for part in charges(model, data, begin, len(data), precision, window)]
    first = [] if skip else [np.log2(model.config.vocab_size)]
    return np.concatenate([first, torch.cat(parts).numpy() / NATS_PER_BIT])


class SurpriseMap(Widget):
    """Hover over a byte, or move with the arrow keys, to see what it cost.

    text  the bytes that were charged, at most 20,000
    bits  (N,) what each cost; or model's name -> (N,), to compare models on one text: the difference of
          each to the first can be shown, too
    """

    _esm = source("surprise")

    text = traitlets.Bytes().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of what can be shown: models, then differences
    n_models = traitlets.Int().tag(sync=True)
    bits = traitlets.Bytes().tag(sync=True)  # float32, (names, N)
    # for each name, the bytes with the largest numbers, largest first
    costly: traitlets.List[Any] = traitlets.List().tag(sync=True)
    shown = traitlets.Int(0).tag(sync=True)  # index of names
    cursor = traitlets.Int(0).tag(sync=True)  # index of text

    def __init__(self, text: str | bytes | np.ndarray, bits: np.ndarray | dict[str, np.ndarray]):
        text = as_bytes(text)
        if not 0 < len(text) <= MAX_BYTES:
            raise InputError(f"the text must have 1 to {MAX_BYTES:,} bytes, got {len(text):,}; pass a part of it")
        models = bits if isinstance(bits, dict) else {"model": bits}
        if not models:
            raise InputError("expected the bits of at least one model, got none")
        rows = [_checked(name, row, len(text)) for name, row in models.items()]
        first, *others = models
        names = [first, *others, *(f"{name} − {first}" for name in others)]
        self.values = np.array(rows + [row - rows[0] for row in rows[1:]])  # (names, N), float64
        super().__init__(
            text=text, names=names, n_models=len(rows), bits=self.values.astype("<f4").tobytes(),
            costly=[np.argsort(-abs(row), kind="stable")[:10].tolist() for row in self.values],
        )  # fmt: skip

    @classmethod
    def from_model(cls, model: SHARNN, text: str | bytes | np.ndarray, skip: int = 0, **reading) -> "SurpriseMap":
        """Reads text[:skip] without charging or showing it; reading: precision and window of `byte_bits`."""
        return cls(as_bytes(text)[skip:], byte_bits(model, text, skip, **reading))

    @traitlets.validate("shown", "cursor")
    def _in_range(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        n = len(self.names) if name == "shown" else len(self.text)
        if not 0 <= value < n:
            raise InputError(f"{name} must be from 0 to {n - 1}, got {value}")
        return value

    def picture(self) -> Figure:
        values, difference = self.values[self.shown], self.shown >= self.n_models
        columns = min(72, len(self.text))
        n_rows = min(10, -(-len(self.text) // columns))
        shown = self.text[: columns * n_rows]
        grid = np.full(columns * n_rows, np.nan)
        grid[: len(shown)] = values[: len(shown)]
        figure = Figure(figsize=(9, 0.22 * n_rows + 2.2), layout="constrained")
        page, below = figure.subplots(2, 1, height_ratios=(0.22 * n_rows, 1.8))
        scale = LinearSegmentedColormap.from_list("surprise", ["#56b4e9", "white", "#e8820c"])
        page.imshow(grid.reshape(n_rows, columns), cmap=scale, vmin=-8, vmax=8, aspect="auto")
        for i, byte in enumerate(shown):
            sign = "↵" if byte == 10 else chr(byte) if 32 <= byte < 127 else "·"
            page.text(
                i % columns, i // columns, sign, ha="center", va="center", family="monospace", fontsize=8,
                parse_math=False,
            )  # fmt: skip
        page.set_axis_off()
        page.set_title(
            f"{drawable(self.names[self.shown])}: the first {len(shown):,} of {len(self.text):,} bytes", fontsize=10
        )
        rows = [self.shown] if difference else range(self.n_models)
        read = np.arange(1, len(self.text) + 1)
        for row, style in zip(rows, styles(), strict=False):
            curve(below, read, self.values[row].cumsum() / read, **style, label=drawable(self.names[row]))
        below.set(xlabel="bytes read", ylabel="running mean, bits")
        below.grid(alpha=0.3)
        below.legend()
        return figure

    def summary(self) -> str:
        lines = [f"{len(self.text):,} bytes"]
        for i, (name, row) in enumerate(zip(self.names, self.values, strict=True)):
            sign = "+" if i >= self.n_models else ""
            lines.append(f"{name}: {row.mean():{sign}.3f} bits per byte, {row.sum():{sign},.1f} bits in all")
        top = ", ".join(f"{self._quoted(i)} {self.values[self.shown, i]:.2f}" for i in self.costly[self.shown][:5])
        largest = "largest differences" if self.shown >= self.n_models else "most expensive"
        return "\n".join([*lines, f"{largest}, at position: {top}"])

    def _quoted(self, i: int) -> str:
        return f"{i} {str(self.text[i : i + 1])[1:]}"


def _checked(name: str, bits: np.ndarray, n_bytes: int) -> np.ndarray:
    row = np.asarray(bits, np.float64)
    if row.shape != (n_bytes,):
        raise InputError(f"the bits of {name!r} must be ({n_bytes},), one for each byte, got shape {row.shape}")
    fits = np.isfinite(row) & (row >= -1e-6)  # rounding may leave a certain byte just below 0
    if not fits.all():
        raise InputError(f"the bits of {name!r} must be finite and at least 0, got {row[~fits][:3]}")
    return row.clip(0)
