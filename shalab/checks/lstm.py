"""Exercises of notebook 02."""

import torch
from torch import Tensor, nn

from shalab.checks import exercise

# T window, B streams, D width


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _step(x, h, c, w_ih, w_hh, b_ih, b_hh, order="ifgo", candidate=torch.tanh, squash=torch.tanh, fresh=True):
    """The cell with one thing done differently."""
    gates = dict(zip(order, (x @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1), strict=True))  # (B, D) each
    i, f, o = (torch.sigmoid(gates[name]) for name in "ifo")
    new = f * c + i * candidate(gates["g"])
    return o * squash(new if fresh else c), new


def _with(**change):
    return lambda *arguments: _step(*arguments, **change)


def _cells(generator):
    for n_streams, d_model in ((2, 3), (5, 7)):
        shapes = (n_streams, d_model), (n_streams, d_model), (n_streams, d_model)
        weights = (4 * d_model, d_model), (4 * d_model, d_model), (4 * d_model,), (4 * d_model,)
        yield tuple(_random(generator, *shape) for shape in (*shapes, *weights))


@exercise(
    _cells,
    mistakes={
        "gates in another order": (_with(order="ifog"), "PyTorch stacks the gates as i, f, g, o: g is the third."),
        "input and forget gate swapped": (
            _with(order="figo"),
            "f decides how much of the old c stays, i how much comes in. In the rows i comes first, then f.",
        ),
        "sigmoid on the candidate": (
            _with(candidate=torch.sigmoid),
            "g is not a gate. It goes through tanh, so that it can lower c as well as raise it.",
        ),
        "no tanh on the way out": (
            _with(squash=lambda c: c),
            "h is o times tanh(c), not o times c: c may grow large, h stays between -1 and 1.",
        ),
        "h from the old c": (_with(fresh=False), "h is computed from the new c, after the gates have changed it."),
    },
)
def cell(x, h, c, w_ih, w_hh, b_ih, b_hh) -> tuple[Tensor, Tensor]:
    """x, h, c (B, D), weights (4D, D), biases (4D,) -> the next h and c (B, D)"""
    return _step(x, h, c, w_ih, w_hh, b_ih, b_hh)


def _normalised(x, gain, bias, dim=-1, correction=0, root=True):
    mean, variance = x.mean(dim, keepdim=True), x.var(dim, correction=correction, keepdim=True)
    return gain * (x - mean) / (variance.sqrt() if root else variance) + bias


def _vectors(generator):
    for bptt, n_streams, d_model in ((3, 2, 5), (7, 3, 11)):
        yield _random(generator, bptt, n_streams, d_model), _random(generator, d_model), _random(generator, d_model)


@exercise(
    _vectors,
    mistakes={
        "wrong axis": (
            lambda x, gain, bias: _normalised(x, gain, bias, dim=0),
            "That is over time. Each vector is normalised by itself, over its D numbers: dim=-1 and keepdim=True.",
        ),
        "divided by D - 1": (
            lambda x, gain, bias: _normalised(x, gain, bias, correction=1),
            "LayerNorm's variance divides by D; torch's var and std divide by D - 1 unless told correction=0.",
        ),
        "variance for standard deviation": (
            lambda x, gain, bias: _normalised(x, gain, bias, root=False),
            "Divide by the square root of the variance.",
        ),
    },
)
def layer_norm(x, gain, bias) -> Tensor:
    """x (T, B, D), gain and bias (D,) -> (T, B, D)"""
    return _normalised(x, gain, bias)


def _cut(data: Tensor, batch_size: int) -> Tensor:
    length = len(data) // batch_size
    return data[: length * batch_size].view(batch_size, length).T  # (N // B, B)


def _dealt(data, batch_size, cursor, bptt):
    rows = data[: len(data) // batch_size * batch_size].view(-1, batch_size)
    return rows[cursor : cursor + bptt], rows[cursor + 1 : cursor + bptt + 1]


def _unshifted(data, batch_size, cursor, bptt):
    x = _cut(data, batch_size)[cursor : cursor + bptt]
    return x, x


def _sideways(data, batch_size, cursor, bptt):
    return tuple(part.T for part in window.reference(data, batch_size, cursor, bptt))


def _texts(generator):
    for n, batch_size, cursor, bptt in ((47, 3, 0, 5), (53, 5, 2, 7)):
        yield torch.randint(256, (n,), generator=generator), batch_size, cursor, bptt


@exercise(
    _texts,
    mistakes={
        "bytes dealt out like cards": (
            _dealt,
            "Neighbouring bytes ended up in different streams. Every stream is one contiguous piece of the text.",
        ),
        "y is x": (_unshifted, "The target is the byte after the input: y starts one byte later."),
        "time and streams swapped": (_sideways, "Time comes first: (T, B), so transpose."),
    },
)
def window(data: Tensor, batch_size: int, cursor: int, bptt: int) -> tuple[Tensor, Tensor]:
    """data (N,) -> inputs and targets (T, B) from position `cursor` of every stream"""
    rows = _cut(data, batch_size)
    return rows[cursor : cursor + bptt], rows[cursor + 1 : cursor + bptt + 1]


def _gradient(lstm: nn.LSTM, x: Tensor, bptt: int, carry):
    hidden = None
    for begin in range(0, len(x), bptt):
        outputs, hidden = lstm(x[begin : begin + bptt], carry(hidden))
        outputs.square().sum().backward()
    return lstm.weight_hh_l0.grad


def _whole(lstm, x, bptt):
    return _gradient(lstm, x, len(x), carry=lambda hidden: hidden)


def _networks(generator):
    for n, n_streams, d_model, bptt in ((11, 2, 3, 5), (13, 3, 5, 4)):
        lstm = nn.LSTM(d_model, d_model)
        for parameter in lstm.parameters():
            parameter.data = _random(generator, *parameter.shape)
        yield lstm, _random(generator, n, n_streams, d_model), bptt


@exercise(
    _networks,
    mistakes={
        "the state is thrown away": (
            lambda lstm, x, bptt: _gradient(lstm, x, bptt, carry=lambda hidden: None),
            "Every window starts from zeros. Hand the last window's (h, c) to the next one.",
        ),
        "the state is not detached": (
            lambda lstm, x, bptt: _gradient(lstm, x, bptt, carry=lambda hidden: hidden),
            "The second backward pass ran into the first window's graph, which is gone: h.detach(), c.detach().",
        ),
        "not truncated": (_whole, "That is the gradient through the whole text. It has to stop where a window begins."),
    },
)
def truncated(lstm: nn.LSTM, x: Tensor, bptt: int) -> Tensor:
    """The gradient of lstm.weight_hh_l0, (4D, D), summed over x (N, B, D) in windows of `bptt`."""
    return _gradient(lstm, x, bptt, carry=lambda hidden: hidden and tuple(part.detach() for part in hidden))
