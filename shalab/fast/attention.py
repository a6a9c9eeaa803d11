"""Attention over a memory that is a constant.

*Gain.* The memory gets no gradient, so that four products as long as it are enough for an update, instead of six; gates
multiply the window's T rows of queries and results instead of the K rows of keys and values; rows in the format of
products take half the memory. The laptop preset's update took 1.7 times as long with PyTorch's own attention on an AMD
EPYC (`assets/bench`), and 1.4 to 1.6 times as long with the plain equations.
*Conditions.* The weights are not asked for; on a CPU, masks are those of `shalab.fast.masks`. On a GPU, PyTorch's fused
attention does the rest.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.attention import AttentionHead, attention_mask, last_rows, split_heads
from shalab.device import on_cpu
from shalab.door import stands_in_for
from shalab.dropout import Dropout
from shalab.fast.conditions import product_dtype, rehearse
from shalab.fast.masks import Masks, times

# T window, B streams, D width, M bytes in memory, K = M + T, N heads

CHUNK = 1 << 24  # 64 MiB of float32
KEPT = 1 << 27  # 512 MiB


@stands_in_for(
    AttentionHead.forward,
    "constant memory",
    "1.4 to 1.6 times, laptop's update",
    "the weights are not asked for; on a CPU, with 'pooled masks'",
)
def attend(
    head: AttentionHead,
    h: Tensor,
    window: Tensor,
    memory: Tensor | None,
    max_context: int,
    drop: Dropout,
    need_weights: bool = False,
):
    if need_weights or (on_cpu(h) and not isinstance(drop, Masks)):
        return NotImplemented
    dtype = product_dtype(window)
    memory = window[:0].detach() if memory is None else last_rows(memory, max_context - len(window))
    context = torch.cat([memory.to(dtype), window.detach().to(dtype)])  # (K, B, D)
    q, rows, keys = (split_heads(x, head.n_heads) for x in (scaled_query(head, h, drop), window, context))
    if on_cpu(h):
        read = _Read.apply(*(x.to(dtype) for x in (q, rows, keys)), drop, head.dropout)  # (T, B N, D / N)
    else:
        # The window's rows once more: these bring them a gradient.
        keys = torch.cat([keys[: -len(rows)], rows.to(dtype)]).transpose(0, 1)  # (B N, K, D / N)
        mask = attention_mask(len(q), keys.shape[1], q.device)
        p = head.dropout if drop.training else 0.0
        read = F.scaled_dot_product_attention(
            q.transpose(0, 1), keys, drop(keys, head.dropout), mask, dropout_p=p, scale=1.0
        ).transpose(0, 1)
    return head.value_gate() * read.reshape(h.shape), last_rows(context, max_context), None


def scaled_query(head: AttentionHead, h: Tensor, drop: Dropout) -> Tensor:
    """As `AttentionHead.forward` makes it, scaled, and with the keys' gate on it: (T, B, D) -> (T, B, D)"""
    q = torch.sigmoid(head.query_gate) * head.norm_query(head.query(h))
    return drop(q, head.dropout) * (torch.sigmoid(head.key_gate) / math.sqrt(q.shape[-1] / head.n_heads))


class _Read(torch.autograd.Function):
    """softmax(q c^T + mask), dropout, times c with dropout, one stream and at most CHUNK weights at a time.

    The memory is a constant, so the backward pass needs gradients for the window's rows only: four products
    as long as the memory instead of six. At the laptop preset's size one stream's (T, K) weights fit in a cache of
    a megabyte, all streams' do not. With more than KEPT weights in all, they are computed again in the backward pass,
    and memory grows with K instead of T K.
    """

    @staticmethod
    def forward(ctx, q, window, context, drop, dropout):
        """q, window (T, B N, D / N), context (K, B N, D / N) -> (T, B N, D / N)

        window: the last rows of context, an argument only to receive their gradient
        """
        rehearse(_softmax_backward)  # what is missing shows here, not in the backward pass
        bptt, n_streams, d_model = q.shape
        n_memory = len(context) - bptt
        chunks = _chunks(bptt, len(context))
        keep = any(ctx.needs_input_grad) and q[:, :, 0].numel() * len(context) <= KEPT
        read = torch.empty_like(q)
        ctx.masks, kept = [], []
        for b in range(n_streams):
            masks = [drop.mask((chunk.stop - chunk.start, len(context)), dropout, q.dtype) for chunk in chunks]
            window_mask = drop.mask((bptt, d_model), dropout, q.dtype)
            values_mask = [*drop.mask((n_memory, d_model), dropout, q.dtype), *window_mask]
            values = times(context[:, b], values_mask)  # (K, D / N)
            for chunk, mask in zip(chunks, masks, strict=True):
                weights = _causal_weights(q[chunk, b], context[:, b], chunk, bptt)  # (t, K)
                read[chunk, b] = times(weights, mask) @ values
                if keep:
                    kept.append(weights)
            ctx.masks.append((masks, values_mask, window_mask))
        ctx.save_for_backward(q, context, *kept)
        return read

    @staticmethod
    def backward(ctx, d_read):
        q, context, *kept = ctx.saved_tensors
        bptt = len(q)
        chunks = _chunks(bptt, len(context))
        d_q, d_window = torch.empty_like(q), torch.empty_like(q)
        for b, (masks, values_mask, window_mask) in enumerate(ctx.masks):
            values = times(context[:, b], values_mask)  # (K, D / N)
            dropped, d_scored = [], []  # the window's columns, (t, T) each
            for n, (chunk, mask) in enumerate(zip(chunks, masks, strict=True)):
                if kept:
                    weights = kept[b * len(chunks) + n]  # (t, K)
                else:
                    weights = _causal_weights(q[chunk, b], context[:, b], chunk, bptt)
                d_weights = times(d_read[chunk, b] @ values.T, mask)  # (t, K)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)  # (t, K)
                d_q[chunk, b] = d_scores @ context[:, b]
                dropped.append(times(weights, mask)[:, -bptt:].clone())  # a view would keep all K columns
                d_scored.append(d_scores[:, -bptt:].clone())
            d_values = torch.cat(dropped).T @ d_read[:, b]  # (T, D / N), of the window's rows
            d_window[:, b] = torch.addmm(times(d_values, window_mask), torch.cat(d_scored).T, q[:, b])
        return d_q, d_window, None, None, None


def _softmax_backward() -> None:
    one = torch.ones(1, 1)
    torch._softmax_backward_data(one, one, -1, one.dtype)


def _chunks(bptt: int, n_keys: int) -> list[slice]:
    """The window's rows, in as few parts as have CHUNK weights at most."""
    rows = max(1, CHUNK // n_keys)
    return [slice(begin, min(begin + rows, bptt)) for begin in range(0, bptt, rows)]


def _causal_weights(q: Tensor, context: Tensor, rows: slice, bptt: int) -> Tensor:
    """q (t, D / N), the window's `rows`, context (K, D / N) -> (t, K)"""
    scores = q @ context.T
    future = ~attention_mask(bptt, bptt, q.device)[rows]  # (t, T)
    scores[:, -bptt:].masked_fill_(future, -math.inf)
    return scores.softmax(-1).to(q.dtype)
