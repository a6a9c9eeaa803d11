"""The plain path: the equations line by line, as the original code computes them. It is for reading, and it is
what the fast path is compared with: equal results without dropout, and the yardstick of `make bench`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from shalab.attention import attention_mask, split_heads
from shalab.boom import gelu
from shalab.model import SHARNN, State, last

# T window, B streams, D width, N heads, V vocabulary, M bytes in memory, K = M + T


class PlainSHARNN(SHARNN):
    """SHARNN with the same parameters and another forward pass.

    float32, PyTorch's LSTM, one random number per element of every dropout, softmax over explicit (B N, T, K)
    weights, gates on keys and values, gradients through the whole context.
    """

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (T, B) int64 -> logits (T, B, V), state"""
        if state is None:
            state = State((None,) * len(self.blocks), (None,) * len(self.blocks))
        pairs, memories = [], []
        h = F.dropout(self.embedding(x), self.config.dropout_input, self.training)  # (T, B, D)
        for block, hidden, memory in zip(self.blocks, *state, strict=True):
            p = block.dropout
            x, hidden = block.lstm(block.norm_start(h), hidden)  # (T, B, D)
            h = F.dropout(x, p, self.training)
            if block.attention is not None:
                m, h = block.norm_memory(h), block.norm_mid(h)  # (T, B, D) each
                context = m if memory is None else torch.cat([last(memory, self.max_context - len(h)), m])  # (K, B, D)
                memory = last(context, self.max_context).detach()  # (M, B, D)
                h = h + F.dropout(self._attend(block.attention, h, context), p, self.training)
            h, x = block.norm_ff(h), block.norm_boom(h)  # (T, B, D) each
            x = F.dropout(gelu(block.boom.widen(x)), p, self.training)  # (T, B, H)
            x = x.unflatten(-1, (-1, h.shape[-1])).sum(-2)  # (T, B, D)
            h = h + F.dropout(x, p, self.training)
            pairs.append(tuple(part.detach() for part in hidden))
            memories.append(memory)
        logits = self.decoder(F.dropout(h, self.config.dropout, self.training))  # (T, B, V)
        return logits, State(tuple(pairs), tuple(memories))

    def _attend(self, head, h: Tensor, context: Tensor) -> Tensor:
        """h (T, B, D), context (K, B, D) -> (T, B, D)"""
        q = torch.sigmoid(head.query_gate) * head.norm_query(head.query(h))  # (T, B, D)
        k = torch.sigmoid(head.key_gate) * context  # (K, B, D)
        v = head.value_gate() * context  # (K, B, D)
        q, v = F.dropout(q, head.dropout, self.training), F.dropout(v, head.dropout, self.training)
        q, k, v = (split_heads(x, head.n_heads).transpose(0, 1) for x in (q, k, v))  # (B N, T or K, D / N)
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B N, T, K)
        weights = scores.masked_fill(~attention_mask(*scores.shape[1:]), -math.inf).softmax(-1)
        read = F.dropout(weights, head.dropout, self.training) @ v  # (B N, T, D / N)
        return read.transpose(0, 1).reshape(h.shape)


class PlainLamb(Optimizer):
    """Min-trust LAMB, one tensor after the other; equations and arguments as of `shalab.optim.Lamb`."""

    def __init__(self, params, lr=2e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=1.2e-6, min_trust=0.25):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, min_trust=min_trust))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for w in group["params"]:
                state, g = self.state[w], w.grad
                if not state:
                    state["m"], state["v"] = torch.zeros_like(w), torch.zeros_like(w)
                state["m"].mul_(beta1).add_(g, alpha=1 - beta1)
                state["v"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
                update = state["m"] / (state["v"].sqrt() + group["eps"])
                update.add_(w, alpha=group["weight_decay"])
                w_norm, u_norm = w.norm().clamp(max=10), update.norm()
                ratio = 1.0 if w_norm == 0 or u_norm == 0 else (w_norm / u_norm).item()
                w.add_(update, alpha=-group["lr"] * max(ratio, group["min_trust"]))
