"""The recurrences compute their equations, step by step, and carry their state as the LSTM does."""

import pytest
import torch

from shalab import SHARNN, ModelConfig
from shalab.device import Precision
from shalab.generate import generate
from shalab.laboratory.recurrences import SRU, MinGRU, QuasiRecurrent, scan, with_recurrence

T, B, D = 13, 3, 7


def min_gru(layer, x):
    """One step after the other, from the paper's equations."""
    w_z, w = layer.linear.weight.chunk(2)
    b_z, b = layer.linear.bias.chunk(2)
    h, hs = torch.zeros(B, D), []
    for x_t in x:
        z = torch.sigmoid(x_t @ w_z.T + b_z)
        h = (1 - z) * h + z * (x_t @ w.T + b)
        hs.append(h)
    return torch.stack(hs)


def sru(layer, x):
    w_u, w_f, w_r = layer.linear.weight.chunk(3)
    b_u, b_f, b_r = layer.linear.bias.chunk(3)
    c, hs = torch.zeros(B, D), []
    for x_t in x:
        f, r = torch.sigmoid(x_t @ w_f.T + b_f), torch.sigmoid(x_t @ w_r.T + b_r)
        c = f * c + (1 - f) * (x_t @ w_u.T + b_u)
        hs.append(r * torch.tanh(c) + (1 - r) * x_t)
    return torch.stack(hs)


def quasi_recurrent(layer, x):
    before, now = layer.linear.weight.split(D, 1)  # what x_t-1 and x_t are multiplied by
    c, last, hs = torch.zeros(B, D), torch.zeros(B, D), []
    for x_t in x:
        z, f, o = (last @ before.T + x_t @ now.T + layer.linear.bias).chunk(3, 1)
        c = torch.sigmoid(f) * c + (1 - torch.sigmoid(f)) * torch.tanh(z)
        hs.append(torch.sigmoid(o) * c)
        last = x_t
    return torch.stack(hs)


every_kind = pytest.mark.parametrize(
    "kind, by_steps", [(MinGRU, min_gru), (SRU, sru), (QuasiRecurrent, quasi_recurrent)]
)


def made(kind):
    torch.manual_seed(0)
    return kind(D), 2 * torch.randn(T, B, D)


def test_a_scan_by_hand():
    """1; 2 * 1 + 3 = 5; 0 * 5 + 4 = 4; -1 * 4 + 1 = -3. With 10 before the first: 0.5 * 10 + 1 = 6; 15; 4; -3."""
    a, b = torch.tensor([0.5, 2.0, 0.0, -1.0]), torch.tensor([1.0, 3.0, 4.0, 1.0])
    assert scan(a, b).tolist() == [1, 5, 4, -3]
    assert scan(a, b, torch.tensor([10.0])).tolist() == [6, 15, 4, -3]


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 8, 9, 100])
def test_a_scan_is_the_loop_and_so_are_its_gradients(n_steps):
    torch.manual_seed(n_steps)
    a, b = torch.rand(n_steps, 2, dtype=torch.double), torch.randn(n_steps, 2, dtype=torch.double)
    before = torch.randn(1, 2, dtype=torch.double)
    inputs = [x.requires_grad_() for x in (a, b, before)]
    h, hs = before[0], []
    for a_t, b_t in zip(a, b, strict=True):
        h = a_t * h + b_t
        hs.append(h)
    loop, weight = torch.stack(hs), torch.randn(n_steps, 2, dtype=torch.double)
    torch.testing.assert_close(scan(a, b, before), loop)
    expected = torch.autograd.grad((loop * weight).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((scan(a, b, before) * weight).sum(), inputs), expected)


@every_kind
def test_all_steps_at_once_are_one_step_after_the_other(kind, by_steps):
    layer, x = made(kind)
    h, _ = layer(x)
    assert h.shape == (T, B, D) and h.std() > 0.1
    torch.testing.assert_close(h, by_steps(layer, x))


@every_kind
def test_a_step_sees_the_past_and_not_the_future(kind, by_steps):
    layer, x = made(kind)
    other = x.clone()
    other[5] += 1
    h, changed = layer(x)[0], layer(other)[0]
    assert torch.equal(h[:5], changed[:5])
    assert all((h[t] - changed[t]).abs().max() > 1e-6 for t in range(5, 9))


@every_kind
@pytest.mark.parametrize("cut", [1, 4, 12])
def test_two_windows_with_the_state_carried_are_one(kind, by_steps, cut):
    layer, x = made(kind)
    h, last = layer(x)
    first, state = layer(x[:cut])
    second, carried = layer(x[cut:], state)
    torch.testing.assert_close(torch.cat([first, second]), h)
    torch.testing.assert_close(carried, last)
    assert not torch.allclose(layer(x[cut:])[0], second)


@every_kind
def test_a_model_carries_it_from_window_to_window_learns_through_it_and_writes(kind, by_steps):
    torch.manual_seed(0)
    config = ModelConfig(256, 12, 24, 2, 1, (0,), 40, 0.0, 0.0, 0.0, init_scale=1.0)
    model = with_recurrence(SHARNN(config), kind)
    ids = torch.randint(256, (11, B))
    whole, _ = model(ids)
    first, state = model(ids[:4])
    second, _ = model(ids[4:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-5, rtol=1e-4)
    whole.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for block in model.blocks for parameter in block.lstm.parameters())
    weights = torch.cat([block.lstm.state_dict()[name].flatten() for block in model.blocks
                         for name in block.lstm.state_dict() if name.endswith("weight")])  # fmt: skip
    assert abs(weights.std() * 12**0.5 - 1) < 0.1, "drawn as the model draws its other layers"
    text = bytes(generate(model, b"In the ", 5, Precision.pick("cpu", "float32")))
    assert len(text) == 5
