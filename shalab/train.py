"""The training loop: one generator of events that the terminal, the notebooks and the tests read alike."""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab import evaluate as evaluation
from shalab.batches import Streams, draw_bptt
from shalab.corpus import Corpus
from shalab.device import Precision, compiled, to_host
from shalab.errors import ABOVE_0, AT_LEAST_0, COUNT, FLAG, NATURAL, refuse, wrong_fields
from shalab.generate import generate
from shalab.model import SHARNN, State
from shalab.optim import OPTIMIZERS, SCHEDULES, Lamb, adamw, cooldown_start


@dataclass(frozen=True)
class TrainConfig:
    """The paper's recipe by default.

    batch_size        B, streams read side by side
    bptt              T, bytes per stream and window
    vary_bptt         draw each window's length near bptt or its half, as `draw_bptt` says
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
    checkpoint_every  steps between checkpoints
    checkpoint_blocks compute each block again in the backward pass instead of storing what it needs: a third more
                      arithmetic, a fraction of the memory
    compile           hand the model to torch.compile: minutes of compiling, for a faster step where a GPU gains by it
    log_every         updates between StepEvents, whose loss is the mean since the one before; only then, and at
                      checkpoints and evaluations, does an update wait for a GPU
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
    checkpoint_every: int = 200
    checkpoint_blocks: bool = False
    compile: bool = False
    log_every: int = 1
    sample_bytes: int = 300

    def __post_init__(self):
        faults = [
            *wrong_fields(COUNT, self, "batch_size bptt accumulate evaluations checkpoint_every log_every"),
            *wrong_fields(NATURAL, self, "warmup_steps sample_bytes"),
            *wrong_fields(ABOVE_0, self, "lr clip"),
            *wrong_fields(AT_LEAST_0, self, "weight_decay"),
            *(wrong_fields(AT_LEAST_0, self, "min_trust") if self.min_trust is not None else ()),
            *wrong_fields(FLAG, self, "vary_bptt restart_from_best checkpoint_blocks compile"),
        ]
        for name, choices in (("optimizer", OPTIMIZERS), ("schedule", tuple(SCHEDULES))):
            faults += wrong_fields((f"one of {', '.join(choices)}", choices.__contains__), self, name)
        if self.optimizer == "adamw" and self.min_trust is not None:
            faults.append(f"min_trust is LAMB's: with adamw it must be None, got {self.min_trust!r}")
        refuse(faults)


@dataclass(frozen=True)
class StepEvent:
    """An update, or the last of `log_every`.

    total_steps  of a run of minutes, as many as it will have at the speed so far
    loss_nats    mean per byte, before the update
    grad_norm    before clipping
    elapsed_s    training time, without evaluations and without what held it up
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
    """The valid split's bits per byte, read in parallel streams; best is True if it is the lowest so far."""

    step: int
    n_bytes: int
    valid_bpc: float
    best: bool
    elapsed_s: float


@dataclass(frozen=True)
class SampleEvent:
    """What the model writes now; bytes as Latin-1 text, so that every byte is kept."""

    step: int
    text: str


@dataclass(frozen=True)
class TrustEvent:
    """What LAMB did to each tensor in the update before: name -> (weight_norm, update_norm, trust_ratio). AdamW: {}."""

    step: int
    tensors: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class CheckpointEvent:
    step: int


@dataclass(frozen=True)
class EndEvent:
    """reason: "finished", or "stopped" if it was asked to."""

    step: int
    reason: str


Event = StepEvent | TrustEvent | EvalEvent | SampleEvent | CheckpointEvent | EndEvent

N_TRUST_EVENTS = 100  # in a run, about, and evenly spread


class NonFiniteError(ArithmeticError):
    """Loss or gradient is NaN or infinite; the parameters are still those of the step before."""


