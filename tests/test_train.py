import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch._inductor.config

from shalab import SHARNN, InputError, ModelConfig, snapshot
from shalab.batches import Streams, draw_bptt, steps_in_epochs
from shalab.checkpoint import load_checkpoint, load_model, save_checkpoint
from shalab.corpus import Corpus
from shalab.device import Precision
from shalab.evaluate import evaluate
from shalab.export import export
from shalab.presets import PRESETS, Budget, Preset
from shalab.run import Run
from shalab.train import (
    CheckpointEvent,
    EndEvent,
    EvalEvent,
    NonFiniteError,
    SampleEvent,
    StepEvent,
    TrainConfig,
    Trainer,
    TrustEvent,
)

# Streams of 2003 * 0.9 / 5 = 360 bytes, windows near 17: an epoch is about 21 updates; a memory of 23 fills in two.
RECIPE = TrainConfig(batch_size=5, bptt=17, lr=1e-2, warmup_steps=3, evaluations=3, checkpoint_every=7, sample_bytes=11)


@pytest.fixture
def preset(small):
    return Preset(small.config, RECIPE, Budget(steps=31))


@pytest.fixture
def path(tmp_path, text):
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    return str(tmp_path / "own.txt")


def make_trainer(text, precision, total_steps=31, recipe=RECIPE, **options):
    torch.manual_seed(1)
    model = SHARNN(ModelConfig(256, 11, 33, n_layers=3, attention_layers=(1,), max_context=23))
    return Trainer(model, Corpus("own", text), recipe, precision, total_steps, seed=2, **options)


def test_streams_cover_the_text_in_order():
    data = np.arange(251, dtype=np.uint8)
    streams = Streams(data, 7)  # 35 bytes each, 6 left over
    assert streams.n_positions == 34
    xs, ys, cursor = [], [], 0
    while cursor < streams.n_positions:
        x, y = streams.window(cursor, 13)
        assert torch.equal(x[1:], y[:-1])
        xs.append(x)
        ys.append(y)
        cursor += len(x)
    assert [len(x) for x in xs] == [13, 13, 8]
    assert torch.equal(torch.cat(xs).T.flatten(), torch.tensor([i for i in range(245) if i % 35 != 34]))
    assert torch.equal(torch.cat(ys).T.flatten(), torch.tensor([i for i in range(245) if i % 35 != 0]))
    with pytest.raises(InputError, match="251 training bytes cannot feed 126 streams .* --batch-size 125"):
        Streams(data, 126)


def test_drawn_window_lengths():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_bptt(1024, generator) for _ in range(4000)]
    assert max(draws) == 1024 and min(draws) >= 480
    assert np.mean([d < 700 for d in draws]) == pytest.approx(0.05, abs=0.012)
    long = [d for d in draws if d > 700]
    assert min(long) >= 1000 and np.mean([d == 1024 for d in long]) == pytest.approx(0.54, abs=0.03)
    assert {draw_bptt(3, generator) for _ in range(50)} == {3}
    assert min(draw_bptt(8, generator) for _ in range(500)) == 5


def test_events_tell_the_whole_run(text, precision):
    saved = []
    trainer = make_trainer(text, precision, save=saved.append)
    events = list(trainer.events())
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert [event.step for event in steps] == list(range(1, 32))
    assert steps[0].lr == pytest.approx(1e-2 / 3) and steps[5].lr == 1e-2 and steps[-1].lr == 5e-3
    assert [event.step for event in events if isinstance(event, EvalEvent)] == [11, 21, 31]
    assert [event.step for event in events if isinstance(event, SampleEvent)] == [11, 21, 31]
    assert [event.step for event in events if isinstance(event, CheckpointEvent)] == [7, 11, 14, 21, 28, 31]
    assert len(saved) == 6 and events[-1] == EndEvent(31, "finished")
    scores = [event for event in events if isinstance(event, EvalEvent)]
    assert min(score.valid_bpc for score in scores) == trainer.best_bpc < 6
    assert steps[-1].loss_nats < steps[0].loss_nats - 1


