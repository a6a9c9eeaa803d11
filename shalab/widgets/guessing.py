"""Guess the next byte: a reader beside the machines, on one scale (Shannon 1951)."""

import lzma
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import traitlets
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from shalab.errors import InputError
from shalab.model import SHARNN
from shalab.plots import BLUE, GREY
from shalab.widgets.base import Widget, as_bytes, printable, source
from shalab.widgets.surprise import byte_bits

SIGNS = b"\n" + bytes(range(32, 127))  # what a keyboard types: the bytes that can be guessed
MAX_BYTES = 20_000
FEWEST, FEW = 20, 300  # with fewer bytes no score is shown; with fewer a caution
SHOWN = 600  # bytes before the passage that the reader sees


def shannon_bounds(guesses: Sequence[int]) -> tuple[float, float]:
    """Bits per byte, (lower, upper), from how many guesses each byte took (Shannon 1951, "Prediction and Entropy of
    Printed English", Bell System Technical Journal 30).

    guesses  1 or more: right at that guess. 0 or less: given up after so many wrong guesses, 0 to 95, negated

    Let q_i be the part of the bytes that were right at guess i.

    Upper, -sum q_i log2 q_i. A twin of the reader who makes the same guesses turns the numbers back into the text. So
    the numbers hold all that the text holds, and a byte costs no more than a number does without its context.

    Lower, sum i (q_i - q_(i+1)) log2 i. For a reader who guesses in the order of the true probabilities, these fall:
    p_1 >= p_2 >= ... after each context. Such probabilities are a mixture: with weight w_i = i (p_i - p_(i+1)) the byte
    is any of the first i, all equally probable. The entropy of a mixture is at least the mean of the parts' entropies,
    sum w_i log2 i. That is linear in p, so the mean over the contexts has q_i in place of p_i.

    Where the counted q do not fall, they are sorted here: the twin would make guess 3 before guess 2 if it is right
    more often. So the lower bound is never above the upper one.

    The upper bound holds for every reader, the lower one for a reader whose order is right. Both hold for the true q;
    of few bytes the upper one comes out too low, on average.

    A byte that was given up is, to the upper bound, a sign of its own after which any of the bytes not yet tried may
    come, at log2 of their number; to the lower bound it would have been right at the next guess.
    """
    if not len(guesses):
        raise InputError("expected the guesses of at least one byte, got none")
    n = len(guesses)
    q = np.unique(guesses, return_counts=True)[1] / n
    left = sum(np.log2(len(SIGNS) + number) for number in guesses if number < 1)
    upper = -(q * np.log2(q)).sum() + left / n
    q = -np.sort(-np.unique([number if number > 0 else 1 - number for number in guesses], return_counts=True)[1]) / n
    i = np.arange(1, len(q) + 1)
    lower = (i * (q - np.append(q[1:], 0)) * np.log2(i)).sum()
    return float(lower), float(upper) + 0.0


def counting_bits(data: np.ndarray, begin: int, end: int, order: int, strength: float = 8) -> np.ndarray:
    """(end - begin,) bits of data[begin:end] under an n-gram model counted on data[:begin], (N,) uint8.

    order  n: it looks at up to n - 1 bytes. Each order is mixed with the one below it, which counts as if it had been
           seen `strength` times; below the lowest, all 256 bytes are equally probable.
    """
    seen = data[:begin]
    counts = np.bincount(seen, minlength=256)
    after = [np.flatnonzero(seen[:-1] == byte) + 1 for byte in range(256)]  # places that follow each byte
    bits = []
    for here in range(begin, end):
        p = (counts[data[here]] + strength / 256) / (begin + strength)
        places = after[data[here - 1]]
        for n in range(1, order):
            if n > 1:
                places = places[places >= n]
                places = places[seen[places - n] == data[here - n]]
            p = (np.count_nonzero(seen[places] == data[here]) + strength * p) / (len(places) + strength)
        bits.append(-np.log2(p))
    return np.array(bits)


