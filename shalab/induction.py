"""A head that copies before it has learned anything: an initialisation of our own, not the paper's.

Text repeats itself: what follows often followed the same bytes before. A head that finds such a place and reads what
came next is an induction head (Olsson et al. 2022, arXiv 2209.11895). Its query says "these bytes were read last" and
must meet a row of the memory that says "before my byte, these were read". Here a row is key and value at once and
passes through no matrix: what it says, the LSTM must have put there. So training starts from it. In the short
runs here training did not reach the score of this start; whether it finds copying later was not measured.

A quarter of the D units each; the last quarter stays as drawn:

    context  as drawn: a trace of the last few bytes
    byte     the byte's own embedding, handed on by every LSTM; the value
    before   what context was one byte ago; the key

The query asks `before` for what `context` is now. After the head the byte units hold nothing but what it has read, and
the decoder, whose weights are the embedding, turns that into the byte that came next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:  # the model imports this module
    from shalab.model import Block

STEEP = 3.0  # of what enters a copy: tanh keeps its sign
SHARP = 4.0  # of the query: one row among a thousand can stand out
OPEN, CLOSED = 2.0, -3.0  # a gate's bias


@torch.no_grad()
def start_copying(blocks: Sequence[Block]) -> None:
    """Sets a model's blocks, of which one has attention, in place; D is at least 4."""
    d_model = blocks[0].lstm.hidden_size
    n_units = d_model // 4
    context, byte, before = (slice(begin, begin + n_units) for begin in (0, d_model - 2 * n_units, d_model - n_units))
    for block in blocks:
        _copy("weight_ih_l0", block.lstm, byte, byte)
    ((block, head),) = ((block, block.attention) for block in blocks if block.attention is not None)
    _copy("weight_hh_l0", block.lstm, context, before)
    block.norm_mid.weight[byte] = block.norm_mid.weight[before] = 0  # the path around the head

    head.query.weight.zero_()
    head.query.weight[before, context] = torch.eye(n_units)
    head.norm_query.weight.fill_(SHARP)
    for gate in (head.query_gate, head.key_gate):
        gate.fill_(-OPEN)
        gate[before] = OPEN
    head.value_gate.get_parameter("linear.bias").unflatten(0, (2, d_model))[:, byte] = OPEN


def _copy(weight: str, lstm: nn.LSTM, source: slice, units: slice) -> None:
    """Makes each of these units of an LSTM about tanh(STEEP x) of one unit of `source`, and keep nothing of its past.

    weight: the name of the matrix that brings `source`
    """
    parts = {name: parameter.unflatten(0, (4, -1)) for name, parameter in lstm.named_parameters()}
    w_x, w_h, w = parts["weight_ih_l0"], parts["weight_hh_l0"], parts[weight]  # (4, D, D)
    b_x, b_h = parts["bias_ih_l0"], parts["bias_hh_l0"]  # (4, D): in, forget, candidate, out
    w_x[:, units] = w_h[:, units] = 0
    w[2, units, source] = STEEP * torch.eye(units.stop - units.start)
    b_x[:, units] = torch.tensor([[OPEN], [CLOSED], [0.0], [OPEN]])
    b_h[:, units] = 0
