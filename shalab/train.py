"""The training loop: predict, charge, differentiate, clip, step."""

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab import evaluate as evaluation
from shalab import snapshot
from shalab.batches import Streams, Windows
from shalab.clock import CHECKPOINT_S, Stopwatch, evaluations_by, report_due, steps_by_clock, trust_due
from shalab.corpus import Corpus
from shalab.device import Precision, compiled
from shalab.events import CheckpointEvent, EndEvent, EvalEvent, Event, SampleEvent, StepEvent, TrustEvent
from shalab.generate import generate
from shalab.model import SHARNN, State
from shalab.optim import Lamb, adamw
from shalab.presets import TrainConfig
from shalab.schedules import SCHEDULES, cooldown_start

# T window, B streams, V vocabulary


class NonFiniteError(ArithmeticError):
    """A loss, a gradient, a weight or a score is NaN or infinite. No checkpoint holds it."""


class Trainer:
    """Trains a model, and yields events as it goes on.

    total_steps  length of the run, on which the learning-rate schedule depends
    minutes      the length in training time instead: total_steps is then estimated again whenever an update is reported
    seed         of dropout and window lengths; the model was initialised before
    save         called with the training's state at each checkpoint; of several processes only in the first
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
        self.corpus, self.config, self.precision, self.save = corpus, config, precision, save
        self.total_steps, self.minutes, self.seed = total_steps, minutes, seed
        self.model = precision.place(model)
        model.checkpoint_blocks = config.checkpoint_blocks
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "lamb":
            decay, min_trust = config.weight_decay, config.min_trust
            self.optimizer = Lamb(model.parameters(), config.lr, weight_decay=decay, min_trust=min_trust)
        else:
            self.optimizer = adamw(model.parameters(), config.lr, config.weight_decay)
        self.scaler = precision.scaler()
        self.team = precision.team
        self.parallel_model: Callable = self.team.model(self.model)
        if config.compile:
            self.parallel_model = compiled(self.parallel_model)
        self.own_streams = self.team.own_streams(config.batch_size)
        streams = Streams(corpus.split("train"), config.batch_size, self.own_streams)
        self.windows = Windows(streams, config.bptt, config.vary_bptt, seed, precision.place)
        self.stopwatch = Stopwatch(config.log_every)
        self.state: State | None = None
        self.step = self.scored = self.n_bytes = 0
        self.cooled = self.saved = False  # the cool-down has begun; the newest checkpoint is of this very state
        self.broken = False  # an update was interrupted, or its numbers were not finite
        self._saved_at_s = 0.0
        self.best_bpc, self.best = math.inf, self._weights()
        self.unreported: list[tuple[Tensor, Tensor]] = []  # loss and gradient norm of updates since the last report
        self.seed_dropout()

    @property
    def elapsed_s(self) -> float:
        return self.stopwatch.elapsed_s

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps and not self._evaluation_due()

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        schedule = SCHEDULES[self.config.schedule]
        return self.config.lr * schedule(self.step, self.total_steps, self.config.warmup_steps)

    def update(self) -> StepEvent | None:
        """One update of the weights; its event if one is due."""
        self.saved, self.broken = False, True
        with self.stopwatch.running():
            lr = self.lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            report = self._learn()
            self.step += 1
        self.broken = False
        if report is None:
            return None
        if self.minutes:
            elapsed_s = self.team.sum(self.elapsed_s) / self.team.size
            self.total_steps = steps_by_clock(self.step, elapsed_s, self.minutes)
        loss_nats, grad_norm = report
        return StepEvent(self.step, self.total_steps, self.n_bytes, loss_nats, lr, grad_norm, self.elapsed_s)

    def _learn(self) -> tuple[float, float] | None:
        """Predict, charge, differentiate, clip, step. Returns loss and gradient norm if they are to be reported."""
        self.model.train()
        self.optimizer.zero_grad()
        loss_nats: Any = 0.0  # then a tensor, which is not read here: nobody waits for the GPU
        for _ in range(self.config.accumulate):
            x, y = self.next_window()  # (T, B) each
            with self.precision.autocast():
                logits, self.state = self.parallel_model(x, self.state)  # predict: (T, B, V)
                loss = mean_nats(logits, y) / self.config.accumulate  # charge
            with self.precision.switches():
                self.scaler.scale(loss).backward()  # differentiate
            self.windows.prefetch()  # while the GPU still computes
            loss_nats += loss.detach()
            self.n_bytes += y.numel() * self.team.size
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        self.unreported.append((loss_nats, norm))
        report = None
        if report_due(self.step + 1, self.total_steps, self.config):
            report = self._check(self.step + 1)
            self.unreported.clear()
        nn.utils.clip_grads_with_norm_(parameters, self.config.clip, norm)  # clip
        self.scaler.step(self.optimizer)  # step
        self.scaler.update()
        return report

    def events(self, stop: threading.Event | None = None) -> Iterator[Event]:
        """Trains from the current step to the last, or until `stop` is set; ends with a checkpoint and an EndEvent."""
        stop = stop or threading.Event()
        while not self.team.ends(stop.is_set()) and not self.finished:
            if self._evaluation_due():  # before the next update, so that a run that was stopped here evaluates first
                if (score := self.evaluate(stop)) is None:
                    break
                yield score
                if self.config.sample_bytes:
                    yield self.sample()
            else:
                self._restart_from_best()
                event = self.update()
                if event:
                    yield event
                if trust_due(self.step, self.total_steps):
                    yield self.trust()
                if self._evaluation_due() or not self._checkpoint_due(event):
                    continue
            yield self.checkpoint()
        if not self.saved:
            yield self.checkpoint()
        yield EndEvent(self.step, "finished" if self.finished else "stopped")

    def next_window(self) -> tuple[Tensor, Tensor]:
        """x, y (T, B) on the device. A new epoch begins without state."""
        x, y, new_epoch = self.windows.next()
        if new_epoch:
            self.state = None
        return x, y

    def evaluate(self, stop: threading.Event | None = None) -> EvalEvent | None:
        """Scores the valid split, or its beginning, in as many streams as training reads; None if stopped meanwhile."""
        begin, end = self.corpus.bounds["valid"]
        end = min(end, begin + (self.config.valid_bytes or end - begin))
        bpc = evaluation.evaluate(
            self.model, self.corpus.data, begin, end, self.precision, stop=stop,
            n_streams=min(self.config.batch_size, end - begin), context=2 * self.model.config.max_context,
        )  # fmt: skip
        if not math.isfinite(bpc):
            if self.team.any(stop is not None and stop.is_set()):
                return None
            raise self._diverged(self.step, "the score is not finite")
        self.saved = False
        best = bpc < self.best_bpc
        if best:
            self.best_bpc, self.best = bpc, self._weights()
        self.scored = evaluations_by(self.step, self.total_steps, self.config.evaluations)  # last: until then it is due
        return EvalEvent(self.step, self.n_bytes, bpc, best, self.elapsed_s)

    def sample(self) -> SampleEvent:
        """Continues the last 100 bytes before the valid split."""
        prompt = self.corpus.split("train")[-100:].tobytes()
        ids = generate(self.model, prompt, self.config.sample_bytes, self.precision, seed=self.seed + self.step)
        return SampleEvent(self.step, bytes(ids).decode("latin-1"))

    def trust(self) -> TrustEvent:
        names = ("weight_norm", "update_norm", "trust_ratio")
        tensors = {
            name: tuple(self.optimizer.state[parameter][key].item() for key in names)
            for name, parameter in self.model.named_parameters()
            if "trust_ratio" in self.optimizer.state[parameter]  # not with AdamW, nor before the first update
        }
        return TrustEvent(self.step, tensors)

    def checkpoint(self) -> CheckpointEvent:
        """NonFiniteError instead of a checkpoint from which training could not continue."""
        self._check(self.step)
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise self._diverged(self.step, f"{name} is not finite, and was not saved")
        state = snapshot.take(self)
        self.team.first_does(lambda: self.save(state))
        self.saved, self._saved_at_s = True, self.elapsed_s
        return CheckpointEvent(self.step)

    def load(self, content: dict) -> None:
        """Continues from a checkpoint. If it does not fit, an exception, and the trainer cannot be used any more."""
        snapshot.restore(self, content)
        self.saved, self._saved_at_s = True, self.elapsed_s

    def reschedule(self, total_steps: int | None) -> None:
        """After `load`, if the run's length or settings have changed: takes its place in the new schedule.

        total_steps: None for a run of minutes.
        """
        self.total_steps = total_steps or steps_by_clock(self.step, self.elapsed_s, self.minutes or 0.0)
        self.scored = evaluations_by(self.step, self.total_steps, self.config.evaluations)
        self.cooled = self.step >= cooldown_start(self.total_steps)
        self.saved = False

    def seed_dropout(self) -> None:
        """Every process draws its own masks, the first one as if it were alone."""
        torch.manual_seed(self.seed + self.step + 1_000_003 * self.team.rank)

    def _check(self, newest: int) -> tuple[float, float] | None:
        """Mean loss of the updates that are not reported yet, and the newest one's gradient norm; waits for the GPU.

        newest: the newest update's number; it may be under way. NonFiniteError if loss or norm overflowed; not for a
        gradient while float16's loss scale is above 1, since GradScaler then skips that update and halves the scale.
        """
        if not self.unreported:
            return None
        losses, norms = zip(*self.unreported, strict=True)
        loss_nats = self.team.sum(torch.stack(losses).mean().item()) / self.team.size
        grad_norm = norms[-1].item()
        if math.isfinite(loss_nats) and (math.isfinite(grad_norm) or self.scaler.get_scale() > 1):
            return loss_nats, grad_norm
        what = "a gradient" if math.isfinite(loss_nats) else "the loss"
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                what += f", the gradient of {name}"
                break
        alone = newest > self.step and len(losses) == 1
        since = "; nothing was updated" if alone else f", since step {newest - len(losses) + 1} at the earliest"
        raise self._diverged(newest, f"{what} is not finite{since}")

    def _diverged(self, step: int, what: str) -> NonFiniteError:
        self.broken = True
        half = self.precision.dtype != torch.float32
        begin = "Go on from the last checkpoint with --resume --dtype float32, or begin" if half else "Begin"
        return NonFiniteError(
            f"step {step}: {what}. {begin} another run, with another --out and an --lr below {self.config.lr:g}"
        )

    def _evaluation_due(self) -> bool:
        return evaluations_by(self.step, self.total_steps, self.config.evaluations) > self.scored

    def _checkpoint_due(self, event: StepEvent | None) -> bool:
        """By steps, or by the clock, which is read only when an update is reported: there all processes wait anyway."""
        by_clock = self.elapsed_s - self._saved_at_s >= CHECKPOINT_S
        return self.step % self.config.checkpoint_every == 0 or (event is not None and self.team.any(by_clock))

    def _restart_from_best(self) -> None:
        """Once, at the end of the constant rate: the best weights so far are the ones to go on from."""
        config = self.config
        restarts = config.restart_from_best and config.schedule == "constant-then-half"
        if restarts and not self.cooled and self.step >= cooldown_start(self.total_steps):
            self.cooled = True
            if self.best_bpc < math.inf:
                self.broken = True  # until the update that follows
                self.model.load_state_dict(self.best)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}


def mean_nats(logits: Tensor, y: Tensor) -> Tensor:
    """What the bytes y (T, B) cost on average: cross entropy of logits (T, B, V), at least in float32."""
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # (T B, V)
    return F.cross_entropy(logits, y.flatten())