def test_an_evaluation_may_read_the_beginning_of_valid_only(text, precision):
    trainer = make_trainer(text, precision, recipe=replace(RECIPE, valid_bytes=20))
    begin, end = trainer.corpus.bounds["valid"]
    expected = evaluate(trainer.model, text, begin, begin + 20, precision, n_streams=5, context=2 * 23)
    assert trainer.evaluate().valid_bpc == expected
    trainer.config = replace(RECIPE, valid_bytes=10**9)
    assert trainer.evaluate().valid_bpc == make_trainer(text, precision).evaluate().valid_bpc != expected


def test_learning_curve_is_the_kept_one(text, precision):
    """Same seed, same losses. The band is for other processors' order of summation, which training amplifies."""
    losses = [e.loss_nats for e in make_trainer(text, precision).events() if isinstance(e, StepEvent)]
    again = [e.loss_nats for e in make_trainer(text, precision).events() if isinstance(e, StepEvent)]
    assert losses == again
    kept = {0: 5.544, 5: 4.425, 10: 3.067, 15: 3.069, 20: 3.061, 25: 2.884, 30: 2.893}
    assert {step: losses[step] for step in kept} == pytest.approx(kept, abs=0.02)


def test_accumulated_windows_are_one_update(text, precision):
    """Two windows of 17, accumulated, have the gradient of their mean loss; the state runs through both."""
    recipe = dataclasses.replace(RECIPE, accumulate=2, vary_bptt=False, clip=1e9)
    torch.manual_seed(1)
    quiet = ModelConfig(256, 11, 33, 3, 1, (1,), 23, 0.0, 0.0, 0.0)
    trainer = Trainer(SHARNN(quiet), Corpus("own", text), recipe, precision, 10)
    trainer.update()
    found = [p.grad.clone() for p in trainer.model.parameters()]
    torch.manual_seed(1)
    model, streams, state = SHARNN(quiet), Streams(text[: 2003 * 90 // 100], 5), None
    for cursor in (0, 17):
        x, y = streams.window(cursor, 17)
        logits, state = model(x, state)
        (torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()) / 2).backward()
    for a, b in zip(found, model.parameters(), strict=True):
        assert torch.allclose(a, b.grad, atol=1e-8)
    assert trainer.n_bytes == 2 * 17 * 5


def test_the_best_weights_are_those_with_the_lowest_score(text, precision, monkeypatch):
    scores = iter([3.0, 2.0, 2.5])
    monkeypatch.setattr("shalab.evaluate.evaluate", lambda *_, **__: next(scores))
    trainer = make_trainer(text, precision)
    events = [event for event in trainer.events() if isinstance(event, EvalEvent)]
    assert [event.best for event in events] == [True, True, False] and trainer.best_bpc == 2.0
    assert any((trainer.best[name] != now).any() for name, now in trainer.model.state_dict().items())


def test_cool_down_begins_from_the_best_weights(text, precision):
    trainer = make_trainer(text, precision, total_steps=37)
    for event in trainer.events():
        if isinstance(event, StepEvent) and event.step == 31:
            trainer.best = {name: torch.full_like(t, 0.125) for name, t in trainer.best.items()}
            trainer.best_bpc = 0.0
        if isinstance(event, StepEvent) and event.step == 33:
            assert (trainer.model.embedding.weight - 0.125).abs().max() < 0.02
            break


@pytest.mark.parametrize("epochs", [0.5, 1, 2.3])
def test_epochs_become_steps(text, precision, epochs):
    trainer = make_trainer(text, precision)
    n_positions, steps = trainer.windows.streams.n_positions, steps_in_epochs(2003 * 90 // 100, RECIPE, epochs, 2)
    for _ in range(steps):
        trainer.update()
    assert epochs * n_positions <= trainer.n_bytes / 5 < epochs * n_positions + 17


@pytest.mark.parametrize("fault", ["parameter", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_updates_nothing(text, precision, fault):
    trainer = make_trainer(text, precision)
    trainer.update()
    if fault == "parameter":
        with torch.no_grad():
            trainer.model.blocks[0].boom.widen.bias[3] = math.inf
    else:
        trainer.model.decoder.bias.register_hook(lambda grad: grad * math.nan)
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(NonFiniteError, match=r"step 2: .* not finite; nothing was updated. Begin another run") as error:
        trainer.update()
    if fault == "gradient":
        assert "the gradient of decoder.bias" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_what_broke_before_a_report_is_not_called_an_update_that_was_not_made(text, precision):
    trainer = make_trainer(text, precision, 5000, replace(RECIPE, log_every=10, checkpoint_every=10))
    for _ in range(13):
        trainer.update()
    trainer.model.decoder.bias.register_hook(lambda grad: grad * math.nan)
    trainer.update()  # clipped and applied: nobody has looked yet
    with pytest.raises(NonFiniteError, match=r"step 14: a gradient, .* is not finite, since step 11 at the earliest\."):
        trainer.checkpoint()


@pytest.mark.parametrize("k", [1, 7, 11, 13, 21, 30, 31])  # 7: a checkpoint; 11, 21, 31: evaluations are due
def test_resume_is_exact(path, preset, precision, tmp_path, k):
    """Stopped after k updates at an arbitrary place and resumed, against never stopped: bit for bit."""
    straight = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    list(straight.events())
    halted = Run.create(tmp_path / "b", "own", preset, path, 3, precision=precision)
    for event in halted.events():
        if event.step == k:
            halted.stop.set()
    torch.manual_seed(99)  # whatever happened in between does not matter
    resumed = Run.resume(tmp_path / "b", precision)
    assert resumed.trainer.step == k
    list(resumed.events())
    _same(straight, resumed)


def test_the_mean_loss_of_ten_updates_survives_a_stop_among_them(path, preset, precision, tmp_path):
    preset = replace(preset, train=replace(RECIPE, log_every=10, checkpoint_every=10), budget=Budget(steps=500))
    straight = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    list(straight.events())
    halted = Run.create(tmp_path / "b", "own", preset, path, 3, precision=precision)
    update = halted.trainer.update

    def stopped():  # at the step 13: reports are at 10, 15 and 20
        event = update()
        if halted.trainer.step == 13:
            halted.stop.set()
        return event

    halted.trainer.update = stopped
    assert list(halted.events())[-1] == EndEvent(13, "stopped")
    resumed = Run.resume(tmp_path / "b", precision)
    list(resumed.events())
    _same(straight, resumed)


def test_an_evaluation_that_was_broken_off_is_still_due(text, precision):
    """Also while the best weights are copied, after the score is known."""
    trainer = make_trainer(text, precision)
    while not trainer._evaluation_due():
        trainer.update()

    def break_off():
        raise KeyboardInterrupt

    trainer._weights, weights = break_off, trainer._weights
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    assert trainer._evaluation_due() and trainer.best_bpc == math.inf
    trainer._weights = weights
    assert trainer.evaluate().best and not trainer._evaluation_due()


def test_what_two_processes_had_not_reported_one_reports_as_their_mean(text, precision):
    trainer = make_trainer(text, precision, 5000, replace(RECIPE, log_every=10, checkpoint_every=10))
    trainer.update()
    content = snapshot.take(trainer)
    content["random"] = content["random"] * 2
    content["unreported"] = [[(torch.tensor(x), torch.tensor(7.0))] * 2 for x in (1.0, 4.0)]
    other = make_trainer(text, precision, 5000, replace(RECIPE, log_every=10, checkpoint_every=10))
    other.load(content)
    assert [(loss.item(), norm.item()) for loss, norm in other.unreported] == [(2.5, 7.0)] * 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])  # float16 scales the loss
def test_resume_with_adamw_is_exact(path, preset, tmp_path, dtype):
    precision = Precision.pick("cpu", dtype)
    preset = replace(preset, train=replace(RECIPE, optimizer="adamw", min_trust=None, weight_decay=0.1))
    straight = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    events = list(straight.events())
    assert all(event.tensors == {} for event in events if isinstance(event, TrustEvent))
    halted = Run.create(tmp_path / "b", "own", preset, path, 3, precision=precision)
    for event in halted.events():
        if event.step == 13:
            halted.stop.set()
    resumed = Run.resume(tmp_path / "b", precision)
    list(resumed.events())
    _same(straight, resumed)


def _same(straight, resumed):
    for a, b in zip(straight.trainer.model.parameters(), resumed.trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(straight.trainer.best[name], t) for name, t in resumed.trainer.best.items())
    lines = [
        [_without_time(line) for line in run.metrics() if line["event"] != "checkpoint"] for run in (straight, resumed)
    ]
    assert [line for line in lines[0] if line["event"] != "end"] == [
        line for line in lines[1] if line["event"] != "end"
    ]


def _without_time(line):
    return {name: value for name, value in line.items() if name != "elapsed_s"}


def test_resume_after_sigkill_in_a_fresh_process(path, preset, precision, tmp_path):
    """Killed in the middle of an epoch with a full memory, dropout on and drawn window lengths."""
    straight = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    list(straight.events())
    Run.create(tmp_path / "b", "own", preset, path, 3, precision=precision)
    code = (  # which waits at step 17, before it goes on to the checkpoint of step 21
        "import sys; from shalab.run import Run; from shalab.device import Precision\n"
        f"for event in Run.resume({str(tmp_path / 'b')!r}, Precision.pick('cpu', 'float32')).events():\n"
        "    print(event.step, flush=True); event.step == 17 and sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) == 17:
            child.send_signal(signal.SIGKILL)
            break
    child.communicate()
    resumed = Run.resume(tmp_path / "b", precision)
    assert resumed.trainer.step == 14 and resumed.trainer.state.memory[1].shape[0] == 23
    again = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert again.returncode == 0
    finished = Run.resume(tmp_path / "b", precision)
    assert finished.trainer.step == 31
    _same(straight, finished)


def test_leaving_early_leaves_a_checkpoint(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, precision=precision)
    for event in run.events():
        if event.step == 5:
            break
    assert Run.resume(tmp_path / "a", precision).trainer.step == 5


def test_breaking_off_inside_an_update_keeps_the_last_checkpoint(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, precision=precision)

    def break_off(*_):  # as a second Ctrl-C would, with half of the update done
        with torch.no_grad():
            run.trainer.model.embedding.weight.fill_(7)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for event in run.events():
            if event.step == 9:
                run.trainer.optimizer.step = break_off
    resumed = Run.resume(tmp_path / "a", precision)
    assert resumed.trainer.step == 7 and not (resumed.trainer.model.embedding.weight == 7).any()


def test_finish_scores_the_best_weights(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    list(run.events())
    result = run.finish()
    assert result == json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    assert set(result) >= {
        "valid_bpc", "test_bpc", "train_seconds", "bytes_per_second", "n_parameters", "n_steps", "preset", "data",
        "data_sha256", "device", "seed", "versions",
    }  # fmt: skip
    assert result["valid_bpc"] == pytest.approx(run.trainer.best_bpc, abs=0.05)  # one stream instead of five
    assert result["n_steps"] == 31 and result["n_parameters"] == run.trainer.model.n_parameters
    model = load_model(tmp_path / "a")
    assert all(torch.equal(run.trainer.best[name], t) for name, t in model.state_dict().items())


def test_an_exported_run_is_small_and_scores_the_same(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, 3, precision=precision)
    with pytest.raises(InputError, match="holds no finished run"):
        export(tmp_path / "a", tmp_path / "b")
    list(run.events())
    bpc = run.finish()["valid_bpc"]
    export(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "checkpoint.pt").stat().st_size < (tmp_path / "a" / "checkpoint.pt").stat().st_size / 4
    begin, end = run.corpus.bounds["valid"]
    assert evaluate(load_model(tmp_path / "b"), run.corpus.data, begin, end, precision) == pytest.approx(bpc, abs=1e-3)
    with pytest.raises(InputError, match="weights to use, not a run to resume"):
        Run.resume(tmp_path / "b", precision)
    with pytest.raises(InputError, match="exists already"):
        export(tmp_path / "a", tmp_path / "b")


class Clock:
    """In place of `time` for the training loop: its update number n, counted from 1, takes took(n) seconds."""

    def __init__(self, took):
        self.took, self.now, self.calls = took, 0.0, 0

    def perf_counter(self):
        self.calls += 1
        if self.calls % 2 == 0:
            self.now += self.took(self.calls // 2)
        return self.now


SPEEDS = {
    "even": lambda n: 0.5,
    "a slow beginning": lambda n: 5.0 if n <= 4 else 0.25,
    "a fast beginning": lambda n: 0.25 if n <= 40 else 1.0,
    "changing": lambda n: 0.25 * (1 + n * n % 7),
}


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_schedule_of_a_run_of_minutes_follows_the_clock(text, precision, monkeypatch, speed):
    monkeypatch.setattr("shalab.clock.time", Clock(SPEEDS[speed]))
    recipe = replace(RECIPE, schedule="cosine", warmup_steps=0)
    trainer = make_trainer(text, precision, recipe=recipe, minutes=1.0)
    events = list(trainer.events())
    steps = [event for event in events if isinstance(event, StepEvent)]
    took = [SPEEDS[speed](step.step) for step in steps]
    assert 60 <= sum(took) < 60 + took[-1] and trainer.elapsed_s == pytest.approx(sum(took))
    for before, step in itertools.pairwise(steps):  # the rate is that of the share of the minute that was over
        assert step.lr == pytest.approx(5e-3 * (1 + math.cos(math.pi * before.elapsed_s / 60)), abs=3e-4)
    scores = [event.elapsed_s for event in events if isinstance(event, EvalEvent)]
    assert len(scores) == 3 and all(20 * k <= s <= 20 * k + max(took) for k, s in enumerate(scores, 1))
    assert events[-1] == EndEvent(len(steps), "finished")


def test_what_holds_up_an_update_is_no_training_time(text, precision, monkeypatch):
    """Ctrl-Z for an hour: ten updates' time is counted, not an hour, which would end the run at its highest rate."""
    monkeypatch.setattr("shalab.clock.time", Clock(lambda n: 3600 if n == 50 else 0.5))
    trainer = make_trainer(text, precision, minutes=1.0)
    ended = list(trainer.events())[-1]
    assert ended == EndEvent(120 - 9, "finished") and trainer.elapsed_s == pytest.approx(60)


def test_a_slower_machine_is_not_held_up(path, preset, precision, tmp_path, monkeypatch):
    """Resumed where an update takes eighty times as long, a run still ends when its minute is over."""
    monkeypatch.setattr("shalab.clock.time", Clock(lambda n: 0.125))
    run = Run.create(tmp_path / "a", "own", preset, path, 3, Budget(minutes=1), precision)
    for event in run.events():
        if event.step == 80:
            run.stop.set()
    monkeypatch.setattr("shalab.clock.time", Clock(lambda n: 10.0))
    resumed = Run.resume(tmp_path / "a", precision)
    assert list(resumed.events())[-1] == EndEvent(85, "finished") and resumed.trainer.elapsed_s == pytest.approx(60)


def test_the_cool_down_of_a_run_of_minutes_begins_once(text, precision, monkeypatch):
    """Though one slow update passes over the step at which it would have begun."""
    monkeypatch.setattr("shalab.clock.time", Clock(lambda n: 3.0 if n == 102 else 0.5))
    trainer = make_trainer(text, precision, minutes=1.0)
    loaded = []
    monkeypatch.setattr(trainer.model, "load_state_dict", lambda state: loaded.append(trainer.elapsed_s))
    list(trainer.events())
    assert loaded == [pytest.approx(53.5)]  # 32 / 37 of 60 s is 51.9 s


@pytest.mark.parametrize("k", [1, 13, 50, 71])
def test_resuming_a_run_of_minutes_is_exact(path, preset, precision, tmp_path, monkeypatch, k):
    speed = SPEEDS["changing"]
    runs = []
    for name in "ab":
        monkeypatch.setattr("shalab.clock.time", Clock(speed))
        run = Run.create(tmp_path / name, "own", preset, path, 3, Budget(minutes=1), precision)
        for event in run.events():
            if name == "b" and event.step == k:
                run.stop.set()
        runs.append(run)
    monkeypatch.setattr("shalab.clock.time", Clock(lambda n: speed(n + k)))
    resumed = Run.resume(tmp_path / "b", precision)
    assert resumed.config.total_steps is None and resumed.trainer.total_steps == runs[1].trainer.total_steps > k
    list(resumed.events())
    assert resumed.trainer.elapsed_s == pytest.approx(runs[0].trainer.elapsed_s)
    _same(runs[0], resumed)


def test_a_crash_while_writing_keeps_the_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"x": torch.arange(3)})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write to .* \(No space left on device\)"):
        save_checkpoint(path, {"x": torch.arange(5)})
    assert load_checkpoint(path)["x"].tolist() == [0, 1, 2] and os.listdir(tmp_path) == ["checkpoint.pt"]


def test_checkpoints_hold_no_pickled_objects(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, precision=precision)
    list(run.events())
    content = torch.load(tmp_path / "a" / "checkpoint.pt", weights_only=True)
    assert content["version"] == 2 and content["config"]["model"]["d_model"] == 11


@pytest.mark.parametrize("fault", ["missing", "cut", "foreign", "text", "newer"])
def test_bad_checkpoints(tmp_path, fault):
    path = tmp_path / "checkpoint.pt"
    if fault != "missing":
        save_checkpoint(path, {"x": torch.zeros(1000)})
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif fault == "foreign":
        torch.save({"model": {}}, path)
    elif fault == "text":
        path.write_text("not a checkpoint\n", encoding="utf-8")
    elif fault == "newer":
        torch.save({"format": "shalab checkpoint", "version": 3}, path)
    message = {
        "missing": "no checkpoint at",
        "cut": "is damaged, cut short, or not a checkpoint",
        "foreign": "is not a checkpoint of shalab",
        "text": "is damaged, cut short, or not a checkpoint",
        "newer": "has format version 3, this shalab reads up to 2",
    }[fault]
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)


def test_resume_refuses_a_run_of_an_older_version(path, preset, precision, tmp_path, monkeypatch):
    run = Run.create(tmp_path / "a", "own", preset, path, precision=precision)
    monkeypatch.setattr("shalab.checkpoint.VERSION", 1)
    list(run.events())
    before = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="older shalab: finish the run there"):
        Run.resume(tmp_path / "a", precision)
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == before


def test_resume_refuses_another_configuration(path, preset, precision, tmp_path):
    run = Run.create(tmp_path / "a", "own", preset, path, precision=precision)
    list(run.events())
    other = dataclasses.replace(preset, train=dataclasses.replace(RECIPE, lr=0.5))
    Run.create(tmp_path / "b", "own", other, path, precision=precision)
    os.replace(tmp_path / "a" / "checkpoint.pt", tmp_path / "b" / "checkpoint.pt")
    with pytest.raises(InputError, match="belongs to another configuration"):
        Run.resume(tmp_path / "b", precision)
    with open(path, "ab") as file:
        file.write(b"!")
    with pytest.raises(InputError, match="has changed since it began"):
        Run.resume(tmp_path / "a", precision)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"bptt": -5}, "bptt must be an integer of at least 1, got -5"),
        ({"lr": 0.0}, "lr must be finite and above 0, got 0.0"),
        ({"lr": math.inf, "min_trust": -3}, "lr must be .* got inf; min_trust must be finite and at least 0, got -3"),
        (
            {"weight_decay": -1, "vary_bptt": "no"},
            "weight_decay must .* got -1; vary_bptt must be True or False, got 'no'",
        ),
        ({"optimizer": ["lamb"], "bptt": True}, "bptt must be .* got True; optimizer must be one of lamb, adamw, got"),
        ({"optimizer": "sgd"}, "optimizer must be one of lamb, adamw, got 'sgd'"),
        ({"optimizer": "adamw"}, "min_trust is LAMB's: with optimizer adamw it must be None, got 0.25"),
        ({"schedule": "sine"}, "schedule must be one of constant-then-half, cosine, linear, got 'sine'"),
    ],
)
def test_bad_recipes(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)


