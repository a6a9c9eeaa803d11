"""A run: a folder, the training that fills it, and what remains when it is over.

config.json    what was asked for, and the number of steps it was turned into, unless it was minutes
metrics.jsonl  one line per event
checkpoint.pt  everything needed to go on, and the best weights so far
result.json    the scores, once the run is complete
"""

import asyncio
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import torch

from shalab.checkpoint import VERSION, export_weights, load_checkpoint, save_checkpoint
from shalab.corpus import Corpus, canonical, load_corpus
from shalab.device import Precision, dismiss_helpers
from shalab.errors import InputError
from shalab.evaluate import evaluate
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import ALONE
from shalab.presets import Budget, Preset
from shalab.train import Event, StepEvent, TrainConfig, Trainer


@dataclass(frozen=True)
class RunConfig:
    """All that determines a run, but for the clock of one of minutes, whose total_steps is None.

    data is a corpus's name or a path; preset a name to show.
    """

    preset: str
    data: str
    data_sha256: str
    seed: int
    total_steps: int | None
    budget: Budget
    model: ModelConfig
    train: TrainConfig

    @classmethod
    def from_dict(cls, content: dict) -> "RunConfig":
        parts = {"budget": Budget, "model": ModelConfig, "train": TrainConfig}
        return cls(**{name: parts[name](**value) if name in parts else value for name, value in content.items()})


@dataclass(frozen=True)
class StateEvent:
    """What became of a thread that reads events: "running", "paused", "over" or "failed", with the exception."""

    state: str
    error: str = ""


class Background:
    """Something whose `events()` can also be read by a thread of its own: started, paused, stopped, waited for.

    listener is called in that thread with each event and, between them, with a StateEvent at each change; the last
    one who puts himself there listens. stop is looked at by `events()` itself.
    """

    def __init__(self):
        self.stop = threading.Event()
        self.listener: Callable = lambda event: None
        self._go_on = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def events(self) -> Iterator:
        raise NotImplementedError

    def start(self, listener: Callable | None = None) -> None:
        """Returns at once. What was stopped goes on. Other code must leave torch's global random state alone."""
        if self._thread and self._thread.is_alive():
            raise InputError("it has been started already: wait() for its end, or stop.set() and then wait()")
        self.listener = listener or self.listener
        self.stop.clear()
        self._go_on.set()
        self._error = None
        dismiss_helpers()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Holds before the next event, until `proceed()` or `stop.set()`."""
        self._go_on.clear()

    def proceed(self) -> None:
        self._go_on.set()

    def wait(self) -> None:
        """Blocks to the end, and raises here what was raised there. Ctrl-C stops as `stop.set()` does."""
        if self._thread is None:
            raise InputError("there is nothing to wait for: start() it first")
        with stop_on_interrupt(self.stop):
            while self._thread.is_alive():
                self._thread.join(0.1)  # without a limit, Windows would not let Ctrl-C through
        if self._error:
            raise self._error

    def __await__(self):
        """`await run` in a notebook is `run.wait()` during which the kernel still hears the widgets' buttons."""
        return self._until_over().__await__()

    async def _until_over(self) -> None:
        try:
            while self._thread and self._thread.is_alive():
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:  # how Jupyter interrupts a cell that awaits
            self.stop.set()
        self.wait()

    def _read(self) -> None:
        try:
            self.listener(StateEvent("running"))
            with contextlib.closing(self.events()) as events:
                for event in events:
                    self.listener(event)
                    self._hold()
            self.listener(StateEvent("over"))
        except BaseException as error:
            self._error = error
            self.listener(StateEvent("failed", f"{type(error).__name__}: {error}"))

    def _hold(self) -> None:
        if self._go_on.is_set() or self.stop.is_set():
            return
        self.listener(StateEvent("paused"))
        while not (self._go_on.wait(0.05) or self.stop.is_set()):
            pass
        self.listener(StateEvent("running"))


