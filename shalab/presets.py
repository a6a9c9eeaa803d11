"""Recipes: how a model is trained, for how long, and the recipes that have a name."""

from dataclasses import dataclass, replace

from shalab.batches import steps_in_epochs
from shalab.errors import ABOVE_0, AT_LEAST_0, COUNT, FLAG, NATURAL, InputError, real, refuse, whole, wrong_fields
from shalab.model import ModelConfig
from shalab.optim import OPTIMIZERS
from shalab.schedules import SCHEDULES


@dataclass(frozen=True)
class TrainConfig:
    """The paper's recipe by default.

    batch_size        B, streams read side by side
    bptt              T, bytes per stream and window
    vary_bptt         draw each window's length anew: mostly near bptt, now and then near its half
    accumulate        windows per update
    optimizer         "lamb" or "adamw"
    lr                learning rate, before the schedule
    schedule          "constant-then-half" (the paper's), "cosine" or "linear"
    warmup_steps      steps of linear warm-up
    restart_from_best begin the cool-down of "constant-then-half" from the best weights so far
    weight_decay      added to LAMB's update; AdamW's, of matrices only
    min_trust         floor of LAMB's trust ratio; None for ordinary LAMB, and for AdamW
    clip              largest norm of the whole gradient
    evaluations       how often the valid split is scored, evenly spread over the run
    valid_bytes       score only so many bytes of valid while training; 0 for all. The final scores are always of all
    checkpoint_every  steps between checkpoints
    checkpoint_blocks compute each block again in the backward pass instead of storing what it needs: a third more
                      arithmetic, a fraction of the memory
    compile           hand the model to torch.compile: minutes of compiling, for a faster step where a GPU gains by it
    log_every         updates between two lines of the record, whose loss is the mean since the line before; only
                      then, and at checkpoints and evaluations, does an update wait for a GPU
    sample_bytes      length of the sample that follows each evaluation; 0 for none
    """

    batch_size: int = 16
    bptt: int = 1024
    vary_bptt: bool = True
    accumulate: int = 1
    optimizer: str = "lamb"
    lr: float = 2e-3
    schedule: str = "constant-then-half"
    warmup_steps: int = 800
    restart_from_best: bool = True
    weight_decay: float = 1.2e-6
    min_trust: float | None = 0.25
    clip: float = 0.25
    evaluations: int = 37
    valid_bytes: int = 0
    checkpoint_every: int = 200
    checkpoint_blocks: bool = False
    compile: bool = False
    log_every: int = 1
    sample_bytes: int = 300

    def __post_init__(self):
        faults = [
            *wrong_fields(COUNT, self, "batch_size bptt accumulate evaluations checkpoint_every log_every"),
            *wrong_fields(NATURAL, self, "valid_bytes warmup_steps sample_bytes"),
            *wrong_fields(ABOVE_0, self, "lr clip"),
            *wrong_fields(AT_LEAST_0, self, "weight_decay"),
            *(wrong_fields(AT_LEAST_0, self, "min_trust") if self.min_trust is not None else ()),
            *wrong_fields(FLAG, self, "vary_bptt restart_from_best checkpoint_blocks compile"),
        ]
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", tuple(SCHEDULES))):
            faults += wrong_fields((f"one of {', '.join(choices)}", choices.__contains__), self, name)
        numbers = {name: x for name, x in vars(self).items() if whole(x) or real(x)}
        faults += [f"{name} must be at most 2^62" for name, x in numbers.items() if x > 2**62]
        if self.optimizer == "adamw" and self.min_trust is not None:
            faults.append(f"min_trust is LAMB's: with optimizer adamw it must be None, got {self.min_trust!r}")
        refuse(faults)


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

    @property
    def given(self) -> tuple[str, float]:
        """The unit, and how many of it."""
        return next((name, value) for name, value in vars(self).items() if value is not None)

    def __str__(self) -> str:
        name, value = self.given
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

_OVERNIGHT_MODEL = replace(_LAPTOP_MODEL, dropout=0.0, dropout_input=0.0, dropout_hidden=0.0)

PRESETS = {
    "laptop": Preset(_LAPTOP_MODEL, _LAPTOP, Budget(minutes=5)),
    "laptop-adamw": Preset(
        _LAPTOP_MODEL, replace(_LAPTOP, optimizer="adamw", min_trust=None, lr=2e-3, weight_decay=0.1), Budget(minutes=5)
    ),
    "overnight": Preset(  # a long text, such as enwik8; on a short one it learns by heart
        _OVERNIGHT_MODEL, replace(_LAPTOP, evaluations=20, valid_bytes=500_000), Budget(minutes=480)
    ),
    "evening": Preset(  # one modern GPU; not measured on one yet
        replace(_LAPTOP_MODEL, d_model=1024, d_boom=4096, n_layers=4, attention_layers=(2,), max_context=2048),
        replace(_LAPTOP, batch_size=64, bptt=512, lr=3e-3, warmup_steps=400, evaluations=18, log_every=10),
        Budget(minutes=90),
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
        raise InputError(f"no preset is called {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