class GuessingGame(Widget):
    """The reader types the next byte of a hidden passage until it is right; then the next one.

    data        (N,) uint8, or a text
    begin, end  the passage, data[begin:end], of bytes that a keyboard types (ASCII and line breaks), at most 20,000
    model       takes part in the comparison, if there is one

    A key is a guess; Enter is the line break, and capitals are bytes of their own. "Give up" shows the byte. What is
    still hidden is not sent to the browser. The game waits as long as the kernel lives, and `guesses` holds all of it:
    a list that was kept can be assigned again.
    """

    _esm = source("guessing")

    before = traitlets.Unicode().tag(sync=True)  # the end of what precedes the passage
    n_bytes = traitlets.Int().tag(sync=True)  # of the passage
    guesses = traitlets.List(traitlets.Int()).tag(sync=True)  # of each byte that is known, see `shannon_bounds`
    known = traitlets.Unicode().tag(sync=True)  # the passage so far
    tried = traitlets.Unicode().tag(sync=True)  # wrong guesses at the byte that comes next
    told = traitlets.Unicode("Which byte comes next?").tag(sync=True)
    standing = traitlets.Unicode().tag(sync=True)  # what the guesses say so far
    scored = traitlets.Bool(False).tag(sync=True)  # whether enough bytes are known to compare
    scores = traitlets.Dict().tag(sync=True)  # name -> bits per byte, when they were last asked for ...
    n_scored = traitlets.Int().tag(sync=True)  # ... of so many bytes

    def __init__(self, data: str | bytes | np.ndarray, begin: int, end: int, model: SHARNN | None = None):
        self.data, self.begin, self.model = np.frombuffer(as_bytes(data), np.uint8), begin, model
        if not (0 < begin < end <= len(self.data) and end - begin <= MAX_BYTES):
            raise InputError(
                f"the passage must be 1 to {MAX_BYTES:,} bytes from 1 to {len(self.data):,}, got {begin} to {end}"
            )
        self.passage = self.data[begin:end].tobytes()
        for place, byte in enumerate(self.passage, begin):
            if byte not in SIGNS:
                raise InputError(
                    f"a passage must be of bytes that a keyboard types (ASCII or a line break), got {byte} at {place}; "
                    "choose another one"
                )
        self._xz_sizes: dict[int, int] = {}
        before = self.data[max(0, begin - SHOWN) : begin].tobytes().decode("utf-8", "replace")
        super().__init__(before=before, n_bytes=end - begin)
        self.standing = self._standing()
        self.on_msg(self._on_message)

    @traitlets.validate("guesses")
    def _possible(self, proposal):
        guesses = proposal["value"]
        if len(guesses) > self.n_bytes or not all(-len(SIGNS) < number <= len(SIGNS) for number in guesses):
            raise InputError(
                f"guesses must be at most {self.n_bytes} numbers from {1 - len(SIGNS)} to {len(SIGNS)}, got "
                f"{len(guesses)}: {guesses[:10]}"
            )
        return guesses

    @traitlets.observe("guesses")
    def _follow(self, _):
        with self.hold_sync():
            self.known, self.tried = self.passage[: len(self.guesses)].decode(), ""
            self.standing, self.scored = self._standing(), len(self.guesses) >= FEWEST

    def guess(self, sign: str) -> bool:
        """Whether the next byte is `sign`. A sign that was tried before is not counted again."""
        if len(sign) != 1 or not sign.isascii() or ord(sign) not in SIGNS:
            raise InputError(f"a guess must be one ASCII sign or a line break, got {sign!r}")
        named = printable(sign.encode())
        with self.hold_sync():
            if self._finished():
                return False
            if sign in self.tried:
                self.told = f"'{named}' was tried before; it is not counted again."
            elif ord(sign) != self.passage[len(self.guesses)]:
                self.tried += sign
                self.told = f"'{named}' is wrong. Guess again."
            else:
                self.told = f"'{named}' is right, at guess {len(self.tried) + 1}. What comes next?"
                self.guesses = [*self.guesses, len(self.tried) + 1]
                self._finished()
                return True
        return False

    def give_up(self) -> None:
        """Shows the next byte."""
        with self.hold_sync():
            if not self._finished():
                byte = self.passage[len(self.guesses) : len(self.guesses) + 1]
                self.told = f"It was '{printable(byte)}'. What comes next?"
                self.guesses = [*self.guesses, -len(self.tried)]
                self._finished()

    def _finished(self) -> bool:
        if len(self.guesses) == self.n_bytes:
            self.told = f"All {self.n_bytes:,} bytes are known."
        return len(self.guesses) == self.n_bytes

    def play(self, order: Callable[[np.ndarray], Iterable[int]], n_bytes: int | None = None) -> None:
        """Lets a program guess the next n_bytes; None for all that are left.

        order  gets all bytes before a place, (n,) uint8, and returns byte values in the order in which to guess
        """
        first = self.begin + len(self.guesses)
        last = self.begin + self.n_bytes if n_bytes is None else first + n_bytes
        numbers = []
        for place in range(first, last):
            ranked = [byte for byte in order(self.data[:place]) if byte in SIGNS]
            if self.data[place] not in ranked:
                raise InputError(f"the order must hold every byte that may come, it lacks {self.data[place]}")
            numbers.append(ranked.index(self.data[place]) + 1)
        self.guesses = [*self.guesses, *numbers]

    def bits_per_byte(self) -> tuple[float, float]:
        """Shannon's lower and upper bound of the guesses so far."""
        return shannon_bounds(self.guesses)

    def compare(self) -> dict[str, float]:
        """Bits per byte of the bytes known so far: the reader's two bounds, then the machines, each given all before.

        xz's is the growth of what it writes when these bytes are appended to all that precedes them, in whole bytes: of
        n bytes it is exact to 8 / n.
        """
        n = len(self.guesses)
        if n < FEWEST:
            raise InputError(f"a comparison needs at least {FEWEST} bytes, got {n}; guess some more")
        lower, upper = self.bits_per_byte()
        machines = {name: float(bits[:n].mean()) for name, bits in self._prices.items()}
        with self.hold_sync():
            self.scores = {
                "you, upper bound": upper, "you, lower bound": lower, **machines,
                "xz": 8 * (self._xz(n) - self._xz(0)) / n,
            }  # fmt: skip
            self.n_scored = n
        return self.scores

    @cached_property
    def _prices(self) -> dict[str, np.ndarray]:
        end = self.begin + self.n_bytes
        counted = {name: counting_bits(self.data, self.begin, end, n) for name, n in (("unigram", 1), ("6-gram", 6))}
        network = {} if self.model is None else {"network": byte_bits(self.model, self.data[:end], self.begin)}
        return counted | network

    def _xz(self, n: int) -> int:
        """Bytes that `xz -9e` writes for all up to the passage's first n, without its container, which pads to four."""
        if n not in self._xz_sizes:
            text = self.data[: self.begin + n].tobytes()
            self._xz_sizes[n] = len(lzma.compress(text, lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))
        return self._xz_sizes[n]

    def _on_message(self, _, content: dict, __):
        if "guess" in content:
            try:
                self.guess(content["guess"])
            except InputError as error:
                self.told = str(error)
        elif "give_up" in content:
            self.give_up()
        elif "compare" in content and self.scored:
            self.compare()

    def picture(self) -> Figure:
        columns = 72
        n = len(self.guesses)
        text = (self.before[-3 * columns :] + self.known)[-8 * columns :]
        levels = ([np.nan] * 3 * columns + [len(SIGNS) if g < 1 else g for g in self.guesses])[-len(text) :]
        n_rows = -(-(len(text) + 1) // columns)
        grid = np.full(n_rows * columns, np.nan)
        grid[: len(text)] = levels
        heights = [0.24 * n_rows, 2][: 1 + self.scored]
        figure = Figure(figsize=(9, sum(heights) + 0.5), layout="constrained")
        page, *rest = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        scale = LinearSegmentedColormap.from_list("guesses", ["white", "#e8820c"])
        page.imshow(np.log2(grid).reshape(n_rows, columns), cmap=scale, vmin=0, vmax=np.log2(len(SIGNS)), aspect="auto")
        for i, sign in enumerate(text + "?" * (n < self.n_bytes)):
            sign = "↵" if sign == "\n" else sign if sign.isprintable() and sign < "\u0250" else "·"
            ink = GREY if np.isnan(grid[i]) and i < len(text) else "black"
            page.text(i % columns, i // columns, sign, ha="center", va="center", family="monospace", fontsize=8,
                      color=ink, parse_math=False)  # fmt: skip
        page.set_axis_off()
        page.set_title(f"{n:,} of {self.n_bytes:,} bytes are known; the darker, the more guesses", fontsize=10)
        for axes in rest:
            scores = dict(self.compare())
            upper, lower = scores.pop("you, upper bound"), scores.pop("you, lower bound")
            axes.barh(["you"], [upper - lower], left=[lower], color=BLUE)
            axes.barh(list(scores), list(scores.values()), color=GREY)
            for place, value in enumerate([upper, *scores.values()]):
                sign = f"{lower:.2f} to {upper:.2f}" if place == 0 else f"{value:.2f}"
                axes.annotate(sign, (value, place), xytext=(3, 0), textcoords="offset points", va="center")
            axes.invert_yaxis()
            axes.set(xlabel="bits per byte of the same bytes", xlim=(0, 1.2 * max([upper, *scores.values()])))
            axes.spines[["top", "right"]].set_visible(False)
        return figure

    def summary(self) -> str:
        scores = self.compare() if self.scored else {}
        return "\n".join([self._standing(), *(f"{name:<18}{bits:5.2f} bits per byte" for name, bits in scores.items())])

    def _standing(self) -> str:
        n = len(self.guesses)
        known = f"{n:,} of {self.n_bytes:,} bytes known"
        if n < FEWEST:
            return f"{known}; a score from {FEWEST} on."
        lower, upper = self.bits_per_byte()
        told = f"{known}: your bits per byte lie between {lower:.2f} and {upper:.2f}."
        if n >= FEW:
            return told
        bias = (len(set(self.guesses)) - 1) / (2 * n * np.log(2))  # of the entropy of frequencies (Miller 1955)
        return f"{told} Of so few bytes the upper bound comes out too low, on average by about {bias:.2f}."