@pytest.mark.parametrize(
    "budget",
    [
        {}, {"minutes": 0}, {"steps": -1}, {"steps": 3, "epochs": 1}, {"minutes": math.inf}, {"epochs": math.nan},
        {"epochs": 1e300}, {"steps": 10**400}, {"steps": 2.5}, {"minutes": True}, {"minutes": "5"},
    ],
)  # fmt: skip
def test_a_budget_is_one_positive_number(budget):
    with pytest.raises(InputError, match="exactly one of minutes, steps and epochs"):
        Budget(**budget)


@pytest.mark.parametrize("budget", ["10 minutes", "0.5 minutes", "4,800 steps", "37 epochs"])
def test_a_budget_in_words(budget):
    value, name = budget.split()
    assert (
        str(Budget(**{name: float(value.replace(",", "")) if name == "minutes" else int(value.replace(",", ""))}))
        == budget
    )


def test_trust_ratios_are_those_that_moved_the_weights(text, precision):
    trainer = make_trainer(text, precision, total_steps=203)
    before = {}
    for event in trainer.events():
        match event:
            case StepEvent(step=step, lr=lr):
                if step < 3:
                    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
            case TrustEvent(step=step, tensors=tensors):
                break
    assert step == 3 and tensors.keys() == dict(trainer.model.named_parameters()).keys()  # ceil(203 / 100)
    for name, parameter in trainer.model.named_parameters():
        weight_norm, update_norm, trust_ratio = tensors[name]
        assert weight_norm == pytest.approx(before[name].norm().clamp(max=10).item(), rel=1e-5)
        moved = (parameter.detach() - before[name]).norm().item()
        assert moved == pytest.approx(lr * trust_ratio * update_norm, rel=1e-3)


