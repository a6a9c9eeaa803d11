"""Exercises of notebook 06."""

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shalab.bundled import assets_dir
from shalab.checkpoint import load_checkpoint
from shalab.checks import _array, exercise
from shalab.device import Precision
from shalab.errors import InputError
from shalab.events import read_metrics
from shalab.presets import PRESETS, Budget
from shalab.run import Run
from shalab.run_config import RunConfig
from shalab.schedules import cosine


def _windows(generator):
    for n in (3, 7):
        n_bytes = torch.randint(5, 100, (n,), generator=generator).tolist()
        yield [value.item() for value in torch.rand(n, generator=generator) + 1], n_bytes


def _in_nats(loss_nats, n_bytes):
    return sum(loss * n for loss, n in zip(loss_nats, n_bytes, strict=True)) / sum(n_bytes)


@exercise(
    _windows,
    mistakes={
        "mean of means": (
            lambda loss_nats, n_bytes: sum(loss_nats) / len(loss_nats) / math.log(2),
            "A window of 5 bytes would count as much as one of 1,024. Add up nats, add up bytes, divide once.",
        ),
        "nats for bits": (_in_nats, "That is in nats. A bit is ln 2 nats: divide by math.log(2)."),
        "sum of means": (
            lambda loss_nats, n_bytes: sum(loss_nats) / sum(n_bytes) / math.log(2),
            "The losses are means: each has to be multiplied by its window's bytes before they are added.",
        ),
    },
)
def split_bpc(loss_nats: list[float], n_bytes: list[int]) -> float:
    """Mean nats per byte of each window and the windows' sizes -> bits per byte of the whole split"""
    return _in_nats(loss_nats, n_bytes) / math.log(2)


