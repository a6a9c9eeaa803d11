"""What a run was asked for, as config.json and its checkpoints keep it."""

import contextlib
import json
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shalab.checkpoint import NEWEST, weights_sha256
from shalab.device import Precision
from shalab.errors import InputError
from shalab.files import reading
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import Team
from shalab.presets import MOST, Budget, TrainConfig

# What may change while a run goes on; the other fields say what its weights, its streams and its scores are.
CHANGEABLE = (
    "dropout", "dropout_input", "dropout_hidden",
    "accumulate", "lr", "schedule", "warmup_steps", "restart_from_best", "clip", "evaluations", "checkpoint_every",
    "checkpoint_blocks", "compile", "log_every", "sample_bytes",
)  # fmt: skip


def to_resume(folder: str | Path) -> str:
    """The command that goes on with the run in a folder, whatever its name."""
    return f"shalab train --resume --out {shlex.quote(str(folder))}"


def differing(own: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """The items of `asked` that differ from `own`. Lists count as tuples, which JSON and options do not have."""
    asked = {name: tuple(value) if isinstance(value, list) else value for name, value in asked.items()}
    return {name: value for name, value in asked.items() if value != own.get(name)}


@dataclass(frozen=True)
class Format:
    """A device and a number format; automatic: nobody asked for this format (`Precision.automatic`)."""

    device: str
    dtype: str
    automatic: bool

    @classmethod
    def of(cls, precision: Precision) -> "Format":
        return cls(precision.device.type, precision.dtype_name, precision.automatic)

    @classmethod
    def from_dict(cls, content: dict) -> "Format":
        """From config.json or a checkpoint; older ones say free instead of automatic."""
        return cls(**{"automatic" if name == "free" else name: value for name, value in content.items()})

    def __str__(self) -> str:
        return f"{self.device} ({self.dtype})"

    def again(self, device: str, dtype: str, team: Team) -> Precision:
        """As Precision.pick, but "auto" is this device and format, if this machine has the device."""
        if device == "auto":
            with contextlib.suppress(InputError):
                device = Precision.pick(self.device, "float32", team).device.type
        if dtype in ("auto", self.dtype) and (device == self.device or not self.automatic):
            return replace(Precision.pick(device, self.dtype, team), automatic=self.automatic)
        return Precision.pick(device, dtype, team)


@dataclass(frozen=True)
class Origin:
    """The trained weights that a run began with: the name of their run, export or file, and their SHA-256."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path, model: SHARNN) -> "Origin":
        place = Path(path).resolve()
        return cls(place.name if place.is_dir() else f"{place.parent.name}/{place.name}", weights_sha256(model))


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run; total_steps is None for one of minutes, which depends on the clock.

    preset     a name to show
    data       a corpus's name or a path
    begun      the first format; None in old runs
    init_from  the weights it began with; None if they were drawn
    changes    how often settings were changed on the way
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
    init_from: Origin | None = None
    changes: int = 0

    def __post_init__(self):
        kinds: dict[str, Any] = {field.name: field.type for field in fields(self)}
        if faults := [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]:
            raise InputError(f"unexpected {', '.join(faults)}")

    @classmethod
    def from_dict(cls, content: dict) -> "RunConfig":
        parts = {"budget": Budget, "model": ModelConfig, "train": TrainConfig, "init_from": Origin}
        read = {name: kind(**content[name]) for name, kind in parts.items() if content.get(name)}
        if content.get("begun"):
            read["begun"] = Format.from_dict(content["begun"])
        return cls(**(content | read))

    def with_changes(self, values: dict[str, Any], n_train: int) -> "RunConfig":
        """With other settings from here on: a budget by its unit, and fields named in CHANGEABLE.

        n_train: bytes of the training split, from which the steps of so many epochs follow. InputError names what
        cannot change.
        """
        values = differing(self.settings, values)
        if fixed := [name for name in values if name not in CHANGEABLE and name not in MOST]:
            raise InputError(f"a run that has begun keeps its {', '.join(fixed)}: name another --out for a new one")
        if not values:
            return self

        def changed(part: Any) -> dict[str, Any]:
            return {name: value for name, value in values.items() if name in vars(part)}

        budget = Budget(**changed(self.budget)) if changed(self.budget) else self.budget
        model, train = replace(self.model, **changed(self.model)), replace(self.train, **changed(self.train))
        total_steps, changes = budget.total_steps(n_train, train, self.seed), self.changes + 1
        return replace(self, budget=budget, model=model, train=train, total_steps=total_steps, changes=changes)

    @property
    def settings(self) -> dict[str, Any]:
        """All fields by name, those of the model, the training and the budget among them."""
        return {**vars(self), **vars(self.model), **vars(self.train), **vars(self.budget)}

    def becomes(self, later: "RunConfig") -> bool:
        """Whether `later` is this, or this with changes; the data may have moved."""
        differ = differing(self.settings, later.settings).keys() - {"data"}
        may_differ = {*CHANGEABLE, *MOST, "budget", "model", "train", "total_steps", "changes"}
        return not differ or (self.changes < later.changes and differ <= may_differ)

    @classmethod
    def read(cls, folder: Path) -> "RunConfig":
        """From a run's config.json."""
        path = folder / "config.json"
        with reading(path):
            if (folder / NEWEST).exists() and not path.exists():
                raise InputError(f"{path} is missing: a checkpoint alone does not say how to go on")
            if not path.exists():
                raise InputError(f"{folder} holds no run to resume: leave out --resume to begin one there")
            content = path.read_bytes()
        try:
            return cls.from_dict(json.loads(content))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is damaged ({error})") from error
