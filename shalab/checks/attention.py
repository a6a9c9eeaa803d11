"""Exercises of notebook 03."""

import math

import torch
from torch import Tensor, nn

from shalab.attention import attention_mask, last_rows
from shalab.checks import exercise

# T window, D width, M bytes in memory, K = M + T


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _weights(q, k, mask=attention_mask, scale=math.sqrt, dim=-1):
    """The weights with one thing done differently."""
    scores = q @ k.T / scale(q.shape[-1])
    return scores.masked_fill(~mask(*scores.shape), -math.inf).softmax(dim)


def _weights_with(**change):
    return lambda q, k: _weights(q, k, **change)


def _everything(bptt, n_keys):
    return torch.ones(bptt, n_keys, dtype=torch.bool)


def _queries(generator):
    for bptt, n_memory, d_model in ((3, 4, 5), (7, 2, 11)):
        yield _random(generator, bptt, d_model), _random(generator, n_memory + bptt, d_model)


@exercise(
    _queries,
    mistakes={
        "no mask": (_weights_with(mask=_everything), "A query may not look at bytes that come after it."),
        "the memory is masked as well": (
            _weights_with(mask=lambda bptt, n_keys: attention_mask(n_keys, n_keys)[:bptt]),
            "Query t is row M + t of the context, so that it sees the whole memory and the window up to itself.",
        ),
        "the own byte is hidden": (
            _weights_with(mask=lambda bptt, n_keys: _everything(bptt, n_keys).tril(n_keys - bptt - 1)),
            "Query t has already read byte t and may look at it: only later bytes are hidden.",
        ),
        "not scaled": (_weights_with(scale=lambda d_model: 1), "Divide the scores by the square root of D."),
        "divided by D": (_weights_with(scale=lambda d_model: d_model), "By its square root, not by D itself."),
        "softmax over the queries": (
            _weights_with(mask=_everything, dim=0),
            "The weights of one query add up to 1: the softmax runs over the keys, the last axis.",
        ),
    },
)
def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """q (T, D), k (K, D) -> (T, K)"""
    return _weights(q, k)


def _remember(memory, window, max_context):
    context = torch.cat([last_rows(memory, max_context - len(window)), window])
    return context, last_rows(context, max_context)


def _python_slices(memory, window, max_context):
    context = torch.cat([memory[-(max_context - len(window)) :], window])
    return context, context[-max_context:]


def _cut_afterwards(memory, window, max_context):
    context = torch.cat([memory, window])
    return context, last_rows(context, max_context)


def _oldest(memory, window, max_context):
    context = torch.cat([memory[: max(0, max_context - len(window))], window])
    return context, context[:max_context]


def _windows(generator):
    for n_memory, bptt, max_context in ((7, 3, 8), (0, 2, 5), (5, 3, 3), (6, 5, 2), (3, 2, 11)):
        yield _random(generator, n_memory, 2), _random(generator, bptt, 2), max_context


@exercise(
    _windows,
    mistakes={
        "nothing becomes everything": (
            _python_slices,
            "Where max_context equals T no memory is left, but x[-0:] is all of x. Count from the front: "
            "x[max(0, len(x) - n):] with n at least 0.",
        ),
        "cut only afterwards": (
            _cut_afterwards,
            "Memory and window together may have at most max_context rows: cut the memory before the window is added.",
        ),
        "the oldest stay": (_oldest, "Keep the rows that are nearest to the window and drop the oldest."),
    },
)
def remember(memory: Tensor, window: Tensor, max_context: int) -> tuple[Tensor, Tensor]:
    """memory (M, D), window (T, D) -> the context (K, D) that is attended to and the next memory"""
    return _remember(memory, window, max_context)


OPEN, SHUT, STEEP = 2.0, -3.0, 3.0  # what the notebook proposes, and `start_copying` uses
_PLACES = ((5, 3), (7, 2))  # width, source; the unit itself is 0


def _delay(w_x, w_h, bias, source, row=2, forget=SHUT, from_input=False, fresh=True):
    """The rows of the unit with one thing done differently."""
    w_x, w_h = (torch.zeros_like(w) if fresh else w.clone() for w in (w_x, w_h))
    (w_x if from_input else w_h)[row, source] = STEEP
    return w_x, w_h, torch.tensor([OPEN, forget, 0.0, OPEN])


def _delay_with(**change):
    return lambda *arguments: _delay(*arguments, **change)


def _one_unit(generator):
    for d_model, source in _PLACES:
        yield _random(generator, 4, d_model), _random(generator, 4, d_model), _random(generator, 4), source


