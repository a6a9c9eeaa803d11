"""What one run needs of PyTorch's process does not leak, and every module that is watched or replaced is called."""

import ast
import os
import subprocess
import sys
import threading

import nbformat
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from shalab import SHARNN, ModelConfig, course, device
from shalab.boom import gelu
from shalab.device import Precision, _switches, bfloat16_pays, compiled
from shalab.door import plain
from shalab.dropout import Dropout
from shalab.generate import generate, generate_batch
from shalab.laboratory.feedforward import FeedForward
from shalab.lstm import recurrent
from shalab.presets import PRESETS
from shalab.train import Trainer

CUDA = torch.device("cuda")


@pytest.mark.parametrize("tf32", [False, True])
def test_switches_hold_inside_and_are_set_back(tf32):
    """On any machine: the switches exist without a card."""
    before = _switches()
    precision = Precision(CUDA, torch.float32, tf32=tf32)
    with precision.autocast():
        assert _switches() == (tf32, tf32, True)
        with Precision(CUDA, torch.float32, tf32=not tf32).switches():
            assert _switches() == (not tf32, not tf32, True)
        assert _switches() == (tf32, tf32, True)
    assert _switches() == before != (tf32, tf32, True)
    with pytest.raises(KeyError), precision.switches():
        raise KeyError
    assert _switches() == before


def test_switches_of_threads_that_overlap_are_set_back():
    before = _switches()
    rounded, inside, leave = Precision(CUDA, torch.float32, tf32=True), threading.Event(), threading.Event()

    def other():
        with rounded.switches():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with Precision(CUDA, torch.float32).switches():
        thread.start()
        inside.wait()
    assert _switches() == (True, True, True), "the other thread still computes"
    leave.set()
    thread.join()
    assert _switches() == before


