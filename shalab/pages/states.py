"""What a page keeps of a widget: its traits, and what Python would have answered from.

`store` runs in the kernel of a notebook that has been executed, where the widgets are.
"""

import base64
import json
from functools import singledispatch
from pathlib import Path
from typing import Any

from ipywidgets.widgets.widget import _instances

from shalab.widgets import AttentionExplorer, BoomExplorer, Dashboard, GuessingGame, TokenExplorer
from shalab.widgets.base import Widget
from shalab.widgets.boom import example, stacked
from shalab.widgets.guessing import FEWEST

OWN = {"_esm", "_css", "_anywidget_id", "_model_id"}  # of anywidget: they are kept once, or not needed
XZ_EVERY = 50  # bytes of a passage between two sizes that are kept: each takes a second or two


@singledispatch
def facts(widget: Widget) -> dict[str, Any]:
    """What answers.js needs beside the traits, to say what Python would."""
    return {}


@facts.register
def _(widget: BoomExplorer) -> dict[str, Any]:
    layers = [example(chunks) for chunks in range(1, max(8, widget.chunks) + 1)]
    return {
        "examples": [rows.tolist() for rows in layers],
        "bottoms": [stacked(rows).round(2).tolist() for rows in layers],
    }


@facts.register
def _(widget: TokenExplorer) -> dict[str, Any]:
    return {"bits": widget.bits.tolist(), "lengths": [lengths.tolist() for lengths in widget.lengths]}


@facts.register
def _(widget: AttentionExplorer) -> dict[str, Any]:
    """The views of all heads, by block and head; the one that is shown is a trait already."""
    chosen, views = (widget.block, widget.head), {}
    for block, weights in widget._weights.items():
        for head in range(len(weights)):
            widget.block, widget.head = block, head
            views[f"{block} {head}"] = widget._view
    widget.block, widget.head = chosen
    return {"views": views}


@facts.register
def _(widget: GuessingGame) -> dict[str, Any]:
    xz = {n: widget._xz(n) for n in (0, FEWEST, *range(XZ_EVERY, widget.n_bytes + 1, XZ_EVERY)) if n <= widget.n_bytes}
    prices = {name: bits.tolist() for name, bits in widget._prices.items()}
    return {"passage": widget.passage.decode(), "prices": prices, "xz": xz}


def state(widget: Widget) -> dict[str, Any]:
    """Its kind, script, style, traits and facts; raw bytes are bytes still."""
    known = set(widget.keys) - set(Widget.class_trait_names()) - OWN
    traits = widget.get_state(known)
    if isinstance(widget, Dashboard):
        traits["history"]["machine"] = ""  # a page may be published
    return {
        "kind": type(widget).__name__, "esm": widget._esm, "css": widget._css, "traits": traits, "facts": facts(widget),
    }  # fmt: skip


def store(path: Path) -> None:
    """Writes the states of this kernel's widgets that were displayed, by model id, as JSON."""
    found = {
        name: state(widget) for name, widget in _instances.items() if isinstance(widget, Widget) and widget.displayed
    }
    path.write_text(as_json(found), encoding="utf-8")


def as_json(value: Any) -> str:
    return json.dumps(value, default=_encoded, allow_nan=False)


def _encoded(value: Any) -> Any:
    """Raw bytes for JSON; shim.js turns them into what a kernel's would be in the browser."""
    if isinstance(value, (bytes, memoryview)):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(f"no JSON for {type(value)}")
