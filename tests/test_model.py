import dataclasses
import itertools
import math
import random

import pytest
import torch
from torch.nn import functional as F

from shalab import SHARNN, InputError, ModelConfig, import_original
from shalab.attention import AttentionHead
from shalab.boom import Boom, fold, gelu
from shalab.device import Precision, bfloat16_pays
from shalab.dropout import Dropout
from shalab.fast.decoder import RollingMemory
from shalab.fast.lstm import _Loop, laid_out
from shalab.fast.masks import POOL, Masks
from shalab.lstm import recurrent
from shalab.presets import PRESETS

OFF = {"dropout": 0.0, "dropout_input": 0.0, "dropout_hidden": 0.0}


def ids(*shape):
    return torch.randint(0, 256, shape)


@pytest.mark.parametrize(
    "preset, full, collapsed",
    [
        ("lstm", 50_667_776, 50_667_776),
        ("paper", 53_825_792, 51_726_592),
        ("paper-all-heads", 63_299_840, 54_903_040),
    ],
)
def test_parameter_counts_of_the_paper(preset, full, collapsed):
    with torch.device("meta"):
        model = SHARNN(PRESETS[preset].model)
    assert model.n_parameters == full
    assert model.collapse().n_parameters == collapsed
    with torch.device("meta"):
        assert SHARNN(model.config).n_parameters == collapsed


def test_initialisation():
    model = SHARNN(ModelConfig(d_model=512, d_boom=1024))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all() and module.eps == 1e-12
    assert model.decoder.weight is model.embedding.weight
    assert model.embedding.weight.std().item() == pytest.approx(0.1 / math.sqrt(512), rel=0.01)
    assert model.blocks[2].boom.widen.weight.std().item() == pytest.approx(0.1 / math.sqrt(512), rel=0.01)
    assert (model.blocks[2].attention.key_gate == 0).all()
    louder = SHARNN(ModelConfig(d_model=512, d_boom=1024, init_scale=1.0))
    assert louder.embedding.weight.std().item() == pytest.approx(1 / math.sqrt(512), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_the_cpu_computes_nearly_the_same(small, dtype):
    x, y = ids(7, 5), ids(7, 5)
    exact = F.cross_entropy(small.eval()(x)[0].flatten(0, 1), y.flatten())
    small.train()
    with torch.autocast("cpu", dtype):
        logits, state = small(x)
        logits, state = small(x, state)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
    loss.backward()
    assert abs(loss.item() - exact.item()) < 0.05
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in small.parameters())


def test_whole_model_in_bfloat16(small):
    x = ids(7, 5)
    exact = small.eval()(x)[0]
    logits, state = small.bfloat16()(x)
    assert logits.dtype == state.memory[1].dtype == torch.bfloat16
    assert (logits.float() - exact).abs().max() < 0.05


def test_attention_by_hand():
    """Two bytes in memory, two in the window, D = 2, gates at sigmoid(0) = 1/2 and value gate (1/2, 1)."""
    head = AttentionHead(2, 1, 0.0, collapsed=True).eval()
    with torch.no_grad():
        head.query.weight.copy_(torch.eye(2))
        head.query.bias.zero_()
        head.value_gate.vector.copy_(torch.tensor([0.5, 1.0]))
    h = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]])  # LayerNorm leaves these as they are
    context = torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]], [[1.0, 1.0]], [[3.0, -1.0]]])
    with torch.no_grad():
        read, memory, weights = head(h, context[-2:], context[:2], 9, Dropout(False), need_weights=True)
    assert torch.equal(memory, context)
    # query 0: q = (1/2, -1/2), k = context / 2, scores (q . k) / sqrt 2 = (1/2, -1, 0) / sqrt 2, last key hidden
    e = [math.exp(s / math.sqrt(2)) for s in (0.5, -1, 0)]
    row = [value / sum(e) for value in e] + [0]
    assert weights[0, 0, 0].tolist() == pytest.approx(row, abs=1e-6)
    assert read[0, 0].tolist() == pytest.approx([(2 * row[0] + row[2]) / 2, 4 * row[1] + row[2]], abs=1e-6)
    # query 1 sees all four: scores (-1/2, 1, 0, -1) / sqrt 2
    e = [math.exp(s / math.sqrt(2)) for s in (-0.5, 1, 0, -1)]
    assert weights[0, 0, 1].tolist() == pytest.approx([value / sum(e) for value in e], abs=1e-6)


