"""What a training reports as it goes on: events, and the lines of metrics.jsonl that they become."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from shalab.errors import InputError
from shalab.files import json_safe, reading
from shalab.metrics import NATS_PER_BIT


@dataclass(frozen=True)
class StepEvent:
    """An update, or the latest of `log_every`.

    total_steps  for a run of minutes, an estimate from the speed so far
    loss_nats    mean per byte, before the update
    grad_norm    before clipping
    elapsed_s    training time: evaluations and interruptions are not counted
    """

    step: int
    total_steps: int
    n_bytes: int
    loss_nats: float
    lr: float
    grad_norm: float
    elapsed_s: float


@dataclass(frozen=True)
class EvalEvent:
    """Bits per byte of the valid split, or its beginning, in parallel streams; best is True at the lowest so far."""

    step: int
    n_bytes: int
    valid_bpc: float
    best: bool
    elapsed_s: float


@dataclass(frozen=True)
class SampleEvent:
    """What the model writes now, as Latin-1 text, which keeps every byte."""

    step: int
    text: str


@dataclass(frozen=True)
class TrustEvent:
    """Each tensor's (weight_norm, update_norm, trust_ratio) in the last update by LAMB; {} with AdamW."""

    step: int
    tensors: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class CheckpointEvent:
    step: int


@dataclass(frozen=True)
class EndEvent:
    """reason: "finished", or "stopped" on request."""

    step: int
    reason: str


Event = StepEvent | TrustEvent | EvalEvent | SampleEvent | CheckpointEvent | EndEvent


def as_line(event: Event) -> dict:
    """An event as metrics.jsonl has it."""
    line = {"event": type(event).__name__.removesuffix("Event").lower(), **asdict(event)}
    if isinstance(event, StepEvent):
        line["bpc"] = event.loss_nats / NATS_PER_BIT
    return json_safe(line)


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl without damaged ones. Numbers that are not finite are None."""
    path = Path(folder) / "metrics.jsonl"
    with reading(path):
        if not path.exists():
            raise InputError(f"{folder} holds no run: expected a folder with metrics.jsonl")
        return [line for text in path.read_bytes().splitlines() if (line := parse_line(text))]


def parse_line(text: bytes) -> dict | None:
    """A line of metrics.jsonl; None for a damaged one."""
    with contextlib.suppress(ValueError, RecursionError):
        line = json.loads(text, parse_constant=lambda _: None)
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            return line
    return None
