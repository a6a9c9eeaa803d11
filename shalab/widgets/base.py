"""What all widgets share: their files, and what remains of them where no kernel runs."""

import base64
from pathlib import Path

import anywidget
import numpy as np
from matplotlib.figure import Figure

from shalab.errors import InputError
from shalab.plots import png

_FOLDER = Path(__file__).parent


def source(*names: str) -> str:
    """The ESM of a widget: the shared functions of common.js, then the named files. No build step, no network."""
    return "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in ("common", *names))


def as_bytes(text: str | bytes | np.ndarray) -> bytes:
    """A text as its bytes: a str in UTF-8, a corpus' (N,) uint8 as it is."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes) or (isinstance(text, np.ndarray) and text.dtype == np.uint8 and text.ndim == 1):
        return bytes(text)
    raise InputError(f"a text must be str, bytes or an (N,) array of uint8, got {type(text).__name__}")


def printable(data: bytes) -> str:
    """Control characters, and bytes that are no whole UTF-8 character, as escapes."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def above(perplexity: float | None) -> str:
    """A perplexity, or None for one that no float holds."""
    return "above 10^308" if perplexity is None else f"{perplexity:,.2f}"


class Widget(anywidget.AnyWidget):
    """A live view, a picture of it and its main numbers as text, in one display bundle.

    A subclass names its ESM by `_esm = source("its_name")` and says what `picture` and `summary` are. Both are
    functions of the data alone, so that a notebook that is executed again stores the same output.
    """

    _css = (_FOLDER / "widgets.css").read_text(encoding="utf-8")
    displayed = False  # in a notebook, at least once

    def picture(self) -> Figure:
        """What a reader sees on GitHub, in an export, or in a notebook that is not trusted."""
        raise NotImplementedError

    def summary(self) -> str:
        """The main numbers, for a screen reader, for a terminal and for nbval."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        self.displayed = True
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        image = base64.b64encode(png(self.picture())).decode()
        return {**data, "text/plain": self.summary(), "image/png": image}, metadata