class Run(Background):
    """Make one with `create` or `resume`; read `events()` to the end, or `start()` and `wait()`; then `finish()`."""

    def __init__(self, folder: Path, config: RunConfig, corpus: Corpus, precision: Precision):
        super().__init__()
        self.folder, self.config, self.corpus, self.precision = Path(folder), config, corpus, precision
        self.trainer = self._trainer(config)

    @classmethod
    def create(
        cls,
        folder: Path,
        name: str,
        preset: Preset,
        data: str = "enwik6",
        seed: int = 0,
        budget: Budget | None = None,
        precision: Precision | None = None,
    ) -> "Run":
        """A new run in `folder`, which must not hold one."""
        folder, precision, budget = Path(folder), precision or Precision.pick(), budget or preset.budget
        if any((folder / name).exists() for name in ("config.json", "metrics.jsonl", "checkpoint.pt")):
            raise InputError(f"{folder} already holds a run: add --resume to go on with it, or name another --out")
        corpus = load_corpus(data)
        total_steps = budget.total_steps(len(corpus.split("train")), preset.train, seed)
        config = RunConfig(name, canonical(data), corpus.sha256, seed, total_steps, budget, preset.model, preset.train)
        run = cls(folder, config, corpus, precision)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(f"cannot write to {folder} ({error.strerror}): name another --out") from error
        if precision.team.first:
            _write_json(folder / "config.json", asdict(run.config))
            _write_text(folder / "metrics.jsonl", "")
        return run

    @classmethod
    def resume(cls, folder: Path, precision: Precision | None = None) -> "Run":
        """Goes on where the last checkpoint was written; a run without one starts over."""
        folder = Path(folder)
        try:
            config = RunConfig.from_dict(json.loads((folder / "config.json").read_text()))
        except FileNotFoundError:
            raise InputError(f"{folder} holds no run to resume: leave out --resume") from None
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise InputError(f"{folder / 'config.json'} is damaged ({error})") from error
        corpus = load_corpus(config.data)
        if corpus.sha256 != config.data_sha256:
            raise InputError(f"{config.data} has changed since the run began: its SHA-256 was {config.data_sha256}")
        run = cls(folder, config, corpus, precision or Precision.pick())
        step = 0
        path = folder / "checkpoint.pt"
        if path.exists():
            content = load_checkpoint(path)
            if RunConfig.from_dict(content["config"]) != config:
                raise InputError(f"{path} belongs to another configuration than {folder / 'config.json'}")
            if "optimizer" not in content:
                raise InputError(f"{folder} was exported: it holds weights to use, not a run to resume")
            if content["version"] < VERSION:
                raise InputError(f"{path} is of an older shalab: finish the run there, or begin another with --out")
            run.trainer.load_state_dict(content)
            step = run.trainer.step
        kept = [line for line in run.metrics() if line["step"] <= step]
        if run.precision.team.first:
            _write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        return run

    def events(self) -> Iterator[Event]:
        """Trains, writing each event to metrics.jsonl before passing it on.

        Ctrl-C and `stop.set()` end it cleanly after the update at hand, with a checkpoint. A reader who
        leaves early also leaves a checkpoint behind, unless several processes would have to write it together.
        """
        team = self.precision.team
        events = self.trainer.events(self.stop)
        with open(self.folder / "metrics.jsonl" if team.first else os.devnull, "a", buffering=1) as metrics:
            try:
                while True:
                    with stop_on_interrupt(self.stop):
                        event = next(events, None)
                    if event is None:
                        return
                    metrics.write(json.dumps(as_line(event)) + "\n")
                    yield event
            except GeneratorExit:  # between two updates; an exception from within one leaves the last checkpoint alone
                if team.size == 1:
                    self._save(self.trainer.state_dict())
                raise

    def metrics(self) -> list[dict]:
        return read_metrics(self.folder)

    def finish(self) -> dict:
        """Scores the best weights on valid and test, one stream each, and writes and returns result.json.

        Of several processes, only the first one has to be asked.
        """
        alone = replace(self.precision, team=ALONE)
        model = SHARNN(self.config.model)
        model.load_state_dict(self.trainer.best)
        model = self.precision.place(model).eval()
        scores = {}
        for split in ("valid", "test"):
            begin, end = self.corpus.bounds[split]
            scores[f"{split}_bpc"] = evaluate(model, self.corpus.data, begin, end, alone, stop=self.stop)
        if any(math.isnan(score) for score in scores.values()):
            return {}
        trainer = self.trainer
        result = {
            **scores,
            "train_seconds": trainer.elapsed_s,
            "bytes_per_second": trainer.n_bytes / trainer.elapsed_s,
            "n_bytes": trainer.n_bytes,
            "n_parameters": model.n_parameters,
            "n_steps": trainer.step,
            "preset": self.config.preset,
            "data": self.corpus.name,
            "data_sha256": self.config.data_sha256,
            "device": str(self.precision),
            "seed": self.config.seed,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": numpy.__version__,
            },
        }
        _write_json(self.folder / "result.json", result)
        return result

    def _trainer(self, config: RunConfig) -> Trainer:
        torch.manual_seed(config.seed)
        return Trainer(
            SHARNN(config.model), self.corpus, config.train, self.precision, config.total_steps or 1, config.seed,
            self._save, config.budget.minutes,
        )  # fmt: skip

    def _save(self, state: dict) -> None:
        if self.precision.team.first:
            save_checkpoint(self.folder / "checkpoint.pt", {"config": asdict(self.config), **state})


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; one cut short by a crash is left out."""
    path, lines = Path(folder) / "metrics.jsonl", []
    if not path.exists():
        raise InputError(f"{folder} holds no run: expected a folder with metrics.jsonl")
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def export(folder: Path, out: Path) -> None:
    """A finished run without what only resuming needs, a few MB instead of many: for sharing, and for `load_model`."""
    folder, out = Path(folder), Path(out)
    if not (folder / "result.json").exists():
        raise InputError(f"{folder} holds no finished run: shalab train --resume --out {folder}")
    try:
        out.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{out} is there already: name another folder") from None
    export_weights(folder, out / "checkpoint.pt")
    for name in ("config.json", "metrics.jsonl", "result.json"):
        shutil.copy(folder / name, out / name)


@contextlib.contextmanager
def stop_on_interrupt(stop: threading.Event):
    """Within, a first Ctrl-C (or SIGTERM) sets `stop` instead of breaking off an update; a second one breaks off."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def on_signal(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_line(event: Event) -> dict:
    """An event as it stands in metrics.jsonl."""
    line = {"event": type(event).__name__.removesuffix("Event").lower(), **asdict(event)}
    if isinstance(event, StepEvent):
        line["bpc"] = event.loss_nats / NATS_PER_BIT
    return line


def _write_json(path: Path, content: dict) -> None:
    _write_text(path, json.dumps(content, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
