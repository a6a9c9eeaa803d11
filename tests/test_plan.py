"""Costs by formula, against what PyTorch counts and what a process takes."""

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

from shalab import SHARNN, InputError, ModelConfig
from shalab.cli import main
from shalab.laboratory.scaling import Size, measure
from shalab.optim import Lamb
from shalab.plan import CARDS, CPU, GPU, Card, multiply_adds, plan, savings, update_cost
from shalab.presets import PRESETS, Budget
from shalab.train import TrainConfig

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
    epoch_s = plan(replace(PRESETS["paper"], budget=Budget(epochs=1)), 90_000_000, CARDS)[1].hours * 3600
    assert epoch_s == pytest.approx(1800, rel=0.15)  # published: half an hour on a TITAN V


def test_the_plan_of_the_paper_is_a_table_of_cards(capsys):
    assert main(["plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    memories = [float(line[12:19]) for line in lines if "kB/s" in line]
    assert len(memories) >= 6 and min(memories) == 8 and max(memories) == 141
    assert main(["plan", "--card", "3", "20", "200"]) == 0
    assert "does not fit" in capsys.readouterr().out