@pytest.mark.parametrize("n_heads", [1, 3])
@pytest.mark.parametrize("memory", [0, 13])
def test_fast_attention_is_the_explicit_one(n_heads, memory):
    """Values, memory and gradients of the loop over streams against autograd through the equations, in float64."""
    head = AttentionHead(21, n_heads, 0.0).double()
    h, window = torch.randn(2, 7, 5, 21, dtype=torch.double, requires_grad=True)
    past = torch.randn(memory, 5, 21, dtype=torch.double)
    probe = torch.randn(7, 5, 21, dtype=torch.double)
    outcomes = []
    for need_weights in (False, True):
        read, kept, weights = head(h, window, past, 100, Masks(True), need_weights)
        inputs = [h, window, *head.parameters()]
        outcomes.append([read, kept, *torch.autograd.grad((read * probe).sum(), inputs, retain_graph=True)])
    assert weights.shape == (5, n_heads, 7, memory + 7)
    for fast, explicit in zip(*outcomes, strict=True):
        assert (fast - explicit).abs().max() < 1e-12


def test_gradients_under_dropout_are_those_of_the_masks_that_were_drawn():
    head = AttentionHead(7, 1, 0.3).double()
    h, window = torch.randn(2, 5, 3, 7, dtype=torch.double, requires_grad=True)
    past = torch.randn(11, 3, 7, dtype=torch.double)

    def read(h, window):
        torch.manual_seed(1)  # the same masks at each call
        return head(h, window, past, 100, Masks(True))[0]

    probe = torch.randn(5, 3, 7, dtype=torch.double)
    grads = torch.autograd.grad((read(h, window) * probe).sum(), [h, window])
    for which, grad in enumerate(grads):
        for index in itertools.islice(torch.ones_like(h).nonzero().tolist(), 0, None, 17):
            moved = [h.detach().clone(), window.detach().clone()]
            moved[which][tuple(index)] += 1e-6
            up = (read(*moved) * probe).sum()
            moved[which][tuple(index)] -= 2e-6
            down = (read(*moved) * probe).sum()
            assert grad[tuple(index)].item() == pytest.approx(((up - down) / 2e-6).item(), rel=1e-5, abs=1e-7)


def test_boom_is_widen_gelu_fold():
    boom = Boom(5, 15, 0.0).double()
    x = torch.randn(7, 3, 5, dtype=torch.double)
    wide = gelu(x @ boom.widen.weight.T + boom.widen.bias)
    assert torch.allclose(boom(x, Dropout(False)), wide[..., :5] + wide[..., 5:10] + wide[..., 10:], atol=1e-14)
    assert fold(torch.tensor([1.0, 2, 30, 40, 500, 600]), 2).tolist() == [531, 642]


