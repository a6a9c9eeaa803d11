"""A slider over pictures that were made beforehand."""

import base64
from typing import Any

import traitlets
from matplotlib.figure import Figure

from shalab.plots import png
from shalab.widgets.base import Widget, source


class Frames(Widget):
    """One picture and one sentence for each value of a slider.

    name    what the slider changes
    frames  value -> (picture, what it shows); two or more values, in equal steps upwards
    whole   the picture where nothing can be moved; it shows what all frames show
    """

    _esm = source("frames")

    name = traitlets.Unicode().tag(sync=True)
    values: traitlets.List[Any] = traitlets.List().tag(sync=True)
    images: traitlets.List[Any] = traitlets.List().tag(sync=True)  # PNG in base64
    sentences: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, name: str, frames: dict[float, tuple[Figure, str]], whole: Figure):
        images = [base64.b64encode(png(figure)).decode() for figure, _ in frames.values()]
        sentences = [sentence for _, sentence in frames.values()]
        super().__init__(name=name, values=list(frames), images=images, sentences=sentences)
        self._whole = whole

    def picture(self) -> Figure:
        return self._whole

    def summary(self) -> str:
        return "\n".join(self.sentences)
