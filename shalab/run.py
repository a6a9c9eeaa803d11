"""A run: a folder, and the training that fills it.

config.json           what was asked for
metrics.jsonl         one line per event
checkpoint.pt         everything needed to continue, and the best weights so far
checkpoint-before.pt  the checkpoint before, in case the newest is damaged
result.json           the scores of the complete run
data                  the bytes that came through standard input; there is none if they are a corpus, file or folder

While a run is trained or scored, owner.lock keeps others out, and owner names the process.
"""

import contextlib
import itertools
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy
import torch

from shalab.background import Background, stop_on_interrupt
from shalab.checkpoint import BEFORE, NEWEST, VERSION, load_model, model_config, newest, save_checkpoint
from shalab.corpus import RUN_DATA, SOURCES, STDIN, Corpus, canonical, corpus_of_run, load_corpus
from shalab.device import Precision
from shalab.errors import SEED, InputError, refuse, wrong
from shalab.evaluate import evaluate
from shalab.events import Event, as_line, read_metrics
from shalab.files import Owner, WriteError, as_json, notice, replacing, write_json, write_text, writing
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import ALONE, Team
from shalab.presets import Budget, Preset
from shalab.run_config import Format, Origin, RunConfig, differing, to_resume
from shalab.shapes import n_parameters
from shalab.steering import steered
from shalab.train import NonFiniteError, Trainer

RUN_FILES = ("config.json", "metrics.jsonl", NEWEST, BEFORE, "result.json", "curve.png", "sample.txt")