def test_picking_training_and_generating_leave_the_process_as_it_was():
    """In a process of its own: switches, compiler's options, threads, environment, warnings, and malloc's options."""
    code = """
import os, warnings, torch, matplotlib
import shalab.cli, shalab.plots, shalab.widgets
from shalab import SHARNN, ModelConfig
from shalab.device import Precision, _switches
from shalab import process
from shalab.corpus import load_corpus
from shalab.generate import generate
from shalab.train import TrainConfig, Trainer
process.ctypes.CDLL = None  # malloc's options are set through it
def look():
    return (_switches(), torch._dynamo.config.suppress_errors, torch.get_num_threads(), dict(os.environ),
            list(warnings.filters), dict(matplotlib.rcParams), torch.is_grad_enabled(), torch.get_default_dtype(),
            torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled())
before = look()
for dtype in ("auto", "float32", "tf32", "bfloat16", "float16"):
    precision = Precision.pick("cpu", dtype)
    model = SHARNN(ModelConfig(256, 8, 16, 2, 1, (0,), 16))
    Trainer(model, load_corpus("enwik6"), TrainConfig(batch_size=2, bptt=4, compile=True), precision, 3)
    list(generate(model, b"a", 3, precision))
assert look() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_thread_is_no_plural(monkeypatch):
    for n, said in ((1, "1 thread"), (2, "2 threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n: n)
        assert device.threads() == said


def test_a_question_that_is_interrupted_leaves_the_number_of_threads(monkeypatch):
    def interrupt(a, b):
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(torch.Tensor, "__matmul__", interrupt)
            bfloat16_pays.__wrapped__(size=67)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_only_an_accelerators_own_process_chooses_its_card(monkeypatch):
    chosen = []
    monkeypatch.setattr("shalab.device._available", lambda: {"cuda": True, "mps": False, "cpu": True})
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    precision = Precision.pick("cuda", "tf32")
    assert not chosen and str(precision) == "cuda (tf32)"
    team = type("Pair", (), {"size": 2, "local_rank": 1})()
    Precision.pick("cuda", "float32", team)
    assert chosen == [1]


def hooked(model, called):
    """Watches every module; called: name -> outputs. Returns the handles."""
    handles = []
    for name, module in model.named_modules():
        called[name] = []
        handles.append(module.register_forward_hook(lambda m, x, y, name=name: called[name].append((x, y))))
    return handles


def missing(called):
    return {name for name, found in called.items() if not found} - {"", "blocks"}


@pytest.fixture
def two_heads():
    config = ModelConfig(256, 12, 36, 2, 2, (1,), 23, dropout=0.1, init_scale=1.0)
    return SHARNN(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("need_weights", [False, True])
def test_hooks_fire_on_every_module_and_change_nothing(two_heads, need_weights, dtype):
    x = torch.randint(256, (7, 3))
    precision, close = Precision(torch.device("cpu"), dtype), 1e-5 if dtype == torch.float32 else 0.1
    for training in (True, False):
        two_heads.train(training)
        found, called = [], {}
        for watch in (False, True):
            handles = hooked(two_heads, called) if watch else []
            torch.manual_seed(3)
            two_heads.zero_grad()
            with precision.autocast():
                logits, state = two_heads(x, two_heads(x)[1], need_weights)[:2]
            logits.float().square().mean().backward()
            found.append([logits, state.memory[1], *state.hidden[0], *(p.grad for p in two_heads.parameters())])
            for handle in handles:
                handle.remove()
        assert missing(called) == set()
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a.float(), b.float(), atol=close, rtol=close)
    for block in range(2):  # what the hooks saw is what the module computes
        (u,), wide = called[f"blocks.{block}.boom.widen"][-1]
        widen = two_heads.blocks[block].boom.widen
        torch.testing.assert_close(wide.float(), widen(u.float()), atol=close, rtol=close)
        inputs, (y, (h, c)) = called[f"blocks.{block}.lstm"][-1]
        torch.testing.assert_close(y[-1].float(), h[0].float(), atol=close, rtol=close)
        assert inputs[0].shape == y.shape == (7, 3, 12) and inputs[1][0].shape == c.shape == (1, 3, 12)


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize("prompts", [[b"the town"], [b"the town", b"a", bytes(range(100))]])
def test_hooks_fire_in_generation_and_change_nothing(two_heads, precision, prompts, collapsed):
    if collapsed:
        two_heads.collapse()
    expected = list(generate_batch(two_heads, prompts, 40, precision, seed=3))
    called = {}
    hooked(two_heads, called)
    rows = generate_batch(two_heads, prompts, 40, precision, seed=3)
    found = [next(rows)]
    for seen in called.values():  # what reading the prompts called
        seen.clear()
    found += rows
    assert found == expected and missing(called) == set()
    inputs, (read, memory, weights) = called["blocks.1.attention"][-1]
    assert weights is None and read.shape == (1, 1, 12) and inputs[2].shape == memory.shape == (23, 1, 12)


def test_backward_and_pre_hooks_and_global_ones_fire(two_heads):
    x, seen = torch.randint(256, (7, 3)), []
    modules = [two_heads.blocks[0].lstm, two_heads.blocks[0].boom.widen]
    for module in modules:
        module.register_full_backward_hook(lambda m, d_in, d_out: seen.append(("backward", m)))
        module.register_full_backward_pre_hook(lambda m, d_out: seen.append(("before backward", m)))
        module.register_forward_pre_hook(lambda m, x: seen.append(("before", m)))
    two_heads(x)[0].sum().backward()
    for module in modules:
        assert {kind for kind, m in seen if m is module} == {"backward", "before backward", "before"}
    clean = SHARNN(two_heads.config)
    handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: seen.append(("global", m)))
    try:
        clean(x)
    finally:
        handle.remove()
    called = {m for kind, m in seen if kind == "global"}
    assert {clean.blocks[0].lstm, clean.blocks[0].boom.widen} <= called


def test_what_a_hook_returns_is_used(two_heads):
    x = torch.randint(256, (7, 3))
    two_heads.eval()
    before = two_heads(x)[0]
    for module in (two_heads.blocks[0].lstm, two_heads.blocks[1].boom.widen, two_heads.blocks[1].attention):
        handle = module.register_forward_hook(
            lambda m, x, y: (y[0] * 0, *y[1:]) if isinstance(y, tuple) else y * 0
        )  # fmt: skip
        assert (two_heads(x)[0] - before).abs().max() > 1e-3
        handle.remove()
    assert torch.equal(two_heads(x)[0], before)


class Low(nn.Module):
    """A layer with a low-rank change, as LoRA makes it."""

    def __init__(self, layer, rank=2):
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(layer.in_features, rank), nn.Linear(rank, layer.out_features)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class Elman(nn.Module):
    """An LSTM's place taken by something simpler."""

    def __init__(self, d_model):
        super().__init__()
        self.cell = nn.RNN(d_model, d_model)

    def forward(self, x, hidden):
        y, h = self.cell(x, None if hidden is None else hidden[0])
        return y, (h, h)


class Nothing(nn.Module):
    """A head that reads the memory's mean."""

    def forward(self, h, window, memory, max_context, drop, need_weights=False):
        context = window if memory is None else torch.cat([memory, window])
        return (h + context.mean(0)).to(h.dtype), context.detach(), None


