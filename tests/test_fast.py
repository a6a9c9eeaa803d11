"""The tricks compute what the plain equations say, where they can; elsewhere they step aside."""

import dataclasses
import math
import os
import re
import subprocess
import sys
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from shalab import SHARNN, Lamb, ModelConfig, fast
from shalab.attention import AttentionHead
from shalab.device import Precision
from shalab.door import TRICKS, door, plain, stands_in_for
from shalab.dropout import Dropout
from shalab.errors import InputError
from shalab.fast import conditions
from shalab.fast.masks import Masks
from shalab.generate import generate_batch
from shalab.laboratory.feedforward import FeedForward, with_feed_forward

SMALL = ModelConfig(251, 21, 63, 3, 1, (1,), 23, 0.0, 0.0, 0.0, init_scale=1.0)
SHAPES = {
    "one head": SMALL,
    "three heads in two blocks": dataclasses.replace(SMALL, n_heads=3, attention_layers=(0, 2)),
    "no memory": dataclasses.replace(SMALL, max_context=0),
    "no head": dataclasses.replace(SMALL, attention_layers=()),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# format -> of the weights, of products, what may be off: products, and what follows from them in 4 updates
FORMATS = {
    "float64": (torch.float64, None, 1e-10), "float32": (torch.float32, None, 2e-4),
    "bfloat16": (torch.float32, torch.bfloat16, 0.3),
}  # fmt: skip


def watched(model):
    """With hooks in every place that a trick could pass by."""
    for block in model.blocks:
        for module in block.modules():
            module.register_forward_hook(lambda *_: None)


def learned(config, device, dtype, half, hooks):
    """Everything that four updates leave: logits, memories, gradients, weights."""
    torch.manual_seed(1)
    model = with_feed_forward(SHARNN(config), 35) if hooks == "feed-forward" else SHARNN(config)
    model = model.to(device, dtype).train()
    if hooks == "hooks":
        watched(model)
    optimizer, state, outcomes = Lamb(model.parameters(), lr=0.02), None, []
    switches = Precision.pick(device, "float32").switches  # PyTorch's default lets a GPU's LSTM round to ten bits
    for x in torch.randint(251, (4, 8, 5), generator=torch.Generator().manual_seed(3)).to(device):
        optimizer.zero_grad()
        with switches():
            with torch.autocast(device, half, enabled=half is not None):
                logits, state = model(x[:-1], state)
            F.cross_entropy(logits.flatten(0, 1), x[1:].flatten()).backward()
        outcomes += [logits, *(rows for rows in state.memory if rows is not None)]
        outcomes += [part for pair in state.hidden for part in pair]
        outcomes += [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    return [*outcomes, *model.parameters()]


@pytest.mark.parametrize("hooks", ["", "hooks", "feed-forward"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_model_learns_the_same_with_tricks_and_without(device, kind, shape, hooks):
    dtype, half, off = FORMATS[kind]
    tricky = learned(SHAPES[shape], device, dtype, half, hooks)
    with plain():
        slow = learned(SHAPES[shape], device, dtype, half, hooks)
    assert len(tricky) == len(slow)
    for a, b in zip(tricky, slow, strict=True):
        assert a.shape == b.shape and torch.all((a - b).abs() <= off * max(1, b.abs().max() if b.numel() else 0))
    assert any(not torch.equal(a, b) for a, b in zip(tricky, slow, strict=True)), "the tricks were on"


@pytest.mark.parametrize("name", TRICKS)
def test_each_trick_stands_in_and_steps_aside(name, monkeypatch):
    """Each is called where it is on, computes something itself, and is not called where it is off."""
    trick, called = TRICKS[name], []
    compute = trick.compute
    monkeypatch.setattr(trick, "compute", lambda *args, **named: called.append(r := compute(*args, **named)) or r)
    act = {
        "Decoder": lambda: list(generate_batch(SHARNN(SMALL), [b"ab"], 3, Precision.pick("cpu", "float32"))),
        "FeedForward.forward": lambda: FeedForward(5, 13, 0.0)(torch.ones(3, 5), Dropout(False)),
    }.get(trick.plain, lambda: learned(SMALL, "cpu", torch.float32, None, ""))
    act()
    assert any(result is not NotImplemented for result in called)
    called.clear()
    with plain(name):
        act()
    assert not called and trick.on


def test_text_is_the_same_with_rolling_memories_and_without():
    model = SHARNN(dataclasses.replace(SMALL, n_heads=3)).double()
    prompts = [b"a", b"bcdefgh" * 7]
    texts = [list(generate_batch(model, prompts, 40, Precision.pick("cpu", "float32"), temperature=0))]
    with plain():
        texts.append(list(generate_batch(model, prompts, 40, Precision.pick("cpu", "float32"), temperature=0)))
    assert texts[0] == texts[1]


def test_masks_drop_as_often_as_pytorchs():
    x = torch.ones(401, 503)
    for p in (0.1, 0.5):
        for drop in (Dropout(True), Masks(True)):
            y = drop(x, p)
            assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.005)
            assert y.mean().item() == pytest.approx(1, abs=0.01)


def test_the_trick_drops_what_the_equations_drop():
    """Queries, values and weights, each at the head's rate. Seen to fail with `scaled_query` forgetting its dropout."""
    head, h = AttentionHead(6, 2, 0.37), torch.randn(5, 3, 6)

    def dropped(kind):
        class Recorder(kind):
            def __call__(self, x, p):
                log.append((p, x.numel() // (5 * 3)))
                return super().__call__(x, p)

            def mask(self, shape, p, dtype):
                log.append((p, math.prod(shape) // (5 * 3)))
                return super().mask(shape, p, dtype)

        log = []
        with plain() if kind is Dropout else nullcontext():
            head(h, h, None, 23, Recorder(True))
        return log

    queries, values, weights = dropped(Dropout)
    assert (queries, values, weights) == ((0.37, 6), (0.37, 6), (0.37, 10))
    assert dropped(Masks)[0] == queries and {p for p, _ in dropped(Masks)} == {0.37}


@pytest.fixture
def doubled():
    """A plain function with a door, and what to hang behind it."""

    @door
    def double(x):
        return x + x

    yield double
    TRICKS.pop("shift", None)


def test_an_operator_that_is_gone_costs_speed_and_one_warning(doubled):
    calls = []

    @stands_in_for(doubled, "shift", "", "")
    def shift(x):
        calls.append(x)
        return torch.there_is_no_such_operator(x)

    with pytest.warns(UserWarning, match="without the trick 'shift' from here on, slower: .*no_such_operator") as seen:
        assert doubled(3) == 6
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doubled(4) == 8
    assert calls == [3]


@pytest.mark.parametrize("operator", ["_foreach_lerp_", "_foreach_norm", "_foreach_add_"])
def test_an_update_without_one_of_its_operators_is_the_plain_one(operator, monkeypatch):
    """Also where it is missed halfway: no moment is updated twice."""
    weights, gradients = torch.randn(7, 5), torch.randn(3, 7, 5)

    def learned_weights():
        w = torch.nn.Parameter(weights.clone())
        optimizer = Lamb([w], lr=0.1)
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
        return w.detach()

    with plain():
        expected = learned_weights()
    monkeypatch.setattr(TRICKS["LAMB on all tensors at once"], "on", True)  # the end of the test puts it back
    monkeypatch.delattr(torch, operator)
    monkeypatch.setattr(conditions, "_rehearsed", set())
    with pytest.warns(UserWarning, match=f"without the trick 'LAMB on all tensors at once'.*{operator}"):
        found = learned_weights()
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "trick, place, operator",
    [
        ("constant memory", torch, "_softmax_backward_data"),
        ("LSTM in the products' format", torch.ops.mkldnn, "_linear_pointwise"),
    ],
)
def test_an_operator_that_computes_something_else_costs_speed_and_one_warning(trick, place, operator, monkeypatch):
    """PyTorch reports a changed signature by RuntimeError, which is noticed before the backward pass needs it."""
    if place is torch.ops.mkldnn and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16 instructions")

    def changed(*_):
        raise RuntimeError(f"{operator} expected 7 arguments")

    with plain():
        expected = learned(SMALL, "cpu", torch.float32, torch.bfloat16, "")
    monkeypatch.setattr(fast.lstm, "WIDE", 1)
    monkeypatch.setattr(TRICKS[trick], "on", True)  # the end of the test puts it back
    monkeypatch.setattr(place, operator, changed)
    monkeypatch.setattr(conditions, "_rehearsed", set())
    with pytest.warns(UserWarning, match=f"without the trick {re.escape(repr(trick))}.*{operator}") as seen:
        found = learned(SMALL, "cpu", torch.float32, torch.bfloat16, "")
    assert len(seen) == 1 and not TRICKS[trick].on
    off = FORMATS["bfloat16"][2]
    assert all(torch.allclose(a.float(), b.float(), off, off) for a, b in zip(found, expected, strict=True))


def test_a_mistake_of_the_caller_is_not_the_tricks(doubled):
    stands_in_for(doubled, "shift", "", "")(lambda x: x << 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError):
            doubled(None)
        assert TRICKS["shift"].on and doubled(3) == 6


def test_a_trick_that_does_not_exist_is_named_beside_those_that_do():
    with pytest.raises(InputError, match="no trick is called shift; there are pooled masks, "), plain("shift"):
        pass


def test_the_equations_stay_readable_behind_the_door():
    entry = FeedForward.forward
    assert entry.__wrapped__ is not entry and entry.__wrapped__.__qualname__ == entry.__qualname__


@pytest.mark.parametrize("value, on", [("", True), ("0", True), ("1", False)])
def test_the_environment_shuts_all_doors(value, on):
    code = "import shalab; from shalab.door import TRICKS; print(*{trick.on for trick in TRICKS.values()})"
    printed = subprocess.check_output(
        [sys.executable, "-c", code], env={**os.environ, "SHALAB_PLAIN": value}, text=True
    )
    assert printed.split() == [str(on)]