def test_dropout_masks():
    drop = Masks(True)
    for p in (0.1, 0.5, 0.15):
        parts = drop.mask((101, 3, 4001), p, torch.float32)
        assert len(parts) == 3  # half a pool has room for 131 rows of 4,001
        mask = torch.cat(parts)
        assert mask.shape == (303, 4001)
        kept = mask[mask > 0]
        assert kept.unique().numel() == 1
        assert kept[0].item() * (1 - round(p * 256) / 256) == pytest.approx(1, rel=1e-6)
        assert (mask == 0).float().mean().item() == pytest.approx(p, abs=0.003)
    for shape in ((1, 100_003), (64, 16, 1024)):  # a part of a pool, and as many elements as it has
        parts = [part.flatten() for _ in range(2) for part in drop.mask(shape, 0.5, torch.float32)]
        related = torch.corrcoef(torch.stack(parts)) - torch.eye(len(parts))
        assert related.abs().max() < 0.02  # two masks of a pass and the parts of one
    x = torch.randn(101, 3, 4001, requires_grad=True)
    y = drop(x, 0.5)
    y.backward(torch.full_like(y, 7.0))
    assert torch.equal(x.grad, 7 * (y != 0) * 2) and torch.equal(y, x * (x.grad / 7))
    x = torch.randn(3)
    assert Masks(False)(x, 0.5) is x and drop(x, 0.0) is x
    assert set(drop(torch.ones(POOL // 2), 0.999).unique().tolist()) == {0.0, 256.0}
    torch.manual_seed(7)
    first = Masks(True)(torch.ones(97), 0.5)
    torch.manual_seed(7)
    assert torch.equal(first, Masks(True)(torch.ones(97), 0.5))


@pytest.mark.parametrize("width", [512, 513, 1023, 1024, 1025, 3001])
def test_rows_wider_than_half_a_pool_are_dropped_too(monkeypatch, width):
    """A pool of 1,024 elements: rows as wide as half of it, as all of it, and wider."""
    monkeypatch.setattr("shalab.fast.masks.POOL", 1024)
    drop, x = Masks(True), torch.randn(101, 3, width, requires_grad=True)
    assert max(part.numel() for part in drop.mask(x.shape, 0.25, torch.float32)) <= 512
    y = drop(x, 0.25)
    y.backward(torch.full_like(y, 7.0))
    kept = y != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.05)  # a pool's own share varies
    assert kept.flatten(0, 1).any(0).all() and not kept.flatten(0, 1).all(0).any(), "no column is always alike"
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0))
    torch.testing.assert_close(x.grad, 7 * kept / 0.75)


def test_a_context_wider_than_the_pool_learns(monkeypatch):
    monkeypatch.setattr("shalab.fast.masks.POOL", 128)
    model, state = SHARNN(ModelConfig(256, 11, 33, 1, 1, (0,), 301, dropout_hidden=0.5)).train(), None
    for _ in range(5):
        logits, state = model(ids(97, 2), state)
    logits.square().sum().backward()
    assert state.memory[0].shape == (301, 2, 11) and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("limit", [1, 2, 63, 100, 10**9])
