"""A run: a folder, the training that fills it, and what remains when it is over.

config.json           what was asked for, and the number of steps it was turned into, unless it was minutes
metrics.jsonl         one line per event; what is no finite number is null
checkpoint.pt         everything needed to go on, and the best weights so far
checkpoint-before.pt  the checkpoint before that, should the newest be damaged
result.json           the scores, once the run is complete

While a run is trained or scored, owner.lock keeps others out, and owner names the process.
"""

import asyncio
import contextlib
import json
import math
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy
import torch

from shalab.checkpoint import BEFORE, NEWEST, VERSION, export_weights, model_config, newest, save_checkpoint
from shalab.corpus import SOURCES, Corpus, canonical, load_corpus
from shalab.device import Precision
from shalab.errors import SEED, InputError, refuse, wrong
from shalab.evaluate import evaluate
from shalab.fast.process import dismiss_helpers
from shalab.files import Owner, WriteError, notice, write_text, writing
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import ALONE, Team
from shalab.presets import Budget, Preset
from shalab.train import Event, NonFiniteError, StepEvent, TrainConfig, Trainer

MADE = ("config.json", "metrics.jsonl", NEWEST, BEFORE, "result.json", "curve.png", "sample.txt")


@dataclass(frozen=True)
class Format:
    """What a run remembers of its Precision: type of device, number format, and whether nobody asked for that."""

    device: str
    dtype: str
    free: bool

    @classmethod
    def of(cls, precision: Precision) -> "Format":
        device, dtype = str(precision).removesuffix(")").split(" (")
        return cls(device, dtype, precision.free)

    def __str__(self) -> str:
        return f"{self.device} ({self.dtype})"

    def again(self, device: str, dtype: str, team: Team) -> Precision:
        """As Precision.pick, but auto is what it was before, where that is still there."""
        if device == "auto":
            with contextlib.suppress(InputError):
                device = Precision.pick(self.device, "float32", team).device.type
        if dtype in ("auto", self.dtype) and (device == self.device or not self.free):
            return replace(Precision.pick(device, self.dtype, team), free=self.free)
        return Precision.pick(device, dtype, team)


@dataclass(frozen=True)
class RunConfig:
    """All that determines a run, but for the clock of one of minutes, whose total_steps is None.

    data is a corpus's name or a path; preset a name to show; begun is None in runs from before it was kept.
    """

    preset: str
    data: str
    data_sha256: str
    seed: int
    total_steps: int | None
    budget: Budget
    model: ModelConfig
    train: TrainConfig
    begun: Format | None = None

    def __post_init__(self):
        kinds = {"preset": str, "data": str, "data_sha256": str, "seed": int, "total_steps": int | None}
        if faults := [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]:
            raise InputError(f"unexpected {', '.join(faults)}")

    @classmethod
    def from_dict(cls, content: dict) -> "RunConfig":
        parts = {"budget": Budget, "model": ModelConfig, "train": TrainConfig, "begun": Format}
        return cls(**{n: parts[n](**value) if n in parts and value else value for n, value in content.items()})


@dataclass(frozen=True)
class StateEvent:
    """What became of a thread that reads events: "running", "paused", "over" or "failed", with the exception."""

    state: str
    error: str = ""


class Stop(threading.Event):
    """Set by whoever wants a training to end. signal: the number of the signal that did, if one did."""

    signal: int | None = None