def test_replaced_modules_are_used(two_heads, precision):
    x = torch.randint(256, (9, 1))
    block = two_heads.eval().blocks[1]
    for place, name, new in (
        (block.boom, "widen", Low(block.boom.widen)),
        (block, "lstm", Elman(12)),
        (block.attention, "query", Low(block.attention.query)),
        (block.attention.value_gate, "linear", Low(block.attention.value_gate.linear)),
        (block, "attention", Nothing()),
    ):
        before = two_heads(x)[0]
        setattr(place, name, new)
        after = two_heads(x)[0]
        assert (after - before).abs().max() > 1e-4, name
        prompt = bytes(x.flatten().tolist())
        first = next(generate(two_heads, prompt, 1, precision, temperature=0))
        assert first == after[-1, 0].argmax()
        ids = list(generate(two_heads, prompt, 9, precision, temperature=0))
        whole = torch.tensor([*prompt, *ids[:-1]]).unsqueeze(1)
        assert ids == two_heads(whole)[0][8:, 0].argmax(-1).tolist(), name  # the memory has room for 23


def test_layers_of_other_shapes_than_the_stock_ones_are_called(two_heads):
    x = torch.randint(256, (9, 1))
    block = two_heads.eval().blocks[1]
    block.lstm = nn.LSTM(12, 12, num_layers=2)
    deep, _ = block.lstm(torch.ones(5, 3, 12))
    found, (h, _) = recurrent(block.lstm, torch.ones(5, 3, 12), None)
    assert torch.equal(found, deep) and h.shape == (2, 3, 12)
    block.boom.widen = nn.Linear(12, 36, bias=False)
    u = torch.randn(5, 12)
    expected = gelu(u @ block.boom.widen.weight.T).unflatten(-1, (3, 12)).sum(-2)
    torch.testing.assert_close(block.boom(u, Dropout(False)), expected)
    two_heads(x)


def test_a_parametrization_is_used(two_heads):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    boom, u = two_heads.blocks[0].boom, torch.randn(5, 12)
    weight, bias = boom.widen.weight.detach().clone(), boom.widen.bias
    parametrize.register_parametrization(boom.widen, "weight", Doubled())
    expected = gelu(u @ (2 * weight).T + bias).unflatten(-1, (3, 12)).sum(-2)
    torch.testing.assert_close(boom(u, Dropout(False)), expected)


def test_a_feed_forward_layers_hooks_fire():
    layer, u, seen = FeedForward(5, 13, 0.0), torch.randn(7, 5), []
    expected = layer(u, Dropout(False))
    layer.widen.register_forward_hook(lambda m, x, y: seen.append(y))
    torch.testing.assert_close(layer(u, Dropout(False)), expected)
    torch.testing.assert_close(seen[0], u @ layer.widen.weight.T + layer.widen.bias)


@pytest.mark.parametrize("carried, used", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_state_of_another_format_is_converted(carried, used):
    """By the plain path, as on a device with an LSTM of its own, which takes one format only."""
    lstm, x = nn.LSTM(11, 11).to(used), torch.randn(7, 5, 11, dtype=used)
    hidden = torch.randn(2, 1, 5, 11).to(carried)
    expected = lstm(x, tuple(hidden.to(used)))[0]
    with plain():
        assert torch.equal(recurrent(lstm, x, tuple(hidden))[0], expected)


def test_compiling_leaves_the_compilers_options(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: lambda *x: seen.append(errors()) or model(*x))

    def errors():
        return torch._dynamo.config.suppress_errors

    assert compiled(abs)(-3) == 3 and seen == [True] and not errors()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_only_the_command_line_keeps_freed_memory(text, precision, tmp_path, monkeypatch):
    from shalab.cli import main

    kept = []
    for place in ("process", "commands.train"):
        monkeypatch.setattr(f"shalab.{place}.keep_freed_memory", lambda: kept.append(True))
    preset = PRESETS["tiny"]
    (tmp_path / "own.txt").write_bytes(text.tobytes())
    from shalab.corpus import load_corpus

    Trainer(SHARNN(preset.model), load_corpus(str(tmp_path / "own.txt")), preset.train, precision)
    assert not kept
    main(["train", "--preset", "tiny", "--data", str(tmp_path / "own.txt"), "--steps", "1", "--dtype", "float32"])
    assert kept


def imported(path):
    """Of a notebook's imports, in order, those of shalab and of torch."""
    cells = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    nodes = (node for cell in cells for node in ast.walk(ast.parse(cell.source)))
    for node in nodes:
        names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", [])]
        yield from (top for name in names if (top := str(name).partition(".")[0]) in ("shalab", "torch"))


@pytest.mark.parametrize("path", sorted(course.notebooks_dir().rglob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_import_shalab_before_torch(path):
    assert next(imported(path), "shalab") == "shalab"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")
@pytest.mark.parametrize("environment, spins", [({}, 10_000), ({"GOMP_SPINCOUNT": "77"}, 77)])
def test_threads_spin_briefly_where_shalab_comes_first(environment, spins):
    """What libgomp says that it took, when it is loaded with PyTorch. A setting of the user's own is kept."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE", **environment}
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", "import shalab, torch"], env=environment, capture_output=True, text=True, check=True
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
