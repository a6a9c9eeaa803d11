"""What a run was asked for, as config.json and its checkpoints keep it."""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from shalab.checkpoint import NEWEST, weights_sha256
from shalab.device import Precision
from shalab.errors import InputError
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import Team
from shalab.presets import Budget, TrainConfig


@dataclass(frozen=True)
class Format:
    """A device and a number format; free: the user did not ask for this format."""

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
        """As Precision.pick, but "auto" is this device and format, if this machine has the device."""
        if device == "auto":
            with contextlib.suppress(InputError):
                device = Precision.pick(self.device, "float32", team).device.type
        if dtype in ("auto", self.dtype) and (device == self.device or not self.free):
            return replace(Precision.pick(device, self.dtype, team), free=self.free)
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

    def __post_init__(self):
        kinds = {"preset": str, "data": str, "data_sha256": str, "seed": int, "total_steps": int | None}
        if faults := [name for name, kind in kinds.items() if not isinstance(getattr(self, name), kind)]:
            raise InputError(f"unexpected {', '.join(faults)}")

    @classmethod
    def from_dict(cls, content: dict) -> "RunConfig":
        parts = {
            "budget": Budget, "model": ModelConfig, "train": TrainConfig, "begun": Format, "init_from": Origin
        }  # fmt: skip
        return cls(**{n: parts[n](**value) if n in parts and value else value for n, value in content.items()})

    @classmethod
    def read(cls, folder: Path) -> "RunConfig":
        """From a run's config.json."""
        path = folder / "config.json"
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            if (folder / NEWEST).exists():
                raise InputError(f"{path} is missing: a checkpoint alone does not say how to go on") from None
            raise InputError(f"{folder} holds no run to resume: leave out --resume") from None
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror})") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is damaged ({error})") from error