def test_presets():
    assert {"laptop", "overnight", "evening", "paper", "paper-all-heads", "lstm"} <= set(PRESETS)
    laptop = PRESETS["laptop"].model
    assert laptop.attention_layers == (laptop.n_layers - 2,) and laptop.n_heads == 1 and laptop.max_context >= 1024
    paper = PRESETS["paper"]
    assert (paper.train.batch_size, paper.train.bptt, paper.train.lr, paper.train.clip) == (16, 1024, 2e-3, 0.25)


def test_float16_scaling_goes_through_the_same_loop(text):
    trainer = make_trainer(text, Precision.pick("cpu", "float16"), total_steps=5)
    assert trainer.scaler.is_enabled()
    events = list(trainer.events())
    assert events[-1].reason == "finished"
    assert trainer.model.embedding.weight.dtype == torch.float32


def test_an_update_waits_for_the_device_only_when_its_event_is_due(text):
    """On tensors without data, whatever reads a value fails: two updates do not, the third, which reports, does."""
    meta = Precision(torch.device("meta"), torch.float32)
    trainer = make_trainer(text, meta, 1000, replace(RECIPE, log_every=3))
    assert trainer.update() is None and trainer.update() is None
    assert trainer.step == 2 and trainer.model.decoder.bias.grad.is_meta
    with pytest.raises(RuntimeError, match="meta tensors"):
        trainer.update()


