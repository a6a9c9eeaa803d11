"""Generation with weights and memories laid out for one byte after the other.

*Gain.* Appending a byte to a memory costs the same whatever it holds, where concatenation copies all of it for every
byte; the texts' bytes go through the matrices side by side; weights are rounded to the format of products once, and
the matrix that trained the value vectors is left out.
*Conditions.* Nobody watches or replaced a head.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shalab.attention import AttentionHead, OverparameterisedVector, last_rows
from shalab.device import Precision
from shalab.door import stands_in_for
from shalab.dropout import Dropout
from shalab.fast.attention import scaled_query
from shalab.fast.conditions import stock
from shalab.generate import decoder, read_prompt
from shalab.model import SHARNN, State

# B texts, D width, M bytes in memory, N heads, V vocabulary


class RollingMemory:
    """The last `limit` rows (M, D) that one stream wrote, as a view that moves through a longer buffer.

    Appending a row costs the same on average whatever the memory holds, where concatenating would copy all of it for
    every byte. The buffer grows with what was read, up to a quarter more than `limit`. Rows are written in place: a
    memory belongs to one reader and cannot be returned to.
    """

    def __init__(self, rows: Tensor, limit: int):
        self.limit = max(1, limit)
        self._move(last_rows(rows, self.limit))

    def append(self, row: Tensor) -> Tensor:
        """row (D,) -> the memory with it, (M, D), a view"""
        if self.end == len(self.buffer):
            self._move(last_rows(self.buffer, self.limit - 1))
        self.buffer[self.end] = row
        self.end += 1
        return self.buffer[max(0, self.end - self.limit) : self.end]

    def _move(self, rows: Tensor) -> None:
        """To the front of a new buffer with room for a quarter more: about four rows are copied per byte on average."""
        self.buffer = rows.new_empty(len(rows) + max(64, len(rows) // 4), rows.shape[-1])
        self.buffer[: len(rows)] = rows
        self.end = len(rows)


class RollingHead(nn.Module):
    """A head that keeps its memories itself, one per text, and is shown one byte of each at a time."""

    def __init__(self, head: AttentionHead, memories: list[RollingMemory]):
        super().__init__()
        self.head, self.memories = head, memories

    def forward(self, h: Tensor, window: Tensor, memory: None, max_context: int, drop: Dropout, need_weights: bool):
        """h, window (1, B, D) -> (1, B, D), None, None"""
        q = scaled_query(self.head, h, drop).transpose(0, 1)  # (B, 1, D)
        reads = []
        for query, rows, row in zip(q, self.memories, window[0], strict=True):
            context = rows.append(row)  # (M, D)
            parts = query.to(context.dtype).chunk(self.head.n_heads, -1), context.chunk(self.head.n_heads, -1)
            for q_head, c in zip(*parts, strict=True):  # (1, D / N), (M, D / N)
                weights = (q_head @ c.T).softmax(-1)  # (1, M); of matrices: with a vector it takes longer
                reads.append(weights @ c)  # (1, D / N)
        read = torch.cat(reads, -1).view(h.shape).to(h.dtype)  # a memory keeps the format in which it was written
        return self.head.value_gate() * read, None, None


def _beside(hidden: list) -> State:
    """(h, c) per text and block, (1, 1, D) each -> the state of all texts, its memories elsewhere"""
    by_block = zip(*hidden, strict=True)
    pairs = [tuple(torch.cat(parts, 1) for parts in zip(*pairs, strict=True)) for pairs in by_block]
    return State(tuple((h, c) for h, c in pairs), (None,) * len(pairs))


@stands_in_for(
    decoder,
    "rolling memories",
    "1.9 times with a memory of 5,000, laptop's size, one thread of an AMD EPYC",
    "nobody watches or replaced a head",
)
def rolling_decoder(model: SHARNN, prompts: Sequence[bytes], precision: Precision):
    return RollingDecoder(model, prompts, precision) if all(map(_has_stock_head, model.blocks)) else NotImplemented


def weights_dtype(n_texts: int, precision: Precision) -> torch.dtype:
    """The format in which the matrices are read fastest.

    A CPU's bfloat16 products are made for many rows: for one and a matrix of 4096 x 1024, PyTorch's float16 took
    three fifths of their time on an AMD EPYC with bfloat16 instructions; with one of 1024 x 256 they are even.
    """
    alone = n_texts == 1 and precision.on_cpu and (precision.automatic or precision.dtype == torch.bfloat16)
    return torch.float16 if alone else precision.dtype


class RollingDecoder:
    """As `shalab.generate.Decoder`, with all texts in one state."""

    def __init__(self, model: SHARNN, prompts: Sequence[bytes], precision: Precision):
        self.model, self.precision = precision.place(copy.deepcopy(model).eval()).collapse(), precision
        after = [read_prompt(self.model, prompt, precision) for prompt in prompts]
        self.logits, states = torch.stack([logits for logits, _ in after]), [state for _, state in after]
        for layer, block in enumerate(self.model.blocks):
            if block.attention is not None:
                rows = [memory[:, 0] for state in states if (memory := state.memory[layer]) is not None]
                memories = [RollingMemory(x, self.model.max_context) for x in rows]
                block.attention = RollingHead(block.attention, memories)
        self.state = _beside([state.hidden for state in states])
        # Autocast would round the weights once more for every byte.
        self.model.to(weights_dtype(len(prompts), precision))

    def step(self, ids: Tensor) -> Tensor:
        """(B,) -> (B, V)"""
        with self.precision.switches():
            logits, self.state = self.model(self.precision.place(ids).unsqueeze(0), self.state)  # (1, B, V)
        return logits[0]


def _has_stock_head(block: nn.Module) -> bool:
    """Whether nobody watches or replaced what collapsing would take away."""
    head = getattr(block, "attention", None)
    return head is None or (
        stock(head, AttentionHead)
        and stock(head.value_gate, OverparameterisedVector)
        and (head.value_gate.linear is None or stock(head.value_gate.linear, nn.Linear))
    )