@pytest.mark.parametrize("given", [0, 1, 63, 200])
def test_a_rolling_memory_is_the_last_rows_and_no_larger_than_what_was_read(limit, given):
    rows = torch.arange(3.0 * (given + 500)).view(-1, 3)
    memory, sizes, copied = RollingMemory(rows[:given], limit), [], 0
    for n in range(given, given + 500):
        buffer = memory.buffer
        seen = memory.append(rows[n])
        copied += memory.end if memory.buffer is not buffer else 0
        assert torch.equal(seen, rows[max(0, n + 1 - limit) : n + 1])
        sizes.append(len(memory.buffer) - min(n + 1, limit))
    assert max(sizes) <= max(64, min(given + 500, limit) // 4) + 1
    assert copied <= 5 * 500 + given


@pytest.mark.parametrize("layers", [(), (0,), (2, 0), (0, 1, 2)])
@pytest.mark.parametrize("max_context", [0, 3, 7, 23, 100])
def test_memory_keeps_the_last_rows(layers, max_context):
    model = SHARNN(ModelConfig(29, 6, 12, 3, 2, layers, max_context)).eval()
    state, seen = None, 0
    with torch.no_grad():
        for bptt in (7, 5, 7, 2, 7, 11):
            carried = min(seen, max(0, max_context - bptt))
            _, state, weights = model(torch.randint(0, 29, (bptt, 5)), state, need_weights=True)
            seen = min(max_context, carried + bptt)
            assert set(weights) == set(layers)
            for layer in range(3):
                if layer in layers:
                    assert weights[layer].shape == (5, 2, bptt, carried + bptt)
                    assert state.memory[layer].shape == (seen, 5, 6)
                    future = torch.ones(bptt, bptt).triu(1).bool()
                    assert (weights[layer][..., carried:][..., future] == 0).all()
                    assert torch.allclose(weights[layer].sum(-1), torch.ones(()), atol=1e-5)
                else:
                    assert state.memory[layer] is None


def test_windows_do_not_matter_while_the_memory_has_room():
    model = SHARNN(ModelConfig(29, 6, 12, 3, 1, (1,), 100)).double().eval()
    x = torch.randint(0, 29, (61, 3))
    with torch.no_grad():
        whole, end = model(x)
        for seed in range(5):
            state, parts, left = None, [], x
            while len(left):
                n = random.Random(seed + len(left)).randint(1, 13)
                logits, state = model(left[:n], state)
                parts.append(logits)
                left = left[n:]
            assert (torch.cat(parts) - whole).abs().max() < 1e-12
            assert (state.memory[1] - end.memory[1]).abs().max() < 1e-12


def test_context_can_be_raised_after_training(small):
    small.eval().max_context = 61
    _, state = small(ids(59, 3))
    _, state, weights = small(ids(5, 3), state, need_weights=True)
    assert weights[1].shape[-1] == 61 and state.memory[1].shape[0] == 61


def test_state_carries_no_gradient(small):
    _, state = small(ids(7, 3))
    tensors = [t for pair in state.hidden for t in pair] + [m for m in state.memory if m is not None]
    assert len(tensors) == 7 and not any(t.requires_grad for t in tensors)


def test_collapse_changes_no_output(small):
    small.double().eval()
    with torch.no_grad():
        small.blocks[1].attention.value_gate.vector.normal_()
    x = ids(7, 3)
    before, _ = small(x)
    n_parameters = small.n_parameters
    after, _ = small.collapse().collapse()(x)  # twice is once
    assert (before - after).abs().max() < 1e-14
    assert n_parameters - small.n_parameters == 2 * 11**2 + 2 * 11
    SHARNN(small.config).load_state_dict(small.state_dict())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_heads": 5}, "n_heads must divide d_model 1024, got 5"),
        ({"d_boom": 1025}, "d_boom must be a multiple of d_model 1024, got 1025"),
        ({"d_model": 0}, "d_model must be an integer of at least 1, got 0"),
        ({"n_layers": -1}, "n_layers must be an integer of at least 1, got -1"),
        ({"vocab_size": 2.5}, "vocab_size must be an integer of at least 1, got 2.5"),
        ({"max_context": -1}, "max_context must be an integer of at least 0, got -1"),
        ({"attention_layers": (4,)}, r"blocks from 0 to 3, got \[4\]"),
        ({"attention_layers": 2}, "attention_layers must be a sequence of different block numbers, got 2"),
        ({"attention_layers": (1, 1)}, r"different block numbers, got \(1, 1\)"),
        ({"attention_layers": (1.0,)}, r"different block numbers, got \(1.0,\)"),
        ({"n_heads": True}, "n_heads must be an integer of at least 1, got True"),
        ({"init_scale": math.inf}, "init_scale must be finite and above 0, got inf"),
        (
            {"dropout": "0.1", "induction": 1},
            "dropout must be at least 0 and below 1, got '0.1'; induction must be True",
        ),
        ({"dropout_hidden": 1.0}, "dropout_hidden must be at least 0 and below 1, got 1.0"),
        ({"init_scale": 0.0}, "init_scale must be finite and above 0, got 0.0"),
        ({"induction": True, "attention_layers": (0, 2)}, r"attention in one block .* got blocks \(0, 2\) and 1024"),
        ({"induction": True, "d_model": 3, "d_boom": 3}, "d_model of at least 4, got blocks .2,. and 3"),
        ({"n_heads": 0, "d_boom": -3}, "d_boom must be .*; n_heads must be"),
    ],
)
def test_config_says_what_is_wrong(change, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**change)


