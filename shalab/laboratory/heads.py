"""What a head does, asked in three ways: where it looks, what the model loses with it, and on which bytes.

The text is read in `n_streams` equal pieces side by side, each after the bytes before it, so that the memory is full.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shalab.device import Precision, to_host
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, State

# S streams, T window, K = memory and window

READINGS = ("as it is", "head silent", "another text's memory")
KINDS = ("seen before, goes on the same way", "seen before, goes on otherwise", "not seen before")


@torch.no_grad()
def study(
    model: SHARNN, data: np.ndarray, begin: int, end: int, precision: Precision, n_streams: int = 25, window: int = 64
) -> dict:
    """Of the one head of a model, on data[begin:end]; what is left over after equal pieces is not read.

    weight, lift  the places' share of all weight, and how many times the plain average's that is, by kind of place
    age           of ages from 2 on the one with the most weight, with its share and its lift
    effective     2 to the entropy of the weights, the median over bytes: at how many places it looks
    bits          bits per byte in each of READINGS
    kinds         the share of the bytes that is of each kind, and their bits in each reading. A byte is "seen before"
                  if the three bytes that end right before it stand elsewhere in view; how they go on at the latest such
                  place decides whether it is the same way
    """
    context, piece = model.max_context, (end - begin) // n_streams
    starts = [begin + piece * s for s in range(n_streams)]
    rows = [data[start - context - 1 : start + piece] for start in starts]  # a byte is predicted from the one before
    text = torch.from_numpy(np.stack(rows).astype(np.int64))  # (S, context + piece + 1)
    silent = copy.deepcopy(model).collapse()
    for block in silent.blocks:
        if block.attention is not None:
            block.attention.value_gate.vector.zero_()

    count = _Count(text)
    bits = []
    for reader, foreign in ((model, False), (silent, False), (model, True)):
        parts = []
        for low, nats, weights in _read(reader, text, precision, window, foreign):
            if low >= context:
                parts.append(nats / NATS_PER_BIT)
                if not bits:
                    count.add(low, weights)
        bits.append(torch.cat(parts))  # (piece, S)
    kinds = torch.cat(count.kinds)
    return {
        **count.result(),
        "bits": {name: round(of.mean().item(), 4) for name, of in zip(READINGS, bits, strict=True)},
        "kinds": {
            name: {
                "share": round((kinds == kind).double().mean().item(), 4),
                "bits": [round(of[kinds == kind].sum().item() / max(1, int((kinds == kind).sum())), 4) for of in bits],
            }
            for kind, name in enumerate(KINDS)
        },
    }


def _read(
    model: SHARNN, text: Tensor, precision: Precision, window: int, foreign: bool
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Window by window: its begin, the nats of its bytes (T, S), the head's weights (S, T, K).

    foreign: before each window every stream's memory is handed on to the next stream
    """
    was_training, state = model.training, None
    model.eval()
    for low in range(0, text.shape[1] - 1, window):
        ids = precision.place(text[:, low : low + window + 1].T.contiguous())  # (T + 1, S)
        if foreign and state is not None:
            memory = tuple(rows if rows is None else rows.roll(1, 1) for rows in state.memory)
            state = State(state.hidden, memory)
        with precision.autocast():
            logits, state, weights = model(ids[:-1], state, need_weights=True)
        nats = F.cross_entropy(logits.flatten(0, 1).float(), ids[1:].flatten(), reduction="none").double()
        (heads,) = weights.values()
        yield low, to_host(nats.view(ids[1:].shape)), to_host(heads[:, 0].float())
    model.train(was_training)


class _Count:
    """Adds up the weights by kind of place."""

    def __init__(self, text: Tensor):
        self.text = text
        self.weight: dict[str, float] = {}
        self.plain: dict[str, float] = {}
        self.by_age = torch.zeros(2, text.shape[1])  # of the head, of the plain average
        self.effective: list[Tensor] = []
        self.kinds: list[Tensor] = []

    def add(self, low: int, weights: Tensor) -> None:
        n_streams, n_queries, n_keys = weights.shape
        query = torch.arange(low, low + n_queries)
        key = torch.arange(low + n_queries - n_keys, low + n_queries)
        age = query[:, None] - key  # (T, K)
        follows = self.text[:, query + 1]  # (S, T)
        earlier = age > 0

        def same(n_bytes: int, after: int = 0) -> Tensor:
            """(S, T, K): the n_bytes that end `after` before the place are those that end at the query."""
            found = earlier.expand(n_streams, -1, -1)
            for n in range(n_bytes):
                place = key - n - after
                ends = torch.where(place < 0, -1, self.text[:, place.clamp(min=0)])  # (S, K)
                found = found & (self.text[:, query - n][:, :, None] == ends[:, None])
            return found

        after_three = same(3, after=1)
        places = {
            "its own byte": age == 0,
            "the byte before": age == 1,
            "the same byte": same(1),
            "after the same byte": same(1, after=1),
            "after the same three bytes": after_three,
            "holds the byte that comes next": earlier & (self.text[:, key][:, None] == follows[:, :, None]),
        }
        plain = ((age >= 0) / (age >= 0).sum(1, keepdim=True)).expand_as(weights)
        for name, place in places.items():
            for total, of in ((self.weight, weights), (self.plain, plain)):
                total[name] = total.get(name, 0.0) + (of * place).sum().item()
        for total, of in zip(self.by_age, (weights, plain), strict=True):
            total.index_add_(0, age.clamp(min=0).flatten(), of.sum(0).flatten())
        self.effective.append(2 ** -(weights * weights.clamp(min=1e-12).log2()).sum(2).flatten())
        latest = (after_three * torch.arange(1, n_keys + 1)).max(2).values  # (S, T), 0 for none
        copied = self.text[:, key].gather(1, (latest - 1).clamp(min=0))
        self.kinds.append(torch.where(latest == 0, 2, (copied != follows).long()).T)  # index of KINDS, (T, S)

    def result(self) -> dict:
        n = self.by_age[0].sum()
        shares = self.by_age / n
        age = int(shares[0, 2:].argmax()) + 2
        return {
            "weight": {name: round(of / n.item(), 4) for name, of in self.weight.items()},
            "lift": {name: round(of / self.plain[name], 2) for name, of in self.weight.items()},
            "age": {
                "at": age, "weight": round(shares[0, age].item(), 4),
                "lift": round((shares[0, age] / shares[1, age]).item(), 2),
            },
            "effective": round(torch.cat(self.effective).median().item(), 1),
        }  # fmt: skip