def _is_late(results: list) -> str | None:
    """Whether the unit follows its source one byte late, in a random cell; any weights that do so are right."""
    for result, (d_model, source) in zip(results, _PLACES, strict=True):
        try:
            rows = [torch.as_tensor(part).detach().float() for part in result]
        except (TypeError, ValueError, RuntimeError):
            rows = []
        if [tuple(part.shape) for part in rows] != [(4, d_model), (4, d_model), (4,)]:
            return "expected w_x and w_h of shape (4, D) and bias of shape (4,)"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            cell, x = nn.LSTMCell(d_model, d_model), torch.randn(300, 1, d_model)
        weights = cell.weight_ih, cell.weight_hh, cell.bias_ih
        with torch.no_grad():
            for weight, part in zip(weights, rows, strict=True):
                weight.unflatten(0, (4, d_model))[:, 0] = part
            cell.bias_hh.zero_()
            hidden, said = None, []
            for x_t in x:
                hidden = cell(x_t, hidden)
                said.append(hidden[0][0])
        h = torch.stack(said)  # (300, D)
        follows = torch.corrcoef(torch.stack([h[1:, 0], h[:-1, source]]))[0, 1].item()
        if not follows > 0.95:
            return (
                f"in a random cell h of the unit and h of its source one byte earlier have a correlation of "
                f"{follows:.2f}, and more than 0.95 is wanted"
            )
    return None


@exercise(
    _one_unit,
    fault=_is_late,
    mistakes={
        "the forget gate is open": (
            _delay_with(forget=OPEN),
            "Then c adds up all that its source has said so far. To hold the last value only, c must drop the old one.",
        ),
        "from the input": (
            _delay_with(from_input=True),
            "w_x brings in the byte that is read now. What a unit said one byte ago comes in through w_h.",
        ),
        "into the output gate": (
            _delay_with(row=3),
            "The rows are i, f, g, o: the candidate g, which becomes c, is the third.",
        ),
        "the old weights are still there": (
            _delay_with(fresh=False),
            "The other weights still mix in all other units and the input: set them to 0 first.",
        ),
    },
)
def delay(w_x: Tensor, w_h: Tensor, bias: Tensor, source: int) -> tuple[Tensor, Tensor, Tensor]:
    """One unit's weights w_x, w_h (4, D) and bias (4,), rows i, f, g, o -> those with which its h repeats the
    source's h one byte late"""
    return _delay(w_x, w_h, bias, source)


def _overparam(vector, weight, bias, first="c", squash=torch.sigmoid):
    one, other = (weight @ squash(vector) + bias).chunk(2)
    c, f = (one, other) if first == "c" else (other, one)
    return torch.sigmoid(f) * torch.tanh(c)


def _vectors(generator):
    for d_model in (3, 5):
        yield (
            _random(generator, d_model), _random(generator, 2 * d_model, d_model), _random(generator, 2 * d_model),
        )  # fmt: skip


@exercise(
    _vectors,
    mistakes={
        "c and f swapped": (
            lambda vector, weight, bias: _overparam(vector, weight, bias, first="f"),
            "The first D numbers are c, which goes through tanh; the last D are f, the gate.",
        ),
        "the bare vector goes in": (
            lambda vector, weight, bias: _overparam(vector, weight, bias, squash=lambda vector: vector),
            "The matrix sees sigmoid(v_s), not v_s.",
        ),
    },
)
def overparam(vector: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """vector (D,), weight (2D, D), bias (2D,) -> (D,)"""
    return _overparam(vector, weight, bias)


def _matrices(generator):
    for d_model in (3, 5):
        yield _random(generator, d_model, d_model), _random(generator, d_model, d_model)


@exercise(
    _matrices,
    mistakes={
        "the transposed matrix": (
            lambda w_query, w_key: w_query.T @ w_key,
            "The score is (h W_q^T)(c W_k^T)^T. Write it as h times something times c^T: that something is W^T, not W.",
        ),
        "no transposition": (
            lambda w_query, w_key: w_key @ w_query,
            "The score is h W_q^T W_k c^T, so W^T is W_q^T W_k. To transpose a product, transpose both and swap them.",
        ),
        "the other order": (
            lambda w_query, w_key: w_query @ w_key,
            "W_q is applied to h first, so it is the last factor of W, on the right.",
        ),
    },
)
def absorb(w_query: Tensor, w_key: Tensor) -> Tensor:
    """Two matrices (D, D) -> the one (D, D) with which bare keys give the same scores"""
    return w_key.T @ w_query


@exercise(
    lambda generator: ((3, 7, 5), (11, 13, 2)),
    mistakes={
        "keys and values through matrices": (
            lambda bptt, n_keys, d_model: 2 * bptt * d_model**2 + 4 * n_keys * d_model**2 + 4 * bptt * n_keys * d_model,
            "That head computes keys and values with two matrices. Here the rows of the context serve as both.",
        ),
        "multiply-adds": (
            lambda bptt, n_keys, d_model: bptt * d_model**2 + 2 * bptt * n_keys * d_model,
            "A multiplication and an addition are two operations.",
        ),
        "only the scores": (
            lambda bptt, n_keys, d_model: 2 * bptt * d_model**2 + 2 * bptt * n_keys * d_model,
            "One product is missing: the weights (T, K) are then multiplied with the context (K, D).",
        ),
    },
)
def flops(bptt: int, n_keys: int, d_model: int) -> int:
    """Operations of one window's matrix products, counted without the mask"""
    return 2 * bptt * d_model**2 + 4 * bptt * n_keys * d_model