class Run(Background):
    """Make one with `create` or `resume`; read `events()` to the end, or `start()` and `wait()`; then `finish()`."""

    def __init__(
        self, folder: Path, config: RunConfig, corpus: Corpus, precision: Precision, trained: SHARNN | None = None
    ):
        super().__init__()
        self.folder, self.config, self.corpus, self.precision = folder, config, corpus, precision
        torch.manual_seed(config.seed)
        self.trainer = Trainer(
            _first_model(config, precision, trained), corpus, config.train, precision, config.total_steps or 1,
            config.seed, self._save, config.budget.minutes,
        )  # fmt: skip
        self.formats = [Format.of(precision)]  # in which it was trained, the last one until now
        self._newest_id = self._checkpoint_id()
        self._kept_step: int | None = None  # step of the newest checkpoint
        self._last_line: dict | None = None  # that metrics.jsonl had when the training began
        self._before: Path | None = folder / BEFORE  # where it is kept when the next comes; None if it is damaged

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
        init_from: str | Path | None = None,
    ) -> "Run":
        """A new run in `folder`, which must not hold one, nor be inside what is read.

        init_from  a run, an export or a checkpoint file: the run begins with its best weights instead of drawn ones,
                   and is of its model, whatever the preset says. The weights are copied: it is not needed again.
        """
        folder, precision, budget = Path(folder), precision or Precision.pick(), budget or preset.budget
        refuse(wrong(SEED, seed=seed))
        if data == STDIN and precision.team.size > 1:
            raise InputError("several processes cannot share standard input: put it into a file, for --data")
        _check_unused(folder, data)
        source = origin = None
        if init_from is not None:
            source = load_model(Path(init_from))
            origin = Origin.of(init_from, source)
            if differences := other_model(vars(preset.model), source.config):
                notice(f"the model is that of {init_from}: {', '.join(differences)}")
            preset = replace(preset, model=source.config)
        corpus = load_corpus(data)
        if (vocab_size := preset.model.vocab_size) != 256 and not (largest := corpus.data.max()) < vocab_size < 256:
            raise InputError(f"vocab_size must be at most 256 and above {largest}, {data}'s largest byte")
        total_steps = budget.total_steps(len(corpus.split("train")), preset.train, seed)
        config = RunConfig(
            name, canonical(data), corpus.sha256, seed, total_steps, budget, preset.model, preset.train,
            Format.of(precision), init_from=origin,
        )  # fmt: skip
        run = cls(folder, config, corpus, precision, source)

        def begin() -> Owner:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            owner = Owner(folder)
            try:
                _check_unused(folder, data)  # again: another process may have been faster
                if data == STDIN:
                    with replacing(folder / RUN_DATA) as file:
                        file.write(corpus.data.data)
                run._write_config_and_metrics()
            except BaseException:
                owner.close()
                raise
            return owner

        owner = precision.team.first_does(begin)
        with contextlib.closing(owner) if owner else contextlib.nullcontext():
            if origin:  # from here on, the run has its weights itself
                run.trainer.checkpoint()
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
        changes: dict[str, Any] | None = None,
    ) -> "Run":
        """Continues from the newest checkpoint; a run without one starts over.

        data           where the same bytes are now, if they have moved
        precision      what to compute in
        device, dtype  the same by name; "auto" is what the run was trained in before
        changes        new settings, as `RunConfig.with_changes` takes them: {"minutes": 60} lets a run of 30 minutes,
                       finished or not, go on to 60, with the learning rate that a run of 60 minutes has halfway

        Nothing in the folder changes before `events()` is called.
        """
        folder, team = Path(folder), precision.team if precision else team
        config = RunConfig.read(folder)
        team.first_does(lambda: Owner(folder).close())
        corpus = corpus_of_run(config.data, config.data_sha256, folder, data)
        if data not in (None, STDIN):
            config = replace(config, data=canonical(data))
        content, path = _own_checkpoint(folder, config)
        config = config.with_changes(changes or {}, len(corpus.split("train")))
        latest = content["formats"][-1] if content.get("formats") else config.begun
        precision = precision or (latest.again(device, dtype, team) if latest else Precision.pick(device, dtype, team))
        run = cls(folder, config, corpus, precision)
        if path:
            run._go_on_from(content, path)
        if latest and str(latest) != str(precision):
            notice(f"{folder} goes on in {precision} from step {run.trainer.step:,}; before that it was {latest}")
        return run

    def _go_on_from(self, content: dict, path: Path) -> None:
        """Takes the state of a checkpoint, and its place in the new schedule if settings have changed since."""
        trainer = self.trainer
        try:
            trainer.load(content)
        except Exception as error:  # as many kinds as there are ways not to fit
            raise InputError(f"{path} does not fit this run ({' '.join(str(error).split())[:160]})") from error
        self.formats = [each for each, _ in itertools.groupby([*content["formats"], *self.formats])]
        self._kept_step = trainer.step
        if path.name == BEFORE:  # even if nothing more is trained, a whole checkpoint replaces the damaged one
            self._before, trainer.saved = None, False
        if content["config"].changes < self.config.changes:
            trainer.reschedule(self.config.total_steps)
            further = (
                f"goes on from step {trainer.step:,} to {self.config.budget}, with a learning rate of "
                f"{trainer.lr:.3g} from here by its schedule ({self.config.train.schedule})"
            )
            ended = f"is at step {trainer.step:,}, past the end of {self.config.budget}: nothing more is trained"
            notice(f"{self.folder} {ended if trainer.finished else further}")

    def events(self) -> Iterator[Event]:
        """Trains; each event is written to metrics.jsonl and then yielded.

        Ctrl-C and `stop.set()` end the training after the current update, with a checkpoint. So does a reader who
        leaves the loop early, unless several processes would have to write together. From this call until the end of
        the events no other process can use the folder; InputError if another one does already.
        """
        return self._events(self.precision.team.first_does(self._claim_folder))

    def _events(self, owner: Owner | None) -> Iterator[Event]:
        team, events = self.precision.team, self.trainer.events(self.stop)
        with steered(self, self.folder, owner, "training") if owner else contextlib.nullcontext():
            try:
                while True:
                    if self.pause_asked:
                        self.trainer.checkpoint()  # a pause may last for days
                        self.hold()
                    with stop_on_interrupt(self.stop):
                        event = next(events, None)
                    if event is None:
                        return
                    if team.first:
                        self._append(as_line(event))
                    yield event
            except GeneratorExit:  # the reader left between two updates
                if team.size == 1:
                    with contextlib.suppress(NonFiniteError):
                        self.trainer.checkpoint()
                raise

    @property
    def pause_asked(self) -> bool:
        """All processes hold together, and ask each other: only the loop that trains may look."""
        return self.precision.team.any(super().pause_asked)

    def _claim_folder(self) -> Owner:
        """Becomes the owner of the folder and brings its files to the state of this run."""
        with self._writing():
            owner = Owner(self.folder)
        try:
            if self.trainer.broken:
                raise InputError(f"an update of {self.folder} was broken off halfway: Run.resume it")
            if self._checkpoint_id() != self._newest_id:
                raise InputError(f"{self.folder} has gone on since this Run was made: Run.resume it")
            self._write_config_and_metrics()
            if not self.trainer.finished and (self.folder / "result.json").exists():  # it goes on
                with writing(self.folder):
                    os.replace(self.folder / "result.json", self.folder / "result-before.json")
        except BaseException:
            owner.close()
            raise
        return owner

    def _write_config_and_metrics(self) -> None:
        """config.json, and metrics.jsonl without the lines of steps that no checkpoint has."""
        write_json(self.folder / "config.json", asdict(self.config))
        written = self.metrics() if (self.folder / "metrics.jsonl").exists() else []
        lines = [line for line in written if line["step"] <= self.trainer.step]
        write_text(self.folder / "metrics.jsonl", "".join(as_json(line) + "\n" for line in lines))
        self._last_line = lines[-1] if lines else None

    @staticmethod
    def launch(*arguments, **options) -> Background:
        """`shalab.follow.launch`: begins a run in a process of its own, and returns its Follower."""
        from shalab.follow import launch  # only who asks for another process needs it

        return launch(*arguments, **options)

    def metrics(self) -> list[dict]:
        return read_metrics(self.folder)

    def finish(self) -> dict:
        """Scores the best weights on valid and test in one stream each; writes and returns result.json.

        Of several processes the first one does. InputError if the run is not complete, or the scoring was stopped.
        """
        trainer = self.trainer
        if not trainer.finished:
            raise InputError(
                f"the run is not complete, but at step {trainer.step:,}: read its events() to the end, or start() it "
                "again and wait(), then finish()"
            )
        self.stop.clear()
        with self._writing():
            owner = Owner(self.folder)
        with steered(self, self.folder, owner, "scoring"):
            result = {
                **self._scores(),
                "train_seconds": trainer.elapsed_s,
                "bytes_per_second": trainer.n_bytes / trainer.elapsed_s,
                "n_bytes": trainer.n_bytes,
                "n_parameters": trainer.model.n_parameters,
                "n_steps": trainer.step,
                "preset": self.config.preset,
                "data": self.corpus.name,
                "data_sha256": self.config.data_sha256,
                "device": ", then ".join(name for name, _ in itertools.groupby(map(str, self.formats))),
                "seed": self.config.seed,
                "versions": dict(python=platform.python_version(), torch=torch.__version__, numpy=numpy.__version__),
            }
            with self._writing():
                write_json(self.folder / "result.json", result)
        return result

    def _scores(self) -> dict[str, float]:
        model = SHARNN(self.config.model)
        model.load_state_dict(self.trainer.best)
        alone = replace(self.precision, team=ALONE)
        model = alone.place(model).eval()
        scores = {
            f"{split}_bpc": evaluate(model, self.corpus.data, *self.corpus.bounds[split], alone, stop=self.stop)
            for split in ("valid", "test")
        }
        if self.stop.is_set():
            raise InputError("the scoring was stopped: finish() again")
        if not all(map(math.isfinite, scores.values())):
            raise InputError(f"{self.folder}: the best weights give no finite score; begin another run")
        return scores

    def _save(self, state: dict) -> None:
        content = {"config": asdict(self.config), "formats": [asdict(each) for each in self.formats], **state}
        with self._writing():
            with (self.folder / "metrics.jsonl").open("rb+") as metrics:  # no checkpoint is ahead of its lines
                os.fsync(metrics.fileno())
            save_checkpoint(self.folder / NEWEST, content, self._before)
        self._newest_id, self._kept_step, self._before = self._checkpoint_id(), self.trainer.step, self.folder / BEFORE

    def _append(self, line: dict) -> None:
        """Appends to metrics.jsonl, and notices at once if the folder was moved, removed or closed."""
        if line == self._last_line:  # a run that was over already
            return
        with self._writing(), (self.folder / "metrics.jsonl").open("ab", buffering=0) as file:
            content = as_json(line).encode() + b"\n"
            if file.write(content) < len(content):
                raise OSError("no space left on the device")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """As `files.writing`, if the folder is where it was; the error also says what is kept and how to continue."""
        if not (self.folder / "config.json").exists():
            raise WriteError(f"{self.folder} was moved or removed: what it held goes on with --resume where it is now")
        try:
            with writing(self.folder):
                if not os.access(self.folder, os.W_OK):
                    raise OSError("it has become read-only")
                yield
        except WriteError as error:
            kept = (
                "no checkpoint yet"
                if self._kept_step is None
                else f"the checkpoint of step {self._kept_step:,} is kept"
            )
            raise WriteError(f"{error}; {kept}, go on with: {to_resume(self.folder)}") from error

    def _checkpoint_id(self) -> tuple | None:
        """Identifies the file of the newest checkpoint."""
        with contextlib.suppress(OSError):
            found = (self.folder / NEWEST).stat()
            return found.st_ino, found.st_size, found.st_mtime_ns
        return None


