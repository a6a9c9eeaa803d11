"""The blocks' LSTM by the fastest way on each device.

*Gain.* On a CPU, oneDNN computes an LSTM of width 256 in bfloat16 in three quarters of the time of float32 (an AMD EPYC
with bfloat16 instructions). From WIDE on it learns no faster in bfloat16; there a loop over the steps does, with the
weight laid out once per window. One byte at a time the cell is computed alone: oneDNN, and cuDNN in bfloat16, would
rearrange all weights for every byte.
*Conditions.* PyTorch's LSTM of one layer, unwatched; a CPU, or a single byte without gradient.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from shalab.device import on_cpu
from shalab.door import stands_in_for
from shalab.fast.conditions import product_dtype, rehearse, stock
from shalab.lstm import recurrent

# T window, B streams, D width

WIDE = 768  # measured on an AMD EPYC


@stands_in_for(
    recurrent,
    "LSTM in the products' format",
    "1.04 times, laptop's update in bfloat16; more for wide ones",
    "on a CPU, or for one byte; nobody watches the LSTM",
)
def fast_recurrent(lstm: nn.LSTM, x: Tensor, hidden: tuple[Tensor, Tensor] | None):
    one = len(x) == 1 and not torch.is_grad_enabled()
    if not _is_stock_lstm(lstm) or not (one or on_cpu(x)):
        return NotImplemented
    (flat,), dtype = lstm.all_weights, product_dtype(x)
    if dtype == torch.float16:  # a CPU has no LSTM in it
        dtype = flat[0].dtype
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        x = x.to(dtype)
        weights = [weight.to(dtype) for weight in flat]
        if hidden is None:
            hidden = (x.new_zeros(1, *x.shape[1:]),) * 2
        h, c = (part.detach().to(dtype) for part in hidden)  # (1, B, D) each
        if one:
            h, c = torch.lstm_cell(x[0], (h[0], c[0]), *weights)  # (B, D) each
            return h.unsqueeze(0), (h.unsqueeze(0), c.unsqueeze(0))
        if dtype == torch.bfloat16 and lstm.hidden_size >= WIDE and torch.is_grad_enabled():
            y, c = _Loop.apply(x, h, c, *weights)
            return y, (y[-1:].detach().clone(), c)  # a view would keep all steps
        y, h, c = torch.lstm(x, (h, c), weights, True, 1, 0.0, lstm.training, False, False)
        return y, (h, c)


def _is_stock_lstm(lstm: nn.LSTM) -> bool:
    """Whether it is PyTorch's own LSTM, unwatched, of one layer in one direction, with biases."""
    if not stock(lstm, nn.LSTM) or lstm.num_layers > 1 or lstm.bidirectional or lstm.proj_size:
        return False
    return lstm.bias and not lstm.batch_first


def laid_out(weight: Tensor, n_rows: int) -> Callable[[Tensor], Tensor]:
    """x (n_rows, in) -> x @ weight.T (n_rows, out), of one weight (out, in) that many x are multiplied by.

    For every product of few bfloat16 rows PyTorch arranges the weight anew as the processor's instructions want it,
    which takes as long as multiplying. This does so once, by the operators that torch.compile uses, if it has them:
    on an AMD EPYC with two threads an LSTM of width 1024 learned 128 steps of 16 streams in 173 ms instead of 223.
    """
    onednn = torch.ops.mkldnn
    known = weight.dtype == torch.bfloat16 and hasattr(onednn, "_linear_pointwise")
    if not (known and onednn._is_mkldnn_bf16_supported()):
        return lambda x: x @ weight.T
    rehearse(_one_product)
    return _arranged(weight, n_rows)


def _arranged(weight: Tensor, n_rows: int) -> Callable[[Tensor], Tensor]:
    arranged = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, arranged, None, "none", [], "")


def _one_product() -> None:
    one = torch.ones(1, 1, dtype=torch.bfloat16)
    _arranged(one, 1)(one)


class _Loop(torch.autograd.Function):
    """The LSTM step by step, with products in the format of x and everything else in float32.

        i, f, g, o = split(W_x x_t + W_h h_t-1 + b);   i, f, o = sigmoid(i, f, o), g = tanh(g)
        c_t = f c_t-1 + i g;   h_t = o tanh(c_t)

    What does not depend on the step before is one product for all steps: W_x x forward, and backward all
    gradients but those of the gates. That leaves a product of (B, D) and (D, 4D) per step and direction.
    """

    @staticmethod
    def forward(ctx, x, h, c, w_x, w_h, b_x, b_h):
        """x (T, B, D), h, c (1, B, D), w_x, w_h (4D, D), b_x, b_h (4D,) -> h of all steps (T, B, D), the last c"""
        bptt, n_streams, d_model = x.shape
        gates = torch.addmm(b_x + b_h, x.flatten(0, 1), w_x.T).float().unflatten(0, (bptt, n_streams))  # (T, B, 4D)
        by_w_h = laid_out(w_h, n_streams)
        hs = torch.cat([h, torch.empty_like(x)])  # (T + 1, B, D)
        cs = torch.cat([c.float(), torch.empty(x.shape)])
        tanh_c = torch.empty(x.shape)
        for t in range(bptt):
            gates[t] += by_w_h(hs[t])  # (B, 4D)
            i, f, g, o = gates[t].chunk(4, 1)
            gates[t, :, : 2 * d_model].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
            torch.tanh(cs[t + 1], out=tanh_c[t])
            hs[t + 1] = o * tanh_c[t]
        ctx.save_for_backward(x, hs, cs, gates, tanh_c, w_x, w_h)
        c = cs[-1:].to(x.dtype)
        ctx.mark_non_differentiable(c)
        return hs[1:], c

    @staticmethod
    def backward(ctx, d_hs, _):
        x, hs, cs, gates, tanh_c, w_x, w_h = ctx.saved_tensors
        bptt, n_streams, d_model = x.shape
        i, f, g, o = gates.chunk(4, 2)  # (T, B, D) each
        c_by_h = o * (1 - tanh_c.square())  # the local derivatives, (T, B, D) or, of i, f and g, (T, B, 3, D)
        ifg_by_c = torch.stack([g * i * (1 - i), cs[:-1] * f * (1 - f), i * (1 - g.square())], 2)
        o_by_h = tanh_c * o * (1 - o)
        d_gates = torch.empty(bptt, n_streams, 4, d_model, dtype=x.dtype)
        d_h, d_c = torch.zeros(2, n_streams, d_model)
        by_w_h_transposed = laid_out(w_h.T, n_streams)
        for t in reversed(range(bptt)):
            d_h = d_hs[t] + d_h
            d_c = d_c.addcmul(d_h, c_by_h[t])
            torch.mul(ifg_by_c[t], d_c.unsqueeze(1), out=d_gates[t, :, :3])
            torch.mul(o_by_h[t], d_h, out=d_gates[t, :, 3])
            d_c = d_c * f[t]
            d_h = by_w_h_transposed(d_gates[t].flatten(1)).float()
        d_gates = d_gates.view(-1, 4 * d_model)  # (T B, 4D)
        d_x = (d_gates @ w_x).view(x.shape)
        d_b = d_gates.float().sum(0).to(x.dtype)
        d_w_x, d_w_h = (d_gates.T @ inputs.flatten(0, 1) for inputs in (x, hs[:-1]))
        return d_x, None, None, d_w_x, d_w_h, d_b, d_b
