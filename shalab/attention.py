"""The single head: a matrix for the queries, three static gates, and a memory that stores one vector per byte."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from shalab.door import door
from shalab.dropout import Dropout

# T window, B streams, D width, M bytes in memory, K = M + T, N heads


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
    """Softmax of q k^T over keys that the mask allows: scaled q (..., T, D / N), k (..., K, D / N) -> (..., T, K)"""
    scores = q @ k.mT
    mask = attention_mask(q.shape[-2], k.shape[-2], scores.device)
    return scores.masked_fill(~mask, -math.inf).softmax(-1)


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(T, B, D) -> (T, B N, D / N): every head is a stream of its own"""
    return x.unflatten(-1, (n_heads, -1)).flatten(1, 2)


Rows = TypeVar("Rows", Tensor, range)


def last_rows(x: Rows, n: int) -> Rows:
    """The last n rows of x, all of them if it has fewer; none for n <= 0, where x[-0:] would be everything."""
    return x[max(0, len(x) - max(0, n)) :]


class AttentionHead(nn.Module):
    """Attention over context = memory + window; what it computes may be split into n_heads.

    Only the queries pass through a matrix. Keys and values are the rows of the context times a static gate, so one
    stored row per byte serves as both. There are no positions: order is the LSTM's business.
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

    @door
    def forward(
        self,
        h: Tensor,
        window: Tensor,
        memory: Tensor | None,
        max_context: int,
        drop: Dropout,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What was read (T, B, D), the memory after it (M, B, D), and, if asked for, the weights (B, N, T, K).

        h, window    (T, B, D): h gives the queries, window the rows that join the memory; query t sees them up to t
        memory       (M, B, D), without gradient; None at the beginning of a text
        max_context  rows of memory and window that attention sees; a longer window still sees all of itself
        """
        # Cut here, so that memory and window together are max_context rows. How long the next window is, nobody knows
        # yet: at the end as many rows are kept as it could see. fast/attention.py cuts as this does.
        memory = window[:0].detach() if memory is None else last_rows(memory, max_context - len(window))
        context = torch.cat([memory, window])  # (K, B, D)
        q = torch.sigmoid(self.query_gate) * self.norm_query(self.query(h))  # (T, B, D)
        k = torch.sigmoid(self.key_gate) * context
        v = self.value_gate() * context
        q, v = drop(q, self.dropout), drop(v, self.dropout)  # a change here needs its twin in fast/attention.py
        q, k, v = (split_heads(x, self.n_heads).transpose(0, 1) for x in (q, k, v))  # (B N, T or K, D / N)
        weights = attention_weights(q / math.sqrt(q.shape[-1]), k)  # (B N, T, K)
        read = drop(weights, self.dropout) @ v  # (B N, T, D / N)
        memory = last_rows(context.detach(), max_context)
        seen = weights.unflatten(0, (-1, self.n_heads)) if need_weights else None
        return read.transpose(0, 1).reshape(h.shape), memory, seen
