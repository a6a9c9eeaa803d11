"""The laboratory's contestants: the SHA-RNN, and what others would have built in its place.

Each but the GPT differs from the one that it is held against in one thing. All are small, so that a ladder of them
takes an evening at most on a laptop: `Size` says how small.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.optim import Adam

from shalab.attention import AttentionHead, attention_weights, last_rows, split_heads
from shalab.device import Precision
from shalab.laboratory.experiments import without_head
from shalab.laboratory.feedforward import with_feed_forward
from shalab.laboratory.gpt import GPT_RECIPE, GPTTrainer
from shalab.laboratory.recurrences import SRU, MinGRU, QuasiRecurrent, with_recurrence
from shalab.laboratory.search import open_corpus, updates
from shalab.model import SHARNN, ModelConfig
from shalab.optim import Lamb
from shalab.presets import find_preset
from shalab.train import Trainer

# T window, B streams, D width, K = memory and window, N heads


@dataclass(frozen=True)
class Size:
    """What all contestants have in common.

    n_bytes   that a training reads, about: no byte twice, below 900,000
    d_model   D, the width of all but the GPT
    d_gpt     the GPT's: 48 gives it as many parameters as "one head" has at a D of 64
    memory    bytes that attention sees, memory and window together
    """

    n_bytes: int = 300_000
    d_model: int = 64
    d_gpt: int = 48
    memory: int = 256
    batch_size: int = 16
    bptt: int = 64
    warmup_steps: int = 50


FULL = Size()
TOY = Size(n_bytes=8_000, d_model=16, d_gpt=16, memory=64, batch_size=4, bptt=32, warmup_steps=2)


class FullHead(AttentionHead):
    """A head as a Transformer has it, with a matrix for the keys and one for the values instead of the static vectors.

    The memory still holds one row per byte, so that keys and values of all K rows are computed again for each window.
    Both matrices start as half the identity, which is what the vectors start as, about: for the keys exactly.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float):
        super().__init__(d_model, n_heads, dropout)
        del self.key_gate, self.value_gate
        self.key, self.value = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, h, window, memory, max_context, drop, need_weights=False):
        """As of AttentionHead"""
        memory = window[:0].detach() if memory is None else last_rows(memory, max_context - len(window))
        context = torch.cat([memory, window])  # (K, B, D)
        q = torch.sigmoid(self.query_gate) * self.norm_query(self.query(h))  # (T, B, D)
        q, v = drop(q, self.dropout), drop(self.value(context), self.dropout)
        q, k, v = (split_heads(x, self.n_heads).transpose(0, 1) for x in (q, self.key(context), v))
        weights = attention_weights(q / q.shape[-1] ** 0.5, k)  # (B N, T, K)
        read = drop(weights, self.dropout) @ v
        seen = weights.unflatten(0, (-1, self.n_heads)) if need_weights else None
        return read.transpose(0, 1).reshape(h.shape), last_rows(context.detach(), max_context), seen


@torch.no_grad()
def with_full_head(model: SHARNN) -> SHARNN:
    """Puts matrices in the place of every head's key and value vectors, in place, computing what it computed before."""
    for block in model.blocks:
        if (old := block.attention) is not None:
            block.attention = head = FullHead(model.config.d_model, old.n_heads, old.dropout)
            head.load_state_dict(old.state_dict(), strict=False)  # the query's
            head.key.weight.copy_(torch.sigmoid(old.key_gate).diag())
            head.value.weight.copy_(old.value_gate().diag())
            head.key.bias.zero_()
            head.value.bias.zero_()
    return model


# A floor above every trust ratio: all tensors take the same multiple of Adam's direction without bias correction.
_ABOVE_ALL = 2.0**30
UNCORRECTED = "Adam without bias correction"

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "min-trust LAMB": lambda params: Lamb(params, min_trust=0.25),
    "LAMB": lambda params: Lamb(params, min_trust=None),
    "Adam": lambda params: Adam(params),
    UNCORRECTED: lambda params: Lamb(params, eps=1e-8, weight_decay=0.0, min_trust=_ABOVE_ALL),
}


def unchanged(model: SHARNN) -> SHARNN:
    return model


@dataclass(frozen=True)
class Contestant:
    """
    differs    in what, in words
    against    the name of the contestant that it is held against
    rates      learning rates to try on seed 0; none: that of `against`
    model      fields of ModelConfig
    memory     what attention sees, in multiples of Size.max_context
    change     what is done to the fresh model
    optimizer  one of OPTIMIZERS
    """

    differs: str
    against: str = "one head"
    rates: tuple[float, ...] = ()
    model: dict = field(default_factory=dict)
    memory: float = 1.0
    change: Callable[[SHARNN], SHARNN] = unchanged
    optimizer: str = "min-trust LAMB"


