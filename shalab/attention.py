"""The single head: one full matrix, three static gates, and a memory that stores one vector per byte."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab.device import draws_fast
from shalab.dropout import Dropout, times

# T window, B streams, D width, M bytes in memory, K = M + T, N heads

CHUNK = 1 << 24  # 64 MiB of float32
KEPT = 1 << 27  # 512 MiB


class OverparameterisedVector(nn.Module):
    """A learned vector (D,) that is trained through a matrix and stored without it.

    overparam(v) = sigmoid(f) * tanh(c), (c, f) = split(W sigmoid(v) + b), W: (2D, D). It depends on no
    input, so after training it is a constant: `collapse` computes it once and drops W and b.
    """

    def __init__(self, d_model: int, collapsed: bool):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(d_model))
        self.linear = None if collapsed else nn.Linear(d_model, 2 * d_model)

    def forward(self) -> Tensor:
        if self.linear is None:
            return self.vector
        c, f = self.linear(torch.sigmoid(self.vector)).chunk(2)  # (D,), (D,)
        return torch.sigmoid(f) * torch.tanh(c)

    @torch.no_grad()
    def collapse(self) -> None:
        self.vector = nn.Parameter(self())
        self.linear = None


def attention_mask(bptt: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """(T, K) bool, True where query t may look: all of the memory, and the window up to and including t."""
    return torch.ones(bptt, n_keys, dtype=torch.bool, device=device).tril(n_keys - bptt)


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T + mask): q (..., T, D), already scaled, k (..., K, D) -> (..., T, K)"""
    scores = q @ k.mT
    return scores.masked_fill(~attention_mask(*scores.shape[-2:], scores.device), -math.inf).softmax(-1)


class _Read(torch.autograd.Function):
    """softmax(q c^T + mask), dropout, times c with dropout, one stream and at most CHUNK weights at a time.

    The memory is a constant, so the backward pass needs gradients for the window's rows only: four products
    as long as the memory instead of six. At the laptop preset's size one stream's (T, K) weights fit in a cache of
    a megabyte, all streams' do not. With more
    than KEPT weights in all, they are computed again in the backward pass, and memory grows with K instead of T K.
    """

    @staticmethod
    def forward(ctx, q, window, context, drop, dropout):
        """q (T, B, D), window (T, B, D), context (K, B, D) -> (T, B, D)"""
        bptt, n_streams, d_model = q.shape
        n_memory = len(context) - bptt
        chunks = _chunks(bptt, len(context))
        keep = any(ctx.needs_input_grad) and q[:, :, 0].numel() * len(context) <= KEPT
        read = torch.empty_like(q)
        ctx.masks, kept = [], []
        for b in range(n_streams):
            masks = [drop.mask((chunk.stop - chunk.start, len(context)), dropout, q.dtype) for chunk in chunks]
            window_mask = drop.mask((bptt, d_model), dropout, q.dtype)
            values_mask = drop.mask((n_memory, d_model), dropout, q.dtype) + window_mask
            values = times(context[:, b], values_mask)  # (K, D)
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
            values = times(context[:, b], values_mask)  # (K, D)
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
            d_values = torch.cat(dropped).T @ d_read[:, b]  # (T, D), of the window's rows
            d_window[:, b] = torch.addmm(times(d_values, window_mask), torch.cat(d_scored).T, q[:, b])
        return d_q, d_window, None, None, None


def _chunks(bptt: int, n_keys: int) -> list[slice]:
    """The window's rows, in as few parts as have CHUNK weights at most."""
    rows = max(1, CHUNK // n_keys)
    return [slice(begin, min(begin + rows, bptt)) for begin in range(0, bptt, rows)]


def _causal_weights(q: Tensor, context: Tensor, rows: slice, bptt: int) -> Tensor:
    """q (t, D), the window's `rows`, context (K, D) -> (t, K)"""
    scores = q @ context.T
    future = ~attention_mask(bptt, bptt, q.device)[rows]  # (t, T)
    scores[:, -bptt:].masked_fill_(future, -math.inf)
    return scores.softmax(-1).to(q.dtype)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(T, B, D) -> (T, B N, D / N): every head is a stream of its own"""
    return x.unflatten(-1, (n_heads, -1)).flatten(1, 2)


class AttentionHead(nn.Module):
    """Attention over context = memory + window.

    Queries come through the only full matrix; keys and values are the context itself under a static
    gate, so the memory holds neither. Order is the LSTM's business: there are no positions.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, collapsed: bool = False):
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.norm_query = nn.LayerNorm(d_model, eps=1e-12)
        self.query_gate = nn.Parameter(torch.zeros(d_model))
        self.key_gate = nn.Parameter(torch.zeros(d_model))
        self.value_gate = OverparameterisedVector(d_model, collapsed)

    def forward(
        self, h: Tensor, window: Tensor, context: Tensor, drop: Dropout, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """h, window (T, B, D), context (K, B, D) -> what was read (T, B, D); the weights (B, N, T, K) if asked for.

        context is the memory and, as its last T rows, the window once more: those rows get their gradient
        through `window`, context itself gets none.

        A gate multiplies a dimension of q, k or v. What multiplies k may as well multiply q, and what
        multiplies v the result: the gates touch T rows instead of K.
        """
        q = self._query(h, drop)  # (T, B, D)
        q, window, context = (split_heads(x, self.n_heads) for x in (q, window, context))  # (., B N, D / N)
        weights = None
        if need_weights or draws_fast(q):
            context = torch.cat([context[: -len(window)], window.to(context.dtype)]).transpose(0, 1)  # (B N, K, D / N)
        if need_weights:
            weights = attention_weights(q.transpose(0, 1), context)  # (B N, T, K)
            read = (drop(weights, self.dropout) @ drop(context, self.dropout)).transpose(0, 1)  # (T, B N, D / N)
            weights = weights.unflatten(0, (-1, self.n_heads))
        elif draws_fast(q):
            mask = attention_mask(len(q), context.shape[1], q.device)
            p = self.dropout if drop.training else 0.0
            read = F.scaled_dot_product_attention(
                q.transpose(0, 1), context, drop(context, self.dropout), mask, dropout_p=p, scale=1.0
            ).transpose(0, 1)
        else:
            read = _Read.apply(*(x.to(context.dtype) for x in (q, window, context)), drop, self.dropout)
        return self.value_gate() * read.reshape(h.shape), weights

    def read_one(self, h: Tensor, contexts: list[Tensor]) -> Tensor:
        """forward for one byte per stream, without gradient: h (1, B, D), contexts[b] (K_b, D) -> (1, B, D)"""
        reads = []
        for q, context in zip(self._query(h, Dropout(False)).transpose(0, 1), contexts, strict=True):  # (1, D), (K, D)
            heads = q.to(context.dtype).chunk(self.n_heads, -1), context.chunk(self.n_heads, -1)  # (., D / N) each
            for q_head, c in zip(*heads, strict=True):
                weights = (q_head @ c.T).softmax(-1)  # (1, K); of matrices: with a vector it takes longer
                reads.append(weights @ c)  # (1, D / N)
        read = torch.cat(reads, -1).view(h.shape).to(h.dtype)  # a memory keeps the format in which it was written
        return self.value_gate() * read

    def _query(self, h: Tensor, drop: Dropout) -> Tensor:
        """(T, B, D) -> (T, B, D), scaled, and with the keys' gate on it"""
        q = torch.sigmoid(self.query_gate) * self.norm_query(self.query(h))
        return drop(q, self.dropout) * (torch.sigmoid(self.key_gate) / math.sqrt(q.shape[-1] / self.n_heads))
