"""What only a GPU can prove: `make test-gpu`. The same tests run on every card; none of them needs a download."""

import dataclasses
import time

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch.nn import functional as F

from shalab import SHARNN, ModelConfig, course
from shalab.checkpoint import load_checkpoint
from shalab.corpus import Corpus, load_corpus
from shalab.device import Precision
from shalab.generate import generate
from shalab.plan import update_cost
from shalab.presets import PRESETS, Budget
from shalab.run import Run
from shalab.train import StepEvent, TrainConfig, Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU HERE: nothing of the GPU path was tested"),
]
CONFIG = ModelConfig(256, 64, 192, 3, 1, (1,), 150, 0.0, 0.0, 0.0)


def losses(precision, steps=40, config=CONFIG, seed=0, **changes):
    torch.manual_seed(seed)
    recipe = TrainConfig(batch_size=8, bptt=50, lr=1e-2, warmup_steps=5, sample_bytes=0, **changes)
    trainer = Trainer(SHARNN(config), load_corpus("enwik6"), recipe, precision, 10**4, seed)
    return [trainer.update().loss_nats for _ in range(steps)]


def test_logits_memory_and_gradients_are_those_of_the_cpu():
    results = {}
    for device in ("cpu", "cuda"):
        precision = Precision.pick(device, "float32")
        torch.manual_seed(0)
        model = precision.place(SHARNN(CONFIG))
        x = precision.place(torch.arange(400).view(50, 8) % 251)
        with precision.switches():  # PyTorch's own default lets an LSTM round to ten bits
            logits, state = model(x, model(x)[1])
            F.cross_entropy(logits.flatten(0, 1), x.flatten()).backward()
        results[device] = [logits.detach().cpu(), state.memory[1].cpu(), *(p.grad.cpu() for p in model.parameters())]
    for a, b in zip(results["cpu"], results["cuda"], strict=True):  # on an H100 they differ by 1.5e-5 of the largest
        assert (a - b).abs().max() < 1e-4 * a.abs().max()


def test_a_short_run_follows_the_cpu():
    cpu, gpu = (losses(Precision.pick(device, "float32")) for device in ("cpu", "cuda"))
    assert gpu[:5] == pytest.approx(cpu[:5], abs=1e-3) and gpu == pytest.approx(cpu, abs=0.05)


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_other_formats_learn_alike(dtype):
    if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this card has no bfloat16")
    assert losses(Precision.pick("cuda", dtype))[-1] == pytest.approx(losses(Precision.pick("cpu"))[-1], abs=0.2)


def test_resume_goes_on_as_if_nothing_had_happened(tmp_path):
    """cuDNN and the attention kernels may add in another order: the band is theirs. Dropout is on."""
    precision, preset = Precision.pick("cuda", "float32"), dataclasses.replace(PRESETS["tiny"], budget=Budget(steps=30))
    straight = Run.create(tmp_path / "a", "tiny", preset, "enwik6", precision=precision)
    expected = [event.loss_nats for event in straight.events() if isinstance(event, StepEvent)]
    halted = Run.create(tmp_path / "b", "tiny", preset, "enwik6", precision=precision)
    for event in halted.events():
        if event.step == 13:
            halted.stop.set()
    resumed = Run.resume(tmp_path / "b", precision)
    found = [event.loss_nats for event in resumed.events() if isinstance(event, StepEvent)]
    assert found == pytest.approx(expected[13:], abs=1e-3)
    assert load_checkpoint(tmp_path / "b")["step"] == 30


@pytest.mark.filterwarnings("error:RNN module weights")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_generation_rearranges_no_weights(dtype):
    precision = Precision.pick("cuda", dtype)
    model = precision.place(SHARNN(CONFIG))
    assert len(list(generate(model, bytes(range(200)), 20, precision))) == 20


def test_no_update_waits_for_the_device():
    preset = PRESETS["paper"]
    recipe = dataclasses.replace(preset.train, batch_size=4, bptt=64, vary_bptt=False, log_every=1000)
    model = SHARNN(dataclasses.replace(preset.model, d_model=128, d_boom=256))
    trainer = Trainer(model, load_corpus("enwik6"), recipe, Precision.pick("cuda", "float32"), 10**6)
    trainer.update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.update()
        trainer.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_model_learns_alike():
    found = losses(Precision.pick("cuda", "float32"), compile=True)
    assert found[-1] == pytest.approx(losses(Precision.pick("cuda", "float32"))[-1], abs=0.05)


@pytest.mark.parametrize(
    "name, streams", [("paper", 16), ("paper", 32), ("paper", 64), ("paper", 128), ("evening", 64)]
)
def test_speed_and_memory_by_streams(name, streams):
    """Updates with a full memory, in the card's usual format, against a large matrix product in the same; printed."""
    precision, preset = Precision.pick("cuda"), PRESETS[name]
    recipe = dataclasses.replace(preset.train, vary_bptt=False, batch_size=streams)
    cost = update_cost(preset.model, recipe)
    if 1.1 * cost.peak_bytes > torch.cuda.mem_get_info()[0]:
        pytest.skip(f"needs {cost.peak_bytes / 1e9:.0f} GB")
    peak = peak_of_products(precision)
    torch.cuda.reset_peak_memory_stats()
    long = Corpus("enwik6, four times", np.tile(load_corpus("enwik6").data, 4))  # no stream of it ends meanwhile
    trainer = Trainer(SHARNN(preset.model), long, recipe, precision, 10**6)
    took = seconds(trainer.update, 10) / 10
    assert trainer.n_bytes == 17 * cost.n_bytes
    speed = 2 * cost.multiply_adds / took
    found = torch.cuda.max_memory_allocated()
    print(
        f"{name}, {streams} streams: {cost.n_bytes / took / 1e3:.0f} kB/s, {speed / 1e12:.1f} TFLOP/s of "
        f"{peak / 1e12:.1f}, {speed / peak:.0%}; {found / 1e9:.1f} GB, plan {cost.peak_bytes / 1e9:.1f} GB"
    )
    assert 0.02 < speed / peak < 1


def peak_of_products(precision):
    """FLOP/s of a large matrix product."""
    a = precision.place(torch.randn(8192, 8192)).to(precision.dtype)
    return 2 * 8192**3 * 20 / seconds(lambda: a @ a, 20)


def seconds(act, times):
    for _ in range(7):  # until the memory is full
        act()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        act()
    torch.cuda.synchronize()
    return time.perf_counter() - began


@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_memory_is_what_plan_says(checkpoint_blocks):
    """The paper's update with a full memory, without what the process itself takes outside PyTorch."""
    preset = PRESETS["paper"]
    recipe = dataclasses.replace(preset.train, vary_bptt=False, checkpoint_blocks=checkpoint_blocks)
    trainer = Trainer(SHARNN(preset.model), load_corpus("enwik6"), recipe, Precision.pick("cuda"), 10**6)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(7):
        trainer.update()
    predicted = update_cost(preset.model, recipe).peak_bytes
    found = torch.cuda.max_memory_allocated()
    print(f"peak {found / 1e9:.2f} GB, plan {predicted / 1e9:.2f} GB")
    assert 0.7 * predicted < found < 1.1 * predicted


@pytest.mark.parametrize("path", course.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_card(path, tmp_path):
    """Its figures are those of another machine; `make test` compares them."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=course.CELL_TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