def _own_checkpoint(folder: Path, config: RunConfig) -> tuple[dict, Path | None]:
    """The newest one's content and file; {} and None before the first. InputError if the run cannot go on from it."""
    if not any((folder / name).exists() for name in (NEWEST, BEFORE)):
        if config.init_from:
            raise InputError(
                f"{folder} has no checkpoint, and so not the weights of {config.init_from.name} that it began with: "
                "begin again, with --init-from and another --out"
            )
        return {}, None
    content, path = newest(folder)
    model_config(content, path)
    try:
        content["formats"] = [Format.from_dict(each) for each in content.get("formats", [])]
        content["config"] = RunConfig.from_dict(content["config"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error})") from error
    if not content["config"].becomes(config):
        raise InputError(f"{path} belongs to another configuration than {folder / 'config.json'}")
    if "optimizer" not in content:
        raise InputError(f"{folder} was exported: it holds weights to use, not a run to resume")
    if content["version"] < VERSION:
        raise InputError(f"{path} is of an older shalab: finish the run there, or begin another with --out")
    return content, path


def _first_model(config: RunConfig, precision: Precision, trained: SHARNN | None) -> SHARNN:
    """InputError before memory is taken: where there is too little, some systems end the process without a word."""
    try:
        n, n_bytes = n_parameters(config.model), precision.memory_bytes()
        needed = 16 * n  # weights, LAMB's two moments and the best weights so far, in float32
        if n_bytes and needed > n_bytes:
            taken = f"{n:,} parameters takes {needed / 1e9:,.1f} GB and more, it has {n_bytes / 1e9:,.1f} GB"
            raise MemoryError(f"training {taken}")
        return trained or SHARNN(config.model)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # how PyTorch says that it is too large
        raise InputError(f"this machine cannot hold such a model: {' '.join(str(error).split())[:160]}") from error


def other_model(asked: dict, model: ModelConfig) -> list[str]:
    """The fields in which a model differs from these values, in words."""
    others = differing(vars(model), {name: value for name, value in asked.items() if name in vars(model)})
    return [f"{name} {getattr(model, name)} instead of {value}" for name, value in others.items()]


def _check_unused(folder: Path, data: str) -> None:
    """InputError if a new run in folder would touch what is there, or read what it writes."""
    taken = [name for name in RUN_FILES if (folder / name).exists()]
    with contextlib.suppress(InputError):  # config.json alone is left by a run that was killed before its first line
        if taken == ["config.json"] and RunConfig.read(folder):
            taken = []
    if {"config.json", NEWEST}.intersection(taken):
        raise InputError(f"{folder} already holds a run: add --resume to go on with it, or name another --out")
    if data == STDIN and (folder / RUN_DATA).exists():
        taken.append(RUN_DATA)
    if taken:
        raise InputError(f"{folder} holds {', '.join(taken)} already: name another --out")
    elsewhere = data == STDIN or data in SOURCES
    if not elsewhere and folder.resolve().is_relative_to(Path(data).resolve()):
        raise InputError(f"{folder} is inside {data}, which is read as data: name an --out elsewhere")