class Background:
    """Something whose `events()` can also be read by a thread of its own: started, paused, stopped, waited for.

    listener is called in that thread with each event and, between them, with a StateEvent at each change; the last
    one who puts himself there listens. stop is looked at by `events()` itself.
    """

    def __init__(self):
        self.stop = Stop()
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
        events = self.events()
        dismiss_helpers()
        self._thread = threading.Thread(target=self._read, args=(events,), daemon=True)
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

    def _read(self, events: Iterator) -> None:
        try:
            with contextlib.closing(events):
                self.listener(StateEvent("running"))
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
        self.formats: list[Format] = []  # in which it was trained
        self._read_from: Path | None = None
        self._kept: int | None = None  # the last checkpoint's step
        self._newest = self._stamp()
        self._broken = False

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
        """A new run in `folder`, which must not hold one, nor be inside what is read."""
        folder, precision, budget = Path(folder), precision or Precision.pick(), budget or preset.budget
        refuse(wrong(SEED, seed=seed))
        _check_free(folder, data)
        corpus = load_corpus(data)
        total_steps = budget.total_steps(len(corpus.split("train")), preset.train, seed)
        config = RunConfig(
            name, canonical(data), corpus.sha256, seed, total_steps, budget, preset.model, preset.train,
            Format.of(precision),
        )  # fmt: skip
        run = cls(folder, config, corpus, precision)

        def begin():
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(Owner(folder)):
                _check_free(folder, data)  # again: meanwhile another one may have begun
                run._write_beginning()

        precision.team.first_does(begin)
        return run

    @classmethod
    def resume(
        cls,
        folder: Path,
        precision: Precision | None = None,
        *,
        data: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        team: Team = ALONE,
    ) -> "Run":
        """Goes on where the last checkpoint was written; a run without one starts over.

        data       where the same bytes are now, if they have moved
        precision  what to go on in; without it device and dtype, whose "auto" is what the run was trained in before

        Nothing in the folder changes before `events()` is called.
        """
        folder = Path(folder)
        config = _read_config(folder)
        team = precision.team if precision else team
        team.first_does(lambda: Owner(folder).close())
        try:
            corpus = load_corpus(data or config.data)
        except InputError as error:
            raise InputError(f"{error}; if the run's data has moved, name it with --data") from error
        if corpus.sha256 != config.data_sha256:
            what = f"{data} is not what the run was begun with" if data else f"{config.data} has changed since it began"
            raise InputError(f"{what}: its SHA-256 was {config.data_sha256}; if that is elsewhere, name it with --data")
        config = replace(config, data=canonical(data)) if data else config
        content, path = newest(folder) if _holds(folder, NEWEST, BEFORE) else ({}, None)
        try:
            formats = [Format(**each) for each in content.get("formats", [])]
            stored = RunConfig.from_dict(content["config"]) if content else config
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error})") from error
        if replace(stored, data=config.data) != config:
            raise InputError(f"{path} belongs to another configuration than {folder / 'config.json'}")
        if content and "optimizer" not in content:
            raise InputError(f"{folder} was exported: it holds weights to use, not a run to resume")
        if content and content["version"] < VERSION:
            raise InputError(f"{path} is of an older shalab: finish the run there, or begin another with --out")
        if content:
            model_config(content, path)
        last = formats[-1] if formats else config.begun
        precision = precision or (last.again(device, dtype, team) if last else Precision.pick(device, dtype, team))
        run = cls(folder, config, corpus, precision)
        run.formats, run._read_from = formats, path
        if content:
            try:
                run.trainer.load_state_dict(content)
            except Exception as error:  # as many kinds as there are ways not to fit
                raise InputError(f"{path} does not fit this run ({' '.join(str(error).split())[:160]})") from error
            run._kept = run.trainer.step
        if last and str(last) != str(precision):
            notice(f"{folder} goes on in {precision} from step {run.trainer.step:,}; before that it was {last}")
        return run

    def events(self) -> Iterator[Event]:
        """Trains, writing each event to metrics.jsonl before passing it on.

        Ctrl-C and `stop.set()` end it cleanly after the update at hand, with a checkpoint. A reader who
        leaves early also leaves a checkpoint behind, unless several processes would have to write it together.
        The folder belongs to this process from the call to the end of the events; InputError if it is another one's.
        """
        return self._events(self.precision.team.first_does(self._take))

    def _events(self, owner: Owner | None) -> Iterator[Event]:
        team = self.precision.team
        events = self.trainer.events(self.stop)
        with contextlib.closing(owner) if owner else contextlib.nullcontext():
            try:
                while True:
                    self._broken = True
                    with stop_on_interrupt(self.stop):
                        event = next(events, None)
                    self._broken = False
                    if event is None:
                        return
                    if team.first:
                        self._note(as_line(event))
                    yield event
            except GeneratorExit:  # between two updates; an exception from within one leaves the last checkpoint alone
                if team.size == 1:
                    with contextlib.suppress(NonFiniteError):
                        self.trainer.checkpoint()
                raise
            except WriteError:
                self._broken = False
                raise

    def _take(self) -> Owner:
        """Becomes the folder's owner and makes it say what this run knows."""
        self._check_there()
        owner = Owner(self.folder)
        try:
            if self._broken:
                raise InputError(f"an update of {self.folder} was broken off halfway: Run.resume it")
            if self._stamp() != self._newest:
                raise InputError(f"{self.folder} has gone on since this Run was made: Run.resume it")
            if self._read_from and self._read_from.name == BEFORE:
                with writing(self.folder):
                    os.replace(self._read_from, self.folder / NEWEST)
                self._newest, self._read_from = self._stamp(), None
            self._write_beginning()
        except BaseException:
            owner.close()
            raise
        return owner

    def _write_beginning(self) -> None:
        """config.json, and the lines of metrics.jsonl that were written up to now."""
        _write_json(self.folder / "config.json", asdict(self.config))
        there = self.metrics() if _holds(self.folder, "metrics.jsonl") else []
        lines = [line for line in there if line["step"] <= self.trainer.step]
        write_text(self.folder / "metrics.jsonl", "".join(_json(line) + "\n" for line in lines))
        self._end = lines[-1] if lines else None

    def metrics(self) -> list[dict]:
        return read_metrics(self.folder)

    def finish(self) -> dict:
        """Scores the best weights on valid and test, one stream each, and writes and returns result.json.

        Of several processes, only the first one has to be asked. InputError if the run is not complete, or the
        scoring is stopped.
        """
        trainer = self.trainer
        if not trainer.finished:
            raise InputError(
                f"the run is not complete, but at step {trainer.step:,}: read its events() to the end, or start() it "
                "again and wait(), then finish()"
            )
        self.stop.clear()
        alone = replace(self.precision, team=ALONE)
        model = SHARNN(self.config.model)
        model.load_state_dict(trainer.best)
        model = self.precision.place(model).eval()
        scores = {}
        self._check_there()
        with contextlib.closing(Owner(self.folder)):
            for split in ("valid", "test"):
                begin, end = self.corpus.bounds[split]
                scores[f"{split}_bpc"] = evaluate(model, self.corpus.data, begin, end, alone, stop=self.stop)
            if self.stop.is_set():
                raise InputError("the scoring was stopped: finish() again")
            if not all(math.isfinite(score) for score in scores.values()):
                raise InputError(f"{self.folder}: the best weights give no finite score; begin another run")
            formats = [str(each) for each in self.formats]
            if str(self.precision) not in formats[-1:]:
                formats.append(str(self.precision))
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
                "device": ", then ".join(formats),
                "seed": self.config.seed,
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": numpy.__version__,
                },
            }
            with self._sentence():
                _write_json(self.folder / "result.json", result)
        return result

    def _trainer(self, config: RunConfig) -> Trainer:
        torch.manual_seed(config.seed)
        return Trainer(
            SHARNN(config.model), self.corpus, config.train, self.precision, config.total_steps or 1, config.seed,
            self._save, config.budget.minutes,
        )  # fmt: skip

    def _save(self, state: dict) -> None:
        self.precision.team.first_does(lambda: self._write(state))

    def _write(self, state: dict) -> None:
        now = Format.of(self.precision)
        if self.formats[-1:] != [now]:
            self.formats.append(now)
        content = {"config": asdict(self.config), "formats": [asdict(each) for each in self.formats], **state}
        self._check_there()
        with self._sentence():
            with (self.folder / "metrics.jsonl").open("rb+") as metrics:  # never behind a checkpoint
                os.fsync(metrics.fileno())
            save_checkpoint(self.folder / NEWEST, content, self.folder / BEFORE)
        self._newest, self._kept = self._stamp(), self.trainer.step

    def _note(self, line: dict) -> None:
        """Appends to metrics.jsonl, and notices at once if the folder was moved, removed or closed."""
        if line == self._end:  # a run that was over already
            return
        self._check_there()
        with self._sentence(), (self.folder / "metrics.jsonl").open("ab", buffering=0) as file:
            content = _json(line).encode() + b"\n"
            if file.write(content) < len(content):
                raise OSError("no space left on the device")

    def _check_there(self) -> None:
        if not _holds(self.folder, "config.json"):
            raise WriteError(f"{self.folder} was moved or removed: what it held goes on with --resume where it is now")
        with self._sentence():
            if not os.access(self.folder, os.W_OK):
                raise OSError("it has become read-only")

    @contextlib.contextmanager
    def _sentence(self) -> Iterator[None]:
        """Within, what the file system refuses becomes a sentence that says what is left."""
        try:
            with writing(self.folder):
                yield
        except WriteError as error:
            kept = "no checkpoint yet" if self._kept is None else f"the checkpoint of step {self._kept:,} is kept"
            raise WriteError(f"{error}; {kept}, go on with: shalab train --resume --out {self.folder}") from error

    def _stamp(self) -> tuple | None:
        """Tells one newest checkpoint from another."""
        try:
            found = (self.folder / NEWEST).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def _holds(folder: Path, *names: str) -> list[str]:
    """Which of these files are in folder."""
    return [name for name in names if (folder / name).exists()]