def test_config_is_frozen_and_takes_lists():
    config = ModelConfig(attention_layers=[0, 2])
    assert config.attention_layers == (0, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.d_model = 3


def test_foreign_weights_are_named():
    with pytest.raises(InputError, match="blocks.0.wq.weight is no parameter of the original SHA-RNN"):
        import_original({"encoder.weight": torch.zeros(3, 2), "blocks.0.wq.weight": torch.zeros(2, 2)})


def test_wrong_input_is_named(small):
    with pytest.raises(InputError, match=r"int64 of shape \(T, B\), got torch.float32 of shape \(7, 3\)"):
        small(torch.zeros(7, 3))
    _, state = small(ids(7, 3))
    with pytest.raises(InputError, match="state is of 3 streams, x of 5"):
        small(ids(7, 5), state)


@pytest.mark.parametrize("dropout_input", [0.0, 0.1])
def test_checkpointed_blocks_have_the_same_gradients(dropout_input):
    """Also the same dropout: the masks of the second computation are those of the first."""
    model = SHARNN(ModelConfig(256, 11, 33, 3, 1, (0, 1), 23, dropout_input=dropout_input)).train()
    found = []
    for model.checkpoint_blocks in (False, True):
        torch.manual_seed(5)
        model.zero_grad()
        logits, state = model(torch.arange(85).view(17, 5))
        logits, state = model(torch.arange(85).view(17, 5), state)
        logits.square().sum().backward()
        found.append([logits, *state.memory[:2], *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("chunk, kept", [(60, 10**9), (60, 0), (10**9, 0)])
def test_attention_in_parts_is_the_same(monkeypatch, chunk, kept):
    """Rows of the window in parts of one to three, and weights computed again: same outputs and gradients."""

    def found():
        torch.manual_seed(3)
        model = SHARNN(ModelConfig(256, 10, 30, 2, 2, (0, 1), 41, dropout_hidden=0.0)).double().train()
        state = None
        for shift in range(4):
            logits, state = model(torch.arange(65).view(13, 5) + shift, state)
        logits.square().sum().backward()
        return [logits, *(p.grad for p in model.parameters())]

    whole = found()
    monkeypatch.setattr("shalab.fast.attention.CHUNK", chunk)
    monkeypatch.setattr("shalab.fast.attention.KEPT", kept)
    for a, b in zip(whole, found(), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_dropout_of_weights_that_are_computed_again_is_the_same(small, monkeypatch):
    x = torch.randint(256, (17, 5))
    found = []
    for kept in (10**9, 0):
        monkeypatch.setattr("shalab.fast.attention.KEPT", kept)
        torch.manual_seed(3)
        small.train().zero_grad()
        small(x, small(x)[1])[0].square().sum().backward()
        found.append([p.grad.clone() for p in small.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_memory_is_kept_in_the_format_of_products(small):
    with torch.autocast("cpu", torch.bfloat16):
        _, state = small(torch.randint(256, (7, 5)))
        _, state = small(torch.randint(256, (7, 5)), state)
    assert state.memory[1].dtype == torch.bfloat16 and state.memory[1].shape == (14, 5, 11)
    logits, state = small(torch.randint(256, (7, 5)), state)  # goes on in another format
    assert logits.dtype == state.memory[1].dtype == torch.float32


def test_the_cpu_takes_bfloat16_where_it_pays(monkeypatch):
    for pays, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("shalab.device.bfloat16_pays", lambda pays=pays: pays)
        left, asked = Precision.pick("cpu"), Precision.pick("cpu", "float32")
        assert left.dtype == dtype and left.automatic
        assert asked.dtype == torch.float32 and not asked.automatic


@pytest.mark.parametrize("faster, wrong, pays", [(2, 1.0, True), (1, 1.0, False), (2, 1.1, False)])
def test_bfloat16_pays_if_its_products_are_faster_and_right(monkeypatch, faster, wrong, pays):
    """A clock on which a product takes as long as it is told; then products that are off by a tenth."""
    product = torch.Tensor.__matmul__
    now = 0.0

    def multiply(a, b):
        nonlocal now
        half = a.dtype == torch.bfloat16
        now += 1 / faster if half else 1
        return product(a, b) * (wrong if half else 1)

    monkeypatch.setattr(torch.Tensor, "__matmul__", multiply)
    monkeypatch.setattr("shalab.device.time.perf_counter", lambda: now)
    assert bfloat16_pays.__wrapped__(size=67) == pays


def test_a_cpu_without_bfloat16_instructions_is_asked_for_small_products_only(monkeypatch):
    """Where a product takes fifty times as long, one of 1,024 rows takes seconds, and every command would wait."""
    product, n_threads = torch.Tensor.__matmul__, torch.get_num_threads()
    now, rows, threads = 0.0, [], []

    def multiply(a, b):
        nonlocal now
        now += 50 if a.dtype == torch.bfloat16 else 1
        rows.append(len(a))
        threads.append(torch.get_num_threads())
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", multiply)
    monkeypatch.setattr("shalab.device.time.perf_counter", lambda: now)
    assert not bfloat16_pays.__wrapped__(size=67)
    assert max(rows) == 8 and set(threads) == {1} and torch.get_num_threads() == n_threads


@pytest.mark.parametrize("bptt", [1, 7])
def test_lstm_in_bfloat16_is_nearly_that_in_float32(bptt):
    lstm, x = torch.nn.LSTM(11, 11).eval(), torch.randn(bptt, 5, 11)
    hidden = torch.randn(1, 5, 11), torch.randn(1, 5, 11)
    exact, (h, c) = lstm(x, hidden)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, state = recurrent(lstm, x, hidden)
    assert found.dtype == state[0].dtype == state[1].dtype == torch.bfloat16
    for a, b in ((found, exact), (state[0], h), (state[1], c)):
        torch.testing.assert_close(a.float(), b, atol=0.02, rtol=0.02)
    with torch.no_grad():
        back, _ = recurrent(lstm, x, state)  # goes on in another format
    assert back.dtype == torch.float32


def test_lstm_step_by_step_is_that_of_pytorch():
    """In float64: outputs, the last cell, and the gradients of the input and of every weight."""
    lstm = torch.nn.LSTM(11, 11).double()
    x, probe = torch.randn(2, 7, 5, 11, dtype=torch.double)
    hidden = tuple(torch.randn(2, 1, 5, 11, dtype=torch.double))
    found = []
    for forward in (lambda x: lstm(x, hidden), lambda x: _Loop.apply(x, *hidden, *lstm._flat_weights)):
        lstm.zero_grad()
        x = x.detach().clone().requires_grad_()
        y, last = forward(x)
        (y * probe).sum().backward()
        c = last[1] if isinstance(last, tuple) else last
        found.append([y, c, x.grad, *(p.grad.clone() for p in lstm.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # between the products, float32


def test_a_wide_lstm_learns_bfloat16_by_the_loop(monkeypatch):
    lstm, x = torch.nn.LSTM(11, 11), torch.randn(7, 5, 11)
    with torch.autocast("cpu", torch.bfloat16):
        narrow, (h, c) = recurrent(lstm, x, None)
        monkeypatch.setattr("shalab.fast.lstm.WIDE", 11)
        monkeypatch.setattr("torch.lstm", None)
        wide, state = recurrent(lstm, x, None)
        monkeypatch.undo()
        monkeypatch.setattr("shalab.fast.lstm.WIDE", 11)
        monkeypatch.setattr("shalab.fast.lstm._Loop", None)
        with torch.no_grad():
            read, (h_read, c_read) = recurrent(lstm, x, None)
    for a, b in ((wide, narrow), (state[0], h), (state[1], c), (read, narrow), (h_read, h), (c_read, c)):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("supported", [True, False])
def test_a_weight_laid_out_multiplies_as_before(dtype, supported, monkeypatch):
    if not supported:
        monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    weight = torch.randn(13, 7).to(dtype)
    for w in (weight, weight.T):
        by_w = laid_out(w, 3)
        for n_rows in (3, 5):
            x = torch.randn(n_rows, w.shape[1]).to(dtype)
            torch.testing.assert_close(by_w(x), x @ w.T)