REFERENCE, COPIER, GPT = "one head", "a copier", "GPT"
_RATES, _ADAM = (5e-3, 1e-2, 2e-2), (2.5e-3, 5e-3, 1e-2)
_COPIER = {"induction": True}
CONTESTANTS: dict[str, Contestant] = {  # in the order in which they train: a ladder that is cut off has the first ones
    REFERENCE: Contestant("the paper's block and the paper's start", rates=_RATES),
    COPIER: Contestant("the head starts as a copier", rates=_RATES, model=_COPIER),
    "no head": Contestant("attention taken out", rates=_RATES, model={"attention_layers": ()}),
    "minGRU": Contestant(
        "minGRU instead of the LSTM", rates=_RATES, change=lambda model: with_recurrence(model, MinGRU)
    ),
    GPT: Contestant("a Transformer of as many parameters", rates=(1.5e-3, 3e-3, 6e-3)),
    "quasi-recurrent": Contestant(
        "quasi-recurrent layers instead of the LSTM, as SHAQ has them", rates=_RATES,
        change=lambda model: with_recurrence(model, QuasiRecurrent),
    ),
    "feed-forward": Contestant(
        "a second matrix instead of Boom's fold", change=lambda model: with_feed_forward(model, model.config.d_boom)
    ),
    "full matrices": Contestant("matrices for keys and values", change=with_full_head),
    "a copier, head taken out": Contestant(
        "the copier's LSTMs, without its head", COPIER, model=_COPIER, change=without_head
    ),
    "a copier, bare vector": Contestant(
        "no matrix trains the value vector", COPIER, model=_COPIER, change=SHARNN.collapse
    ),
    "SRU": Contestant("SRU instead of the LSTM", rates=_RATES, change=lambda model: with_recurrence(model, SRU)),
    "Adam": Contestant("Adam", rates=_ADAM, optimizer="Adam"),
    "four heads": Contestant("the head split into four", model={"n_heads": 4}),
    "a head in every block": Contestant("two heads, one per block", model={"attention_layers": (0, 1)}),
    "a copier, window only": Contestant("no memory beyond the window", COPIER, model=_COPIER, memory=0),
    "a copier, full matrices": Contestant("matrices for keys and values", COPIER, model=_COPIER, change=with_full_head),
    "a copier, twice the memory": Contestant("twice the memory", COPIER, model=_COPIER, memory=2),
    "LAMB": Contestant("LAMB without the floor", rates=(1e-2, 2e-2, 4e-2), optimizer="LAMB"),
    "a copier, a quarter of the memory": Contestant("a quarter of the memory", COPIER, model=_COPIER, memory=0.25),
    UNCORRECTED: Contestant(UNCORRECTED, rates=_ADAM, optimizer=UNCORRECTED),
}  # fmt: skip


def contestant(
    which: str | Contestant, size: Size, lr: float, seed: int = 0, n_bytes: int | None = None
) -> Trainer | GPTTrainer:
    """Ready to train on about `n_bytes` bytes of enwik6, by default the size's, in float32 on the CPU.

    which: one of CONTESTANTS by its name, or one of your own
    """
    n_bytes, precision = n_bytes or size.n_bytes, Precision.pick("cpu", "float32")
    if which == GPT:
        gpt = replace(GPT_RECIPE, d_model=size.d_gpt, lr=lr, warmup_steps=size.warmup_steps)
        return GPTTrainer(gpt, open_corpus(), round(n_bytes / gpt.batch_size / gpt.window), seed, precision)
    one = CONTESTANTS[which] if isinstance(which, str) else which
    config = ModelConfig(
        d_model=size.d_model, d_boom=4 * size.d_model, max_context=round(one.memory * size.memory),
        dropout=0.0, dropout_input=0.0, dropout_hidden=0.0, init_scale=1.0,
        **{"n_layers": 2, "attention_layers": (0,), **one.model},
    )  # fmt: skip
    recipe = replace(
        find_preset("laptop").train, batch_size=size.batch_size, bptt=size.bptt, warmup_steps=size.warmup_steps,
        lr=lr / (_ABOVE_ALL if one.optimizer == UNCORRECTED else 1), sample_bytes=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = one.change(SHARNN(config))
    trainer = Trainer(model, open_corpus(), recipe, precision, updates(n_bytes, recipe), seed)
    trainer.optimizer = OPTIMIZERS[one.optimizer](list(model.parameters()))  # each update sets its learning rate
    return trainer