def _check_free(folder: Path, data: str) -> None:
    """InputError if a new run in folder would touch what is there, or read what it writes."""
    there = _holds(folder, *MADE)
    with contextlib.suppress(InputError):  # alone, the config.json of a run that did not come to its first line
        if there == ["config.json"] and _read_config(folder):
            there = []
    if _holds(folder, "config.json", NEWEST) and there:
        raise InputError(f"{folder} already holds a run: add --resume to go on with it, or name another --out")
    if there:
        raise InputError(f"{folder} holds {', '.join(there)} already: name another --out")
    if data not in SOURCES:
        source, out = Path(data).resolve(), folder.resolve()
        if source in (out, *out.parents):
            raise InputError(f"{folder} is inside {data}, which is read as data: name an --out elsewhere")


def _read_config(folder: Path) -> RunConfig:
    path = folder / "config.json"
    try:
        return RunConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / NEWEST).exists():
            raise InputError(f"{path} is missing: a checkpoint alone does not say how to go on") from None
        raise InputError(f"{folder} holds no run to resume: leave out --resume") from None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error})") from error


def read_metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl; one that was cut short or damaged is left out. Numbers that are not finite
    are None."""
    path, lines = Path(folder) / "metrics.jsonl", []
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} holds no run: expected a folder with metrics.jsonl") from None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from error
    for text in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            line = json.loads(text, parse_constant=lambda _: None)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


def export(folder: Path, out: Path) -> None:
    """A finished run without what only resuming needs, a few MB instead of many: for sharing, and for `load_model`.

    Of a file of one's own it tells the name and the checksum, not the path. InputError leaves no `out` behind.
    """
    folder, out = Path(folder), Path(out)
    if not _holds(folder, "result.json"):
        raise InputError(f"{folder} holds no finished run: shalab train --resume --out {folder}")
    config = _read_config(folder)
    config = asdict(replace(config, data=config.data if config.data in SOURCES else Path(config.data).name))
    content, path = newest(folder)
    model_config(content, path)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'result.json'} is damaged: make it again with --resume ({error})") from error
    with writing(out):
        try:
            out.mkdir(parents=True)
        except FileExistsError:
            raise InputError(f"{out} is there already: name another folder") from None
    try:
        export_weights({**content, "config": config}, path, out / NEWEST)
        _write_json(out / "config.json", config)
        write_text(out / "metrics.jsonl", "".join(_json(line) + "\n" for line in read_metrics(folder)))
        _write_json(out / "result.json", result)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


@contextlib.contextmanager
def stop_on_interrupt(stop: Stop):
    """Within, a first Ctrl-C (or SIGTERM) sets `stop` instead of breaking off an update; a second one breaks off."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def on_signal(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal = number
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
    return finite(line)


def finite(x):
    """x with None in place of numbers that JSON does not have."""
    match x:
        case dict():
            return {name: finite(value) for name, value in x.items()}
        case list() | tuple():
            return [finite(value) for value in x]
        case float() if not math.isfinite(x):
            return None
    return x


def _json(content: dict, **options) -> str:
    return json.dumps(finite(content), allow_nan=False, **options)


def _write_json(path: Path, content: dict) -> None:
    write_text(path, _json(content, indent=2) + "\n")
