"""Guess first, then see: a number on a scale, or a curve that is drawn over empty axes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets
from matplotlib.figure import Figure

from shalab.errors import InputError, real
from shalab.plots import BLUE, ORANGE, Picture, curve, drawable, png
from shalab.widgets.base import Widget, source

PLACES = 25  # of a curve, at most, at which the reader says a number


class _Guess(Widget):
    """What both have: the guess is revealed once, and then compared in words."""

    _esm = source("chart", "prediction")

    question = traitlets.Unicode().tag(sync=True)
    revealed = traitlets.Bool(False).tag(sync=True)
    told = traitlets.Unicode().tag(sync=True)  # after the reveal: the guess beside the answer

    def _told(self) -> str:
        raise NotImplementedError

    @traitlets.observe("revealed", "guess")
    def _compare(self, _):
        self.told = self._told() if self.revealed else ""


class Prediction(_Guess):
    """The reader types a number or moves a slider, then presses "reveal".

    answer     the true value, from low to high
    low, high  ends of the scale
    unit       of the number, in words
    picture    is shown with the answer, if there is one
    """

    unit = traitlets.Unicode().tag(sync=True)
    answer = traitlets.Float().tag(sync=True)
    low = traitlets.Float().tag(sync=True)
    high = traitlets.Float().tag(sync=True)
    guess = traitlets.Float(None, allow_none=True).tag(sync=True)
    image = traitlets.Bytes().tag(sync=True)  # PNG of the picture
    alt = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        question: str,
        answer: float,
        *,
        low: float,
        high: float,
        unit: str = "",
        picture: Picture | None = None,
    ):
        answer, low, high = float(answer), float(low), float(high)
        if not (math.isfinite(high - low) and low <= answer <= high and low < high):
            raise InputError(f"the answer must lie on a scale from low to high, got {answer} from {low} to {high}")
        self.shown = picture
        image = {} if picture is None else {"image": png(picture.figure), "alt": picture.alt}
        super().__init__(question=question, answer=answer, unit=unit, low=low, high=high, **image)

    @traitlets.validate("guess")
    def _on_the_scale(self, proposal):
        guess = proposal["value"]
        if guess is not None and not self.low <= guess <= self.high:
            raise InputError(f"a guess must be from {self.low:g} to {self.high:g}, got {guess}")
        return guess

    def _told(self) -> str:
        answer = f"{self.answer:.4g} {self.unit}".strip()
        if self.guess is None:
            return f"It is {answer}."
        away = float(f"{self.guess - self.answer:.4g}")
        verdict = f"{abs(away):g} too {'high' if away > 0 else 'low'}" if away else "exactly right"
        return f"You said {self.guess:.4g}; it is {answer}: {verdict}."

    def picture(self) -> Figure:
        if self.shown:
            return self.shown.figure
        figure = Figure(figsize=(7.5, 1.5), layout="constrained")
        axes = figure.subplots()
        axes.set_title(drawable(self.question, 90), loc="left", fontsize=10)
        marks = [(self.answer, BLUE, f"it is {self.answer:.4g}", 10)]
        if self.guess is not None:
            marks.append((self.guess, ORANGE, f"you said {self.guess:.4g}", -18))
        for value, color, text, above in marks:
            axes.plot([value], [0], "o", color=color, markersize=9, clip_on=False)
            place = (value - self.low) / (self.high - self.low)
            axes.annotate(text, (value, 0), xytext=(0, above), textcoords="offset points", color=color,
                          ha="left" if place < 0.1 else "right" if place > 0.9 else "center")  # fmt: skip
        axes.set(xlim=(self.low, self.high), ylim=(-1, 1), yticks=[], xlabel=drawable(self.unit))
        axes.spines[["left", "top", "right"]].set_visible(False)
        return figure

    def summary(self) -> str:
        return f"{self.question}\n{self._told()}"


class PredictedCurve(_Guess):
    """The reader draws a curve over empty axes, by mouse, finger or keys; "reveal" draws the true one over it.

    x, y  (N,); x at least 0 and rising
    how   y was found, in a word: measured, computed
    """

    xlabel = traitlets.Unicode().tag(sync=True)
    ylabel = traitlets.Unicode().tag(sync=True)
    x: traitlets.List[Any] = traitlets.List().tag(sync=True)
    y: traitlets.List[Any] = traitlets.List().tag(sync=True)
    places: traitlets.List[Any] = traitlets.List().tag(sync=True)  # indices of x at which the reader guesses
    guess: traitlets.List[Any] = traitlets.List().tag(sync=True)  # a number or None for each place
    limits: traitlets.List[Any] = traitlets.List().tag(sync=True)  # of the y axis
    how = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, x: Sequence[float], y: Sequence[float], xlabel: str, ylabel: str, title: str, how: str = "measured"
    ):
        across, up = np.asarray(x, float), np.asarray(y, float)
        if not (across.ndim == 1 and across.shape == up.shape and len(up) >= 2 and np.isfinite([across, up]).all()):
            raise InputError(f"x and y must be equally many finite numbers, at least 2, got {across.shape}, {up.shape}")
        if across[0] < 0 or not (np.diff(across) > 0).all():
            raise InputError(f"x must be at least 0 and rise, got {across[:5]}")
        # Room on both sides, lest the axes tell the answer.
        margin = np.ptp(up) / 2 or abs(up[0]) / 2 or 0.5
        low, high = up.min() - margin, up.max() + margin
        places = np.unique(np.linspace(0, len(up) - 1, min(len(up), PLACES)).round().astype(int)).tolist()
        super().__init__(
            question=title, xlabel=xlabel, ylabel=ylabel, x=across.tolist(), y=up.tolist(), places=places, how=how,
            limits=[float(max(0, low) if up.min() >= 0 else low), float(high)], guess=[None] * len(places),
        )  # fmt: skip

    @traitlets.validate("guess")
    def _in_the_axes(self, proposal):
        guess, (low, high) = proposal["value"], self.limits
        right = [value is None or real(value) and low <= value <= high for value in guess]
        if len(guess) != len(self.places) or not all(right):
            raise InputError(
                f"a guess must be {len(self.places)} numbers from {low:g} to {high:g}, or None for some, got {guess}"
            )
        return guess

    def _told(self) -> str:
        errors = [abs(value - self.y[i]) for i, value in zip(self.places, self.guess, strict=True) if value is not None]
        if not errors:
            return f"You drew nothing; the blue curve is the {self.how} one."
        return f"Your curve is {np.mean(errors):.3g} away on average, {max(errors):.3g} at most ({self.ylabel})."

    def picture(self) -> Figure:
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        axes = figure.subplots()
        if any(value is not None for value in self.guess):
            curve(axes, [self.x[i] for i in self.places], self.guess, color=ORANGE, linestyle="--", label="your guess")
        curve(axes, self.x, self.y, color=BLUE, label=drawable(self.how))
        axes.set(xlabel=drawable(self.xlabel), ylabel=drawable(self.ylabel), xlim=(0, self.x[-1]), ylim=self.limits)
        axes.set_title(drawable(self.question, 90), loc="left", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()
        return figure

    def summary(self) -> str:
        lines = [self.question, f"{self.ylabel} over {self.xlabel}, {self.how}: " + ", ".join(
            f"{self.x[i]:g}: {self.y[i]:.4g}" for i in self.places
        )]  # fmt: skip
        return "\n".join(lines + [self._told()] * any(value is not None for value in self.guess))