class Trainer:
    """Everything that changes while a model learns, and the loop that changes it.

    model, corpus   what learns from what
    total_steps     length of the run; the schedule is a function of it
    minutes         the length instead, of training time: total_steps then follows the clock, see `steps_by_clock`
    seed            of dropout and of the drawn window lengths. The model was initialised before.
    save            called with `state_dict()` at each checkpoint
    """

    def __init__(
        self,
        model: SHARNN,
        corpus: Corpus,
        config: TrainConfig,
        precision: Precision,
        total_steps: int = 1,
        seed: int = 0,
        save: Callable[[dict], None] = lambda state: None,
        minutes: float | None = None,
    ):
        self.model = precision.place(model)
        model.checkpoint_blocks = config.checkpoint_blocks
        self.corpus, self.config, self.precision, self.save = corpus, config, precision, save
        self.total_steps, self.minutes, self.seed = total_steps, minutes, seed
        if config.optimizer == "lamb":
            self.optimizer = Lamb(
                model.parameters(), lr=config.lr, weight_decay=config.weight_decay, min_trust=config.min_trust
            )
        else:
            self.optimizer = adamw(model.parameters(), config.lr, config.weight_decay)
        self.scaler = precision.scaler()
        self.team = precision.team
        self.parallel_model = self.team.model(self.model)
        if config.compile:
            self.parallel_model = compiled(self.parallel_model)
        self.share = self.team.share(config.batch_size)
        self.streams = Streams(corpus.split("train"), config.batch_size, self.share)
        self.window_generator = torch.Generator().manual_seed(seed)
        self.step = self.scored = self.n_bytes = self.cursor = 0
        self.elapsed_s, self.cooled = 0.0, False
        self.state: State | None = None
        self._window: tuple[int, Tensor, Tensor, Tensor] | None = None  # the next: position, generator before it, x, y
        self._updates, self._updates_s = 0, 0.0  # of this process, however long the run has been elsewhere
        self._unread: list[tuple[Tensor, Tensor]] = []  # loss and gradient norm of updates that nobody waited for
        self.best_bpc, self.best = math.inf, self._weights()
        self._saved = False  # what there is now
        self._seed()

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps and not self._evaluation_due()

    def events(self, stop: threading.Event | None = None) -> Iterator[Event]:
        """Trains from the current step to the last, or until `stop` is set; ends with a checkpoint and an EndEvent."""
        stop = stop or threading.Event()
        while not self.team.ends(stop.is_set()) and not self.finished:
            if self._evaluation_due():  # asked before the next update, so that a run stopped here scores when resumed
                if (event := self.evaluate(stop)) is None:
                    break
                yield event
                if self.config.sample_bytes:
                    yield self.sample()
            else:
                if not self.cooled and self._cooldown_begins():
                    self.cooled = True
                    if self.best_bpc < math.inf:
                        self.model.load_state_dict(self.best)
                if event := self.update():
                    yield event
                if self.step % math.ceil(self.total_steps / N_TRUST_EVENTS) == 0:
                    yield self.trust()
                if self._evaluation_due() or self.step % self.config.checkpoint_every:
                    continue
            yield self.checkpoint()
        if not self._saved:
            yield self.checkpoint()
        yield EndEvent(self.step, "finished" if self.finished else "stopped")

    def checkpoint(self) -> CheckpointEvent:
        """Saves, but nothing that could not be gone on with."""
        self._read()
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise NonFiniteError(f"step {self.step}: {name} is not finite, and was not saved. {self._advice()}")
        self.save(self.state_dict())
        self._saved = True
        return CheckpointEvent(self.step)

    def update(self) -> StepEvent | None:
        """One update: predict, charge, differentiate, clip, step; its event if one is due."""
        began = time.perf_counter()
        self._saved = False
        self.model.train()
        lr = self.config.lr * SCHEDULES[self.config.schedule](self.step, self.total_steps, self.config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss_nats = 0.0  # becomes a tensor, which nobody waits for
        for _ in range(self.config.accumulate):
            x, y = self.next_window()
            with self.precision.autocast():
                logits, self.state = self.parallel_model(x, self.state)  # (T, B, V)
                logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # (T B, V)
                loss = F.cross_entropy(logits, y.flatten()) / self.config.accumulate
            with self.precision.switches():
                self.scaler.scale(loss).backward()
            self._fetch_window()  # while a GPU still computes
            loss_nats += loss.detach()
            self.n_bytes += y.numel() * self.team.size
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        self._unread.append((loss_nats, norm))
        due = self._due(self.step + 1)
        if due:
            loss_nats, grad_norm = self._read()
        nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        took = time.perf_counter() - began
        if self._updates:  # what holds up an update more than tenfold, such as Ctrl-Z, is no training time
            took = min(took, 10 * self.config.log_every * self._updates_s / self._updates)
        self._updates += 1
        self._updates_s += took
        self.elapsed_s += took
        if due:
            if self.minutes:
                elapsed_s = self.team.sum(self.elapsed_s) / self.team.size
                self.total_steps = steps_by_clock(self.step, elapsed_s, self.minutes)
            return StepEvent(self.step, self.total_steps, self.n_bytes, loss_nats, lr, grad_norm, self.elapsed_s)

    def trust(self) -> TrustEvent:
        names = ("weight_norm", "update_norm", "trust_ratio")
        tensors = {
            name: tuple(self.optimizer.state[parameter][key].item() for key in names)
            for name, parameter in self.model.named_parameters()
            if "trust_ratio" in self.optimizer.state[parameter]  # AdamW has none, nor an update that the scaler skipped
        }
        return TrustEvent(self.step, tensors)

    def next_window(self):
        """x, y (T, B) on the device; at the end of the streams a new epoch begins, without state."""
        self._fetch_window()
        (begin, _, x, y), self._window = self._window, None
        if begin == 0:
            self.state = None
        self.cursor = begin + len(x)
        return x, y

    def _fetch_window(self) -> None:
        """Draws the window behind the cursor and sends it on its way, unless that was done. Nothing that a checkpoint
        keeps changes before `next_window`."""
        if self._window:
            return
        random = self.window_generator.get_state()
        begin = self.cursor if self.cursor < self.streams.n_positions else 0
        bptt = draw_bptt(self.config.bptt, self.window_generator) if self.config.vary_bptt else self.config.bptt
        self._window = begin, random, *map(self.precision.place, self.streams.window(begin, bptt))

    def evaluate(self, stop: threading.Event | None = None) -> EvalEvent | None:
        """Scores the valid split in as many streams as training reads; None if stopped meanwhile.

        Raises NonFiniteError if the score is no number.
        """
        begin, end = self.corpus.bounds["valid"]
        n_streams = min(self.config.batch_size, end - begin)
        bpc = evaluation.evaluate(
            self.model, self.corpus.data, begin, end, self.precision,
            n_streams=n_streams, context=2 * self.model.config.max_context, stop=stop,
        )  # fmt: skip
        if not math.isfinite(bpc):
            if self.team.any(stop is not None and stop.is_set()):
                return None
            raise NonFiniteError(f"step {self.step}: the score is not finite. {self._advice()}")
        self._saved = False
        self.scored = self._evaluations_by(self.step)
        best = bpc < self.best_bpc
        if best:
            self.best_bpc, self.best = bpc, self._weights()
        return EvalEvent(self.step, self.n_bytes, bpc, best, self.elapsed_s)

    def sample(self) -> SampleEvent:
        """Continues the last 100 bytes before the valid split."""
        prompt = self.corpus.split("train")[-100:].tobytes()
        ids = generate(self.model, prompt, self.config.sample_bytes, self.precision, seed=self.seed + self.step)
        return SampleEvent(self.step, bytes(ids).decode("latin-1"))

    def state_dict(self) -> dict:
        """All that a fresh Trainer of the same arguments needs to go on as if nothing had happened.

        Several processes call it together; the first one gets the state of all streams, the others nothing.
        """
        hidden, memory = (self.state.hidden, self.state.memory) if self.state else ((), ())
        parts = self.team.gather(
            {
                "hidden": [[to_host(part) for part in pair] for pair in hidden],
                "memory": [None if rows is None else to_host(rows) for rows in memory],
                "random": self.precision.random_state(),
            }
        )
        if not parts:
            return {}
        hidden, memory = (zip(*(part[name] for part in parts), strict=True) for name in ("hidden", "memory"))
        return {
            "model": self.model.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "hidden": [[torch.cat(part, 1) for part in zip(*pairs, strict=True)] for pairs in hidden],  # (1, B, D)
            "memory": [None if rows[0] is None else torch.cat(rows, 1) for rows in memory],  # (M, B, D)
            "random": [part["random"] for part in parts],
            "window_random": self._window[1] if self._window else self.window_generator.get_state(),
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: dict) -> None:
        """Written by as many processes as it is read by, or by another number: then dropout draws anew.

        Written in another format, too: then the loss scale begins anew. ValueError or another exception for a state
        that does not fit; the trainer is of no use then.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            if any(moment.ndim and moment.shape != parameter.shape for moment in moments.values()):
                raise ValueError("moments of other tensors")
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.state = None
        hidden, memory = state["hidden"], state["memory"]
        parts = [*itertools.chain(*hidden), *(rows for rows in memory if rows is not None)]
        streams = self.config.batch_size, self.model.config.d_model
        fits = len(hidden) == len(memory) and len(hidden) in (0, len(self.model.blocks))
        if not fits or any(part.shape[1:] != streams for part in parts):
            raise ValueError("a state of other streams")
        if hidden:
            self.state = State(
                tuple((self._own(h), self._own(c)) for h, c in hidden),
                tuple(None if rows is None else self._own(rows) for rows in memory),
            )
        self._window = None
        self.window_generator.set_state(state["window_random"])
        for name in _COUNTERS:
            if type(state[name]) is not type(getattr(self, name)):
                raise ValueError(f"{name} is {state[name]!r}")
            setattr(self, name, state[name])
        self._saved = True
        if len(state["random"]) == self.team.size:
            self.precision.set_random_state(state["random"][self.team.rank])
        else:
            self._seed()

    def _due(self, step: int) -> bool:
        """Whether the update that leads to `step` is waited for."""
        every = (self.config.log_every, self.config.checkpoint_every, math.ceil(self.total_steps / N_TRUST_EVENTS))
        return any(step % k == 0 for k in every) or self._evaluations_by(step) > self._evaluations_by(step - 1)

    def _read(self) -> tuple[float, float]:
        """Mean loss of the updates not read yet and the last one's gradient norm; waits for the device."""
        if not self._unread:
            return math.nan, math.nan
        losses, norms = zip(*self._unread, strict=True)
        loss_nats = self.team.sum(torch.stack(losses).mean().item()) / self.team.size
        grad_norm = norms[-1].item()
        self._unread.clear()
        self._check_finite(loss_nats, grad_norm)
        return loss_nats, grad_norm

    def _check_finite(self, loss_nats: float, grad_norm: float) -> None:
        if math.isfinite(loss_nats) and (math.isfinite(grad_norm) or self.scaler.get_scale() > 1):
            return  # the scaler skips the update by itself and lowers its scale, until that does not help
        name = "the loss" if not math.isfinite(loss_nats) else "a gradient"
        for parameter_name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                name += f", the gradient of {parameter_name}"
                break
        since = " by this step, but perhaps by those before" if self.config.log_every > 1 else ""
        raise NonFiniteError(
            f"step {self.step + 1}: {name} is not finite; nothing was updated{since}. {self._advice()}"
        )

    def _advice(self) -> str:
        half = self.precision.dtype != torch.float32
        return (
            "Go on from the last checkpoint with --resume --dtype float32, or begin" if half else "Begin"
        ) + f" another run, with another --out and an --lr below {self.config.lr:g}"

    def _own(self, x: Tensor) -> Tensor:
        """This process's streams of x (., B, D), in float32: every format makes what it needs of it, without loss."""
        return self.precision.place(x[:, self.share].float().contiguous())

    def _seed(self) -> None:
        """Every process draws dropout of its own, the first one as if it were alone."""
        torch.manual_seed(self.seed + self.step + 1_000_003 * self.team.rank)

    def _weights(self) -> dict:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _evaluation_due(self) -> bool:
        return self._evaluations_by(self.step) > self.scored

    def _evaluations_by(self, step: int) -> int:
        return step * self.config.evaluations // self.total_steps

    def _cooldown_begins(self) -> bool:
        config = self.config
        restarts = config.restart_from_best and config.schedule == "constant-then-half"
        return restarts and self.step >= cooldown_start(self.total_steps)


_COUNTERS = ("step", "total_steps", "scored", "cooled", "n_bytes", "cursor", "elapsed_s", "best_bpc")


def steps_by_clock(step: int, elapsed_s: float, minutes: float) -> int:
    """As many steps in all as `minutes` will hold at the mean speed so far; `step` itself when they are over.

    Asked for again and again, it makes step / total_steps, and with it the schedule but for the warm-up, the share of
    the time that has passed, however the machine's speed varies.
    """
    return max(step, math.ceil(step * 60 * minutes / elapsed_s))


def steps_in_epochs(n_train: int, config: TrainConfig, epochs: float, seed: int) -> int:
    """Updates that `epochs` passes over n_train bytes take: the window lengths are drawn once more."""
    n_positions = n_train // config.batch_size - 1
    generator = torch.Generator().manual_seed(seed)
    windows, left = 0, round(n_positions * epochs)
    while left > 0:
        cursor = n_positions
        while cursor > 0 and left > 0:
            length = draw_bptt(config.bptt, generator) if config.vary_bptt else config.bptt
            length = min(length, cursor)
            cursor, left, windows = cursor - length, left - length, windows + 1
    return math.ceil(windows / config.accumulate)