def _steps(generator):
    for total, warm in ((100, 10), (53, 7)):
        for step in (0, 1, warm - 1, warm, total // 2, total - 1):
            yield step, total, warm, 1e-2


def _cosine(progress):
    return 0.5 * (1 + math.cos(math.pi * progress))


def _unwarmed(step, total_steps, warmup_steps, peak):
    return peak * _cosine(max(0, step - warmup_steps) / (total_steps - warmup_steps))


def _late(step, total_steps, warmup_steps, peak):
    return _unwarmed(step, total_steps, warmup_steps, peak) * min(1, step / warmup_steps)


def _from_the_start(step, total_steps, warmup_steps, peak):
    return peak * min(1, (step + 1) / warmup_steps) * _cosine(step / total_steps)


@exercise(
    _steps,
    mistakes={
        "no warm-up": (_unwarmed, "The first warmup_steps steps rise linearly to the peak."),
        "a first step that does nothing": (
            _late,
            "Step 0 already moves: its rate is peak / warmup_steps. Step warmup_steps - 1 is the first at the peak.",
        ),
        "a fall that begins with the warm-up": (
            _from_the_start,
            "The cosine begins where the warm-up ends: progress is 0 at step warmup_steps and 1 at total_steps.",
        ),
    },
)
def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine to zero; steps count from 0"""
    return peak * cosine(step, total_steps, warmup_steps)


def _runs(generator):
    yield 900_000, 16, 64, 1
    yield 90_000_000, 16, 1024, 3
    yield 1_009, 7, 13, 2


@exercise(
    _runs,
    mistakes={
        "one stream": (
            lambda n_bytes, batch_size, bptt, n_epochs: n_epochs * math.ceil((n_bytes - 1) / bptt),
            "batch_size streams are read side by side: an update takes a window from each of them.",
        ),
        "a last window dropped": (
            lambda n_bytes, batch_size, bptt, n_epochs: n_epochs * ((n_bytes // batch_size - 1) // bptt),
            "What is left at the end of the streams is shorter than bptt, but it is read too: round up.",
        ),
        "epochs run together": (
            lambda n_bytes, batch_size, bptt, n_epochs: math.ceil(n_epochs * (n_bytes // batch_size - 1) / bptt),
            "Each epoch ends with a short window of its own: round up first, then multiply.",
        ),
    },
)
def n_updates(n_bytes: int, batch_size: int, bptt: int, n_epochs: int) -> int:
    """Updates in n_epochs passes over n_bytes bytes, in windows of exactly bptt bytes per stream.

    A stream of n bytes has n - 1 positions: its last byte is only ever predicted.
    """
    return n_epochs * math.ceil((n_bytes // batch_size - 1) / bptt)


# The run of exercise 4, for `Run.launch(folder, **SMALL)`: seconds long, in a format that every process picks alike.
SMALL: dict[str, Any] = {
    "name": "tiny",
    "preset": replace(PRESETS["tiny"], train=replace(PRESETS["tiny"].train, checkpoint_every=50, evaluations=2)),
    "data": "enwik6",
    "seed": 6,
    "budget": Budget(steps=400),
    "device": "cpu",
    "dtype": "float32",
}
ANOTHER, UNFINISHED, ASKED, DIFFERENT, SAME = range(5)


def compared(folder: Path, undisturbed: Callable[[], dict[str, Tensor]] | None = None) -> int:
    """How the run in `folder` compares with one of SMALL that nobody disturbed: the first of these that holds.

    ANOTHER configuration; UNFINISHED; ASKED to stop, not killed; DIFFERENT weights; the SAME weights, bit for bit
    """
    config, wanted = RunConfig.read(folder), SMALL
    own = config.preset, config.model, config.train, config.data, config.seed, config.budget
    if own != (
        wanted["name"], wanted["preset"].model, wanted["preset"].train, wanted["data"], wanted["seed"],
        wanted["budget"],
    ):  # fmt: skip
        return ANOTHER
    content = load_checkpoint(folder)
    if content["step"] < content["total_steps"]:
        return UNFINISHED
    if any(line["event"] == "end" and line["reason"] == "stopped" for line in read_metrics(folder)):
        return ASKED
    expected = (undisturbed or _undisturbed)()
    same = all(torch.equal(tensor, expected[name]) for name, tensor in content["model"].items())
    return SAME if same else DIFFERENT


@lru_cache(1)
def _undisturbed() -> dict[str, Tensor]:
    """The final weights of SMALL, trained in a process of its own, which has as many threads as a launched one."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        line = "import sys; from shalab.checks import enwik8_run as check; check.train(sys.argv[1])"
        subprocess.run([sys.executable, "-c", line, str(folder)], check=True, capture_output=True)
        return load_checkpoint(folder)["model"]


def train(folder: str) -> None:
    """SMALL from its beginning to its end, without scores."""
    wanted = {name: value for name, value in SMALL.items() if name not in ("device", "dtype")}
    precision = Precision.pick(SMALL["device"], SMALL["dtype"])
    for _ in Run.create(Path(folder), **wanted, precision=precision).events():
        pass


@exercise(
    mistakes={
        "another run": (ANOTHER, "It was not begun as Run.launch(folder, **check.SMALL): the weights could not agree."),
        "not at its end yet": (
            UNFINISHED,
            "It has not finished: continue it with run.proceed() or shalab train --resume, and wait for its end.",
        ),
        "stopped, not killed": (
            ASKED,
            "Its process was asked to stop, and saved everything before it went. Begin in a new folder, and kill it.",
        ),
        "other weights": (
            DIFFERENT,
            "They differ from an undisturbed run's. Was it one machine, one shalab, one number of threads?",
        ),
    },
    read=compared,
)
def killed() -> int:
    """The folder of a run that was killed and went on to its end: its weights are those of an undisturbed run"""
    return SAME


@dataclass(frozen=True)
class Third:
    """The first third of a training, and what came afterwards, at byte `at`.

    now    bits per byte at the end of the third: a mean over a twentieth of the run, as `came` is
    """

    n_bytes: np.ndarray
    bpc: np.ndarray
    at: float
    now: float
    came: float

    @property
    def tolerance(self) -> float:
        """Half of what was still to be gained: a guess that is nearer has understood the curve."""
        return abs(self.now - self.came) / 2


def first_third(lines: list[dict], share: float = 1.0) -> Third:
    """Of a record's updates, with what came after `share` of all of them. InputError for fewer than 30 updates."""
    steps = [line for line in lines if line["event"] == "step" and line["bpc"] is not None]
    if len(steps) < 30:
        raise InputError(f"a third of {len(steps)} updates says nothing: wait for more")
    n_bytes, bpc = (np.array([line[name] for line in steps], float) for name in ("n_bytes", "bpc"))
    third, end, width = len(steps) // 3, round(share * len(steps)), max(3, len(steps) // 20)
    came = float(bpc[end - width : end].mean())
    now = float(bpc[third - width : third].mean())
    return Third(n_bytes[:third], bpc[:third], float(n_bytes[end - width : end].mean()), now, came)


SHARES = (2 / 3, 5 / 6, 1.0)


@lru_cache(1)
def _recorded() -> tuple[Third, ...]:
    lines = read_metrics(assets_dir() / "model")
    return tuple(first_third(lines, share) for share in SHARES)


def _thirds(generator):
    for third in _recorded():
        yield third.n_bytes.copy(), third.bpc.copy(), third.at


def _too_far(guesses: list) -> str | None:
    for guess, third in zip(guesses, _recorded(), strict=True):
        try:
            guess = float(_array(guess))
        except (TypeError, ValueError):
            return f"expected a number of bits per byte, got {type(guess).__name__}"
        if not abs(guess - third.came) <= third.tolerance:
            return (
                f"after {third.at / 1e6:.1f} million bytes {third.came:.2f} came, your guess was {guess:.2f}, and "
                f"{third.tolerance:.2f} either way would pass: half of what was still to be gained"
            )
    return None


def _last_value(n_bytes, bpc, at):
    return bpc[-1]


def _last_mean(n_bytes, bpc, at):
    return bpc[-len(bpc) // 10 :].mean()


def _line(n_bytes, bpc, at):
    slope, height = np.polyfit(n_bytes, bpc, 1)
    return height + slope * at


def _upside_down(n_bytes, bpc, at):
    slope, height = np.polyfit(np.log(n_bytes), np.log(bpc), 1)
    return height + slope * math.log(at)


@exercise(
    _thirds,
    mistakes={
        "nothing more is learned": (
            _last_value,
            "The last update is one noisy number, and the curve keeps falling after it.",
        ),
        "the last mean": (_last_mean, "The curve keeps falling after that. How fast, compared with before?"),
        "a straight line": (
            _line,
            "The curve falls more and more slowly. It is closer to a straight line in log(bytes) and log(bits).",
        ),
        "still a logarithm": (_upside_down, "Your line gives the logarithm of the bits. Take the exponential."),
    },
    fault=_too_far,
)
def extrapolate(n_bytes: np.ndarray, bpc: np.ndarray, at: float) -> float:
    """The first third of a training -> bits per byte to be expected after `at` bytes"""
    late = n_bytes > n_bytes[-1] / 4
    slope, height = np.polyfit(np.log(n_bytes[late]), np.log(bpc[late]), 1)
    return math.exp(height + slope * math.log(at))


def own_guess(answer: Callable, lines: list[dict]) -> str:
    """What an `extrapolate` says of the reader's own run, and what came."""
    try:
        third = first_third(lines)
        guess = float(_array(answer(third.n_bytes, third.bpc, third.at)))
    except InputError as error:
        return str(error)
    except Exception:  # nothing is written yet, or it stops: its own check says how
        return "extrapolate has no guess yet"
    right = "near enough" if abs(guess - third.came) <= third.tolerance else "too far away"
    return (
        f"your run: {third.now:.2f} after a third, guess {guess:.2f}, came {third.came:.2f} bits per byte: {right} "
        f"(tolerance {third.tolerance:.2f})"
    )


T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t: n - 1 -> half the width that holds 95 %


def _seeds(generator):
    for n in (2, 2, 3, 5):
        yield (1 + torch.rand(n, generator=generator)).tolist(), T[n - 1]


def _bar(ddof: int, root: bool, student: bool) -> Callable:
    def bar(scores, t):
        spread = np.std(scores, ddof=ddof) / (math.sqrt(len(scores)) if root else 1)
        return float(np.mean(scores)), float(spread) * (t if student else 1.96)

    return bar


@exercise(
    _seeds,
    mistakes={
        "1.96": (_bar(1, True, False), "1.96 holds for many runs. With two, the spread itself is hardly known: use t."),
        "n for n - 1": (
            _bar(0, True, True),
            "The mean comes from the same scores, so divide the squares by n - 1: statistics.stdev does that.",
        ),
        "one run's spread": (
            _bar(1, False, True),
            "That is for a single run. The mean of n runs strays less: divide by the root of n.",
        ),
        "the difference": (
            lambda scores, t: (float(np.mean(scores)), max(scores) - min(scores)),
            "Two runs that happen to agree say little about a third. t knows how little.",
        ),
    },
)
def error_bar(scores: list[float], t: float) -> tuple[float, float]:
    """Scores of several seeds, Student's t -> their mean, and half the width of its 95 % interval"""
    return _bar(1, True, True)(scores, t)
