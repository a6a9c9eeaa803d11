"""Costs by formula, against what PyTorch counts and what a process takes."""

import os
import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from shalab import SHARNN, InputError, ModelConfig, calibrate
from shalab.calibrate import here, seconds_per_update
from shalab.cli import main
from shalab.corpus import cache_dir
from shalab.device import Precision
from shalab.door import plain
from shalab.laboratory.scaling import Size, measure
from shalab.optim import Lamb
from shalab.plan import CARDS, CPU, GPU, Card, multiply_adds, plan, savings, update_cost
from shalab.presets import PRESETS, Budget
from shalab.train import TrainConfig, Trainer

SIZE = Size(ModelConfig(256, 64, 192, n_layers=3, attention_layers=(1,), max_context=300), bptt=50, batch_size=7)


def test_the_whole_step_at_the_papers_size_needs_no_device():
    """Model, loss, clipping and optimizer on tensors without data; the arithmetic is what PyTorch counts."""
    with torch.device("meta"):
        model = SHARNN(ModelConfig())
        optimizer = Lamb(model.parameters())
        x = torch.zeros(14, 16, dtype=torch.long)
        state = None
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                logits, state = model(x[:-1], state)
                loss = F.cross_entropy(logits.flatten(0, 1), x[1:].flatten())
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
    assert loss.is_meta and logits.shape == (13, 16, 256) and state.memory[2].shape == (26, 16, 1024)
    assert all(optimizer.state[p]["trust_ratio"].is_meta for p in model.parameters())
    counted = sum(multiply_adds(ModelConfig(), 13, 26, GPU)) * 13 * 16 * 2
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_whole_step_in_half_precision(small, dtype):
    optimizer = Lamb(small.parameters(), lr=1e-2)
    x = torch.randint(256, (18, 5))
    losses = []
    for _ in range(4):
        with torch.autocast("cpu", dtype):
            logits, _ = small(x[:-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), x[1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert logits.dtype == dtype and losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in small.parameters())


def test_what_the_backward_pass_needs_is_what_pytorch_stores():
    """Bytes of all tensors saved for the backward pass, counted by hooks, without parameters and mask pools."""
    config, bptt, streams = SIZE.model, SIZE.bptt, SIZE.batch_size
    model = SHARNN(config).train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    stored = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.nbytes() != 4 << 20:  # a pool of dropout masks
            stored[storage.data_ptr()] = storage
        return tensor

    state = None
    for _ in range(6):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits, state = model(torch.randint(256, (bptt, streams)), state)
            loss = F.cross_entropy(logits.flatten(0, 1), torch.zeros(bptt * streams, dtype=torch.long))
        found = sum(storage.nbytes() for storage in stored.values())
        stored.clear()
        del loss
    cost = update_cost(config, TrainConfig(batch_size=streams, bptt=bptt), CPU)
    later = bptt * streams * (82 * 64 + 4 * 192 + 2 * 4 * 256)  # gradients of a block, of logits and logarithms
    before = 4 * 300 * streams * 64  # the memory that came in
    assert found == pytest.approx(cost.stored_bytes - later - before, rel=0.05)


class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside and still there after an operation: `peak` at most."""

    def __init__(self):
        super().__init__()
        self.storages, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.storages = {key: (ref, size) for key, (ref, size) in self.storages.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return result


def test_bytes_per_parameter_are_those_that_an_update_holds():
    """Weights, the best weights so far, gradients, and all that LAMB makes, counted operation by operation."""
    with Living() as living:
        weights = [nn.Parameter(torch.randn(shape)) for shape in ((701, 503), (1009,), (307, 11, 101))]
        optimizer, best = Lamb(weights), [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        for _ in range(3):
            optimizer.step()
    n_parameters = sum(weight.numel() for weight in (*weights, *best)) / 2
    assert living.peak / n_parameters == pytest.approx(CPU.parameter + CPU.update, rel=0.001)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_process_peaks_where_the_formula_says():
    """Two sizes, each in a process of its own: their difference, so that the interpreter's own memory cancels out."""
    small, large = (
        Size(ModelConfig(256, width, 4 * width, n_layers=2, attention_layers=(0,), max_context=1000), 100, 11)
        for width in (64, 384)
    )
    found = measure(large, 1)["peak_gb"] - measure(small, 1)["peak_gb"]
    predicted = (large.cost.peak_bytes - small.cost.peak_bytes) / 1e9
    assert found == pytest.approx(predicted, rel=0.25)


def test_savings_are_those_of_the_smaller_run():
    paper = PRESETS["paper"]
    saved = savings(paper.model, paper.train)
    half = update_cost(paper.model, replace(paper.train, batch_size=8)).peak_bytes
    assert saved["--batch-size 8"] == pytest.approx((update_cost(paper.model, paper.train).peak_bytes - half) / 1e9)
    assert set(saved) == {"--batch-size 8", "--bptt 512", "--max-context 2500", "--checkpoint-blocks"}
    assert min(saved.values()) > 0 and list(saved.values()) == sorted(saved.values(), reverse=True)


def test_nothing_is_halved_to_zero_and_no_plan_is_made_for_nothing():
    least = TrainConfig(batch_size=1, bptt=1)
    assert set(savings(ModelConfig(), least)) == {"--max-context 2500", "--checkpoint-blocks"}
    with pytest.raises(InputError, match="31 training bytes cannot feed 16 streams"):
        plan(PRESETS["paper"], 31, CARDS)
    with pytest.raises(InputError, match="tflops must be finite and above 0, got 0; gb_per_s must be .* got nan"):
        Card(8, 0, float("nan"))


def test_time_follows_the_cards_figures():
    cost = update_cost(PRESETS["paper"].model, PRESETS["paper"].train)
    arithmetic, traffic = cost.seconds(Card(8, 100, 1e15)), cost.seconds(Card(8, 1e15, 500))
    assert arithmetic == pytest.approx(2 * cost.multiply_adds / 50e12)
    assert cost.seconds(Card(8, 100, 500)) == pytest.approx(arithmetic + traffic)
    preset = replace(PRESETS["paper"], budget=Budget(steps=3600))
    assert plan(preset, 10**6, CARDS)[0].hours == pytest.approx(cost.seconds(CARDS["RTX 4060"]))
    here_by_hand = plan(preset, 10**6, {"mine": Card(8, 100, 500)})[0]
    assert here_by_hand.kwh is None and here_by_hand.n_bytes is None
    epoch_s = plan(replace(PRESETS["paper"], budget=Budget(epochs=1)), 90_000_000, CARDS)[1].hours * 3600
    assert epoch_s == pytest.approx(1800, rel=0.15)  # published: half an hour on a TITAN V


@pytest.fixture
def measured(monkeypatch):
    """Calibrations say at once: 2 s and a millisecond per byte of the window. The presets that were asked about."""
    calls = []
    line = {"fixed": 2.0, "per_byte": 1e-3, "share": 1.0}
    monkeypatch.setattr("shalab.calibrate.measure", lambda preset, precision: calls.append(preset) or line)
    return calls


def test_the_plan_of_the_paper_is_a_table_of_this_machine_and_cards(measured, capsys, monkeypatch):
    monkeypatch.setattr(Precision, "memory_bytes", lambda precision: 16_000_000_000)
    assert main(["plan"]) == 0
    own, *rows = [line for line in capsys.readouterr().out.splitlines() if "kB/s" in line]
    memories = [float(line[12:19]) for line in rows]
    assert len(memories) >= 6 and min(memories) == 8 and max(memories) == 141
    assert all(re.search(r" h +[\d.]+ kWh$", line) for line in rows)
    assert own.split()[:4] == ["this", "machine", "16", "GB"] and "5.4 kB/s" in own  # 16 x 1024 bytes in 3.024 s
    assert main(["plan", "--card", "3", "20", "200"]) == 0
    assert "your card         3 GB" in (out := capsys.readouterr().out) and "does not fit" in out
    monkeypatch.setattr(Precision, "memory_bytes", lambda precision: None)
    assert main(["plan", "--preset", "laptop", "--data", "enwik6"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^this machine +\? GB .* 5.0 min +\d.\d Wh +0.1 MB +0.2$", out, re.M), (
        out
    )  # 1024 bytes in 2.064 s
    assert re.search(r"by an assumed (45|300) W", out)


def test_time_and_energy_here_follow_the_calibration(measured, precision):
    preset = replace(PRESETS["paper"], budget=Budget(steps=100))
    own = here(preset, 10**6, precision)
    assert own.hours == pytest.approx(100 * (2 + 1024e-3) / 3600) and own.kwh == pytest.approx(own.hours * 0.045)
    assert own.peak_gb == pytest.approx(update_cost(preset.model, preset.train, CPU).peak_bytes / 1e9)
    own = here(PRESETS["laptop"], 10**6, precision)
    assert own.hours == 5 / 60 and own.n_bytes == pytest.approx(300 * 1024 / (2 + 64e-3))
    with pytest.raises(InputError, match="31 training bytes cannot feed"):
        here(preset, 31, precision)


def test_cards_have_their_energy():
    for row in plan(PRESETS["paper"], 90_000_000, CARDS):
        assert row.kwh == pytest.approx(row.hours * CARDS[row.card].watts / 1000)


@pytest.mark.parametrize("damage", ["", '{"key": 3}', "digit"])
def test_a_machine_is_measured_once_for_what_its_speed_depends_on(measured, damage, monkeypatch):
    tiny, precision = PRESETS["tiny"], Precision.pick("cpu", "float32")
    first = seconds_per_update(tiny, precision)
    assert seconds_per_update(tiny, precision) == first and len(measured) == 1
    seconds_per_update(replace(tiny, train=replace(tiny.train, batch_size=4)), precision)
    seconds_per_update(replace(tiny, model=replace(tiny.model, d_boom=96)), precision)
    seconds_per_update(tiny, Precision.pick("cpu", "bfloat16"))
    with plain():
        seconds_per_update(tiny, precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        seconds_per_update(tiny, precision)
    assert len(measured) == 6 and seconds_per_update(tiny, precision) == first and len(measured) == 6
    for path in (cache_dir() / "speed").iterdir():
        text = path.read_text(encoding="utf-8").replace('"fixed": 2.0', '"fixed": 3.0')
        path.write_text(text if damage == "digit" else damage, encoding="utf-8")
    assert seconds_per_update(tiny, precision) == first and len(measured) == 7


def test_what_a_busy_machine_took_is_not_kept(precision, monkeypatch):
    shares = iter([0.5, 0.97, 0.5])
    monkeypatch.setattr(
        "shalab.calibrate.measure", lambda *_: {"fixed": 2 * (share := next(shares)), "per_byte": 0.0, "share": share}
    )
    assert [seconds_per_update(PRESETS["tiny"], precision) for _ in range(3)] == [1.0, 1.94, 1.94]


@pytest.mark.parametrize("memory_gb, fewer", [(None, False), (100, False), (3.8, True)])
def test_two_short_windows_tell_how_long_an_update_takes(memory_gb, fewer, precision, monkeypatch):
    """An update takes 0.1 s, and 2 ms per byte and stream."""
    streams = []

    class Evenly:
        def __init__(self, preset, train, precision):
            streams.append(train.batch_size)

        def update(self, bptt):
            assert bptt < 200, "not grown further than needed"
            return 0.1 + 2e-3 * bptt * streams[0]

        updates = update

    monkeypatch.setattr(calibrate, "_Timed", Evenly)
    monkeypatch.setattr(Precision, "memory_bytes", lambda precision: memory_gb and memory_gb * 1e9)
    line = calibrate.measure(PRESETS["paper"], precision)
    line.pop("share")
    assert line == pytest.approx({"fixed": 0.1, "per_byte": 2e-3 * 16}) and (streams[0] < 16) == fewer


def test_a_machine_without_room_for_one_stream_is_not_measured(precision, monkeypatch, capsys):
    monkeypatch.setattr(Precision, "memory_bytes", lambda precision: 3_000_000_000)
    assert calibrate.measure(PRESETS["paper"], precision) is None
    assert main(["plan"]) == 0
    assert re.search(r"^this machine +3 GB .* \? kB/s +does not fit$", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("heads", [(), (0, 1)])
def test_a_calibration_is_of_the_presets_own_model_and_leaves_no_trace(heads, precision, monkeypatch):
    monkeypatch.setattr("shalab.calibrate.ROUNDS_S", 0.01)
    tiny = PRESETS["tiny"]
    tiny = replace(tiny, model=replace(tiny.model, attention_layers=heads, vocab_size=17))
    before, memories = torch.get_rng_state(), set()
    update = Trainer.update

    def watched(trainer):
        if heads:
            memories.add(len(trainer.state.memory[0]))
        assert trainer.model.config == tiny.model and trainer.config.batch_size == 8
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", watched)
    line = calibrate.measure(tiny, precision)
    assert (
        line["per_byte"] > 0
        and line["fixed"] >= 0
        and 0 < line["share"] < 1.1
        and torch.equal(torch.get_rng_state(), before)
    )
    assert not heads or min(memories) >= 64 - 32, "the memory is full at each update"


def test_a_system_that_does_not_tell_its_memory_is_no_failure(precision, monkeypatch):
    assert precision.memory_bytes() is None or precision.memory_bytes() > 1e8
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert precision.memory_bytes() is None
