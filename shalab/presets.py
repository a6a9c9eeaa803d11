"""Named recipes."""

from dataclasses import dataclass, replace

from shalab.errors import InputError, real, whole
from shalab.model import ModelConfig
from shalab.train import TrainConfig, steps_in_epochs

MOST = {"minutes": 1_000_000, "steps": 1_000_000_000, "epochs": 10_000}


@dataclass(frozen=True)
class Budget:
    """How long to train: exactly one of minutes, steps and epochs, at most as many as in MOST."""

    minutes: float | None = None
    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self):
        given = {name: value for name, value in vars(self).items() if value is not None}
        valid = len(given) == 1 and all(
            (whole if name == "steps" else real)(value) and 0 < value <= MOST[name] for name, value in given.items()
        )
        if not valid:
            most = ", ".join(f"{n:,} {name}" for name, n in MOST.items())
            raise InputError(
                f"a budget is exactly one of minutes, steps and epochs, above 0 and at most {most}, whole steps; "
                f"got {given or 'none'}"
            )

    def __str__(self) -> str:
        name, value = next((name, value) for name, value in vars(self).items() if value is not None)
        return f"{value:,} {name}".replace(".0 ", " ")

    def total_steps(self, n_train: int, train: TrainConfig, seed: int) -> int | None:
        """Updates in all, on n_train bytes; None for minutes, which only the clock can tell."""
        if self.epochs is not None:
            return steps_in_epochs(n_train, train, self.epochs, seed)
        return self.steps


@dataclass(frozen=True)
class Preset:
    """A model, the way to train it, and for how long unless told otherwise."""

    model: ModelConfig
    train: TrainConfig
    budget: Budget


_PAPER = TrainConfig(log_every=10)
_LAPTOP = TrainConfig(
    bptt=64, lr=5e-3, schedule="cosine", warmup_steps=100, restart_from_best=False, evaluations=10,
)  # fmt: skip

_LAPTOP_MODEL = ModelConfig(
    d_model=256, d_boom=1024, n_layers=2, attention_layers=(0,), max_context=1024,
    dropout=0.05, dropout_input=0.05, dropout_hidden=0.05, init_scale=1.0, induction=True,
)  # fmt: skip

PRESETS = {
    "laptop": Preset(_LAPTOP_MODEL, _LAPTOP, Budget(minutes=5)),
    "laptop-adamw": Preset(
        _LAPTOP_MODEL,
        replace(_LAPTOP, optimizer="adamw", min_trust=None, lr=2e-3, weight_decay=0.1),
        Budget(minutes=5),
    ),
    "paper": Preset(ModelConfig(), _PAPER, Budget(epochs=37)),
    "paper-all-heads": Preset(ModelConfig(attention_layers=(0, 1, 2, 3)), _PAPER, Budget(epochs=37)),
    "lstm": Preset(ModelConfig(attention_layers=()), _PAPER, Budget(epochs=37)),
    "tiny": Preset(
        ModelConfig(d_model=32, d_boom=64, n_layers=2, attention_layers=(0,), max_context=64),
        TrainConfig(
            batch_size=8, bptt=32, lr=1e-2, schedule="cosine", warmup_steps=10, restart_from_best=False,
            evaluations=3, sample_bytes=50,
        ),
        Budget(steps=60),
    ),
}  # fmt: skip


def find_preset(name: str) -> Preset:
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
