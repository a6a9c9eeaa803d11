"""A text to type, read and written by the trained network inside the page."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure

from shalab.checkpoint import load_model
from shalab.errors import COUNT, InputError, real, refuse, whole, wrong
from shalab.model import SHARNN
from shalab.pages.weights import packed
from shalab.run import Run
from shalab.widgets.base import Widget, as_bytes, source
from shalab.widgets.surprise import MAX_BYTES, SurpriseMap, byte_bits

TEXT = "The town of Bath is a town in England. The town of Bath is a town in England. The tower of Bath"
WITHOUT = "without memory"
CHECKS = {
    "temperature": ("a number from 0 to 2", lambda x: real(x) and 0 <= x <= 2),
    "top_p": ("a number above 0 and at most 1", lambda x: real(x) and 0 < x <= 1),
    "seed": ("an integer from 0 to below 2^31", lambda x: whole(x) and 0 <= x < 2**31),
    "n_bytes": COUNT,
}


class Playground(Widget):
    """Type or paste a text: each byte is coloured by what it cost, as it is read; then let the network write on.

    models  a model, a run, or the folder of a run or model; or name -> one of these, to compare them: the first one
            writes, and all are read with. It also reads without its memory, if it has any
    text    at most 20,000 bytes, to begin with

    The network computes in the browser, with weights rounded to float16, one byte after the other; no kernel takes
    part. A seed repeats what is written there, but not what `shalab generate` writes: the draws are the same function
    of other random numbers. `text`, `scores` (bits per byte by reader), `temperature`, `top_p`, `seed` and
    `n_bytes` follow the page, and all but `scores` can be set.
    """

    _esm = source("network", "playground")

    weights = traitlets.Dict().tag(sync=True)  # model's name -> what `packed` wrote
    readers: traitlets.List[Any] = traitlets.List().tag(sync=True)  # name, whose weights, with memory or not
    text = traitlets.Bytes().tag(sync=True, from_json=lambda value, _: bytes(value))
    shown = traitlets.Int(0).tag(sync=True)  # a reader, or behind them another one's difference to the first
    temperature = traitlets.Float(0.8).tag(sync=True)
    top_p = traitlets.Float(1.0).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    n_bytes = traitlets.Int(300).tag(sync=True)  # to write
    scores = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        models: SHARNN | Run | Path | str | dict[str, SHARNN | Run | Path | str],
        text: str | bytes | np.ndarray = TEXT,
    ):
        given = models if isinstance(models, dict) else {"the model": models}
        if not given:
            raise InputError("expected at least one model, got none")
        self.models = {name: _model(name, model) for name, model in given.items()}
        readers = [{"name": name, "weights": name, "memory": True} for name in self.models]
        first = next(iter(self.models))
        if self.models[first].config.attention_layers:
            readers.append({"name": f"{first}, {WITHOUT}", "weights": first, "memory": False})
        weights = {name: packed(model) for name, model in self.models.items()}
        super().__init__(weights=weights, readers=readers, text=as_bytes(text))

    @traitlets.validate("text")
    def _short(self, proposal):
        if len(proposal["value"]) > MAX_BYTES:
            raise InputError(f"the text must have at most {MAX_BYTES:,} bytes, got {len(proposal['value']):,}")
        return proposal["value"]

    @traitlets.validate("shown")
    def _there(self, proposal):
        n = 2 * len(self.readers) - 1
        if not 0 <= proposal["value"] < n:
            raise InputError(f"shown must be from 0 to {n - 1}, got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate(*CHECKS)
    def _possible(self, proposal):
        name = proposal["trait"].name
        refuse(wrong(CHECKS[name], **{name: proposal["value"]}))
        return proposal["value"]

    def picture(self) -> Figure:
        return self._map().picture()

    def summary(self) -> str:
        return self._map().summary()

    def _map(self) -> SurpriseMap:
        """The same bits by PyTorch in float32: where the memory overflows, byte after byte as in the page."""
        text, bits = self.text or b"\n", {}  # a map shows one byte at least
        for reader in self.readers:
            model = copy.copy(self.models[reader["weights"]])
            if not reader["memory"]:
                model.max_context = 0
            bits[reader["name"]] = byte_bits(model, text, window=1024 if len(text) <= model.max_context else 1)
        shown = SurpriseMap(text, bits)
        shown.shown = self.shown
        return shown


def _model(name: str, model: SHARNN | Run | Path | str) -> SHARNN:
    if isinstance(model, SHARNN):
        return model
    if isinstance(model, Run):
        model = model.folder
    if isinstance(model, Path | str):
        return load_model(Path(model))
    raise InputError(f"{name!r} must be a model, a run or a folder, got {type(model).__name__}")
