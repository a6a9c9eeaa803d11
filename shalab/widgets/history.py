"""What a dashboard remembers of a run: a bounded number of points, however long the run is."""

import math
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from shalab.errors import InputError
from shalab.follow import seconds_left
from shalab.plots import MovingAverage, finite


class Thinned:
    """The first point, every k-th after it, and the last. k doubles whenever `capacity` points are held."""

    def __init__(self, capacity: int = 1000):
        if capacity < 2 or capacity % 2:
            raise InputError(f"capacity must be even and at least 2, got {capacity}")
        self.capacity, self.k, self.count = capacity, 1, 0
        self.kept: list = []
        self.last: Any = None

    def add(self, point) -> None:
        if self.count % self.k == 0:
            if len(self.kept) == self.capacity:
                del self.kept[1::2]
                self.k *= 2  # divides count still, since capacity is even
            self.kept.append(point)
        self.last = point
        self.count += 1

    def __iter__(self) -> Iterator:
        yield from self.kept
        if self.passing:
            yield self.last

    @property
    def passing(self) -> bool:
        """Whether the last point is shown only until the next one comes."""
        return bool(self.kept) and self.last is not self.kept[-1]


class History:
    """Filled with the lines of metrics.jsonl. Lines that are known already change nothing.

    points   (step, bytes read, training seconds, smoothed bpc, learning rate, gradient norm, bytes per second);
             None where a number is missing or not finite, as the gradient of an update that float16 skipped
    scores   (step, bytes read, training seconds, valid bpc), all of them
    trust    (step, bytes read, training seconds, lowest, median and highest trust ratio of the tensors), all of them
    sample   the latest, as Latin-1 text
    """

    def __init__(self, lines: Iterable[dict] = (), total_steps: int = 0, capacity: int = 1000):
        self.points = Thinned(capacity)
        self.scores: list[tuple[int, int, float, float]] = []
        self.trust: list[tuple[int, int, float, float, float, float]] = []
        self.sample, self.total_steps, self.state, self.error = "", total_steps, "ready", ""
        self.seconds_left = math.nan
        self.ended = ""  # how, if it has not gone on since
        self._bpc, self._bytes, self._seconds = MovingAverage(), MovingAverage(), MovingAverage()
        for line in lines:
            self.add(line)

    @property
    def place(self) -> tuple[int, int, float]:
        """(step, bytes read, training seconds) of the last update."""
        return self.points.last[:3] if self.points.count else (0, 0, 0.0)

    def add(self, line: dict) -> None:
        try:
            self._add(line)
        except (KeyError, TypeError, ArithmeticError) as error:
            raise InputError(f"expected a line of a run's metrics.jsonl, got {str(line)[:80]}") from error

    def _add(self, line: dict) -> None:
        match line["event"]:
            case "step" if line["step"] > self.place[0]:
                self.state, self.ended, self.total_steps = "running", "", line["total_steps"]
                _, n_bytes, elapsed_s = self.place
                read, took = self._bytes(line["n_bytes"] - n_bytes), self._seconds(line["elapsed_s"] - elapsed_s)
                self.seconds_left = seconds_left(line)
                bpc = self._bpc(line["bpc"])
                speed = read / took if read and took else 0.0
                where = (line["step"], line["n_bytes"], line["elapsed_s"])
                self.points.add((*where, bpc, finite(line["lr"]), finite(line["grad_norm"]), speed))
            case "eval" if not self.scores or line["step"] > self.scores[-1][0]:
                if finite(line["valid_bpc"]) is not None:
                    self.scores.append((line["step"], line["n_bytes"], line["elapsed_s"], line["valid_bpc"]))
            case "trust" if not self.trust or line["step"] > self.trust[-1][0]:
                ratios = [ratio for *_, ratio in line["tensors"].values() if finite(ratio) is not None]
                if ratios:
                    self.trust.append((*self.place, min(ratios), median(ratios), max(ratios)))
            case "sample":
                self.sample = line["text"]
            case "end":
                self.state = self.ended = line["reason"]
