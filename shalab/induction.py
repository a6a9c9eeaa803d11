"""A head that copies before it has learned anything: an initialisation of our own, not the paper's.

Text repeats itself: what follows often followed the same bytes before. A head that finds such a place and reads what
came next is an induction head (Olsson et al. 2022, arXiv 2209.11895). Its query says "these bytes were read last" and
must meet a row of the memory that says "before my byte, these were read". Here a row is key and value at once and no
matrix stands before it: what it says, the LSTM must have put there. Training finds that late or not at all, and has
learned a short text by heart meanwhile. So training starts from it.
"""

import torch
from torch import nn

# D width, K = D / 4 units per group

STEEP = 3.0  # of the candidate in the copy, and of the query: enough for one row among a thousand to stand out
OPEN, CLOSED = 2.0, -3.0  # a gate's bias


@torch.no_grad()
def start_copying(lstm: nn.LSTM, norm: nn.LayerNorm, head: nn.Module) -> None:
    """Sets three quarters of an LSTM's units, and the head that reads its output, in place.

        context  the first quarter: as drawn, a trace of the last few bytes
        byte     the third: the byte just read and little else; the value
        before   the last: what context was one byte ago, about; the key

    The query asks for `before` what `context` is now. `norm` is the LayerNorm of the path around the head: byte and
    before start at zero there, so that what comes in the byte units behind the head is what the head has read.
    """
    d_model = lstm.hidden_size
    n_units = d_model // 4
    context, byte, before = slice(n_units), slice(-2 * n_units, -n_units), slice(d_model - n_units, d_model)
    w_x, w_h = (w.unflatten(0, (4, d_model)) for w in (lstm.weight_ih_l0, lstm.weight_hh_l0))  # (4, D, D)
    b_x, b_h = (b.view(4, d_model) for b in (lstm.bias_ih_l0, lstm.bias_hh_l0))  # in, forget, candidate, out
    for units in (byte, before):
        for gate, bias in ((0, OPEN), (1, CLOSED), (3, OPEN)):
            w_x[gate, units] = w_h[gate, units] = 0
            b_x[gate, units] = bias
        w_h[2, units] = 0
        b_x[2, units] = b_h[:, units] = 0
        norm.weight[units] = 0
    w_x[2, byte] *= 2
    w_x[2, before] = 0
    identity = torch.eye(n_units)
    w_h[2, before, context] = STEEP * identity

    head.query.weight.zero_()
    head.query.weight[before, context] = identity
    head.norm_query.weight.fill_(STEEP)
    for gate in (head.query_gate, head.key_gate):
        gate.fill_(-OPEN)
        gate[before] = OPEN