def test_fewer_events_say_the_same(text, precision):
    """Every fifth update reports the mean loss since the last report; a checkpoint is never without one."""
    recipe = replace(RECIPE, checkpoint_every=7)
    one_by_one = make_trainer(text, precision, 3100, recipe)
    every = [one_by_one.update() for _ in range(21)]
    trainer = make_trainer(text, precision, 3100, replace(recipe, log_every=5))
    found = [event for event in (trainer.update() for _ in range(21)) if event]
    assert [event.step for event in found] == [5, 7, 10, 14, 15, 20, 21]
    last = 0
    for event in found:
        mean = sum(e.loss_nats for e in every[last : event.step]) / (event.step - last)
        assert event.loss_nats == pytest.approx(mean, rel=1e-6) and event.grad_norm == every[event.step - 1].grad_norm
        last = event.step


def test_a_weight_that_broke_unseen_is_never_saved(text, precision):
    saved = []
    trainer = make_trainer(text, precision, 5000, replace(RECIPE, log_every=50, checkpoint_every=50), save=saved.append)
    stop, original = threading.Event(), trainer.next_window

    def break_and_stop():
        if trainer.step == 2:
            trainer.model.decoder.bias.data.fill_(math.nan)
            stop.set()
        return original()

    trainer.next_window = break_and_stop
    with pytest.raises(NonFiniteError, match="step 3: the loss, .* is not finite, since step 1 at the earliest"):
        list(trainer.events(stop))
    assert trainer.step == 3 and not saved


def test_without_a_compiler_compiling_changes_nothing(text, precision, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    recipe = replace(RECIPE, vary_bptt=False)
    losses = [
        [trainer.update().loss_nats for _ in range(3)]
        for compile in (False, True)
        for trainer in [make_trainer(text, precision, 5000, replace(recipe, compile=compile))]
    ]
    assert losses[0] == losses[1] and not torch._dynamo.config.suppress_errors


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP, and threads counted in /proc")
def test_dismissed_helpers_are_gone_and_come_back():
    """In a process of its own, which has two threads whatever this machine has."""
    code = (
        "import os, time, torch; from shalab.process import dismiss_helpers; torch.set_num_threads(2)\n"
        "def listed(): return len(os.listdir('/proc/self/task'))\n"
        "def threads(): (torch.ones(1 << 20) * 2).sum(); return listed()\n"
        "before = threads(); dismiss_helpers(); end = time.monotonic() + 60\n"
        "while listed() == before and time.monotonic() < end: time.sleep(0.01)\n"  # a thread is listed a little longer
        "print(before - listed(), threads() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
