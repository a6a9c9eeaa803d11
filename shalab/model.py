"""SHA-RNN: LSTM blocks, one attention head, Boom (Merity 2019, arXiv 1911.11423).

Where the paper and the code published with it differ, the code produced the published numbers and is
followed here; its parameters that take part in no computation are left out.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shalab.attention import AttentionHead, OverparameterisedVector
from shalab.boom import Boom
from shalab.dropout import dropout
from shalab.errors import ABOVE_0, COUNT, FLAG, FRACTION, NATURAL, InputError, refuse, whole, wrong_fields
from shalab.induction import start_copying
from shalab.lstm import recurrent

# T window, B streams, D width, V vocabulary, M bytes in memory, K = M + T


@dataclass(frozen=True)
class ModelConfig:
    """The paper's model by default.

    vocab_size        V, number of different ids; 256 makes every byte encodable
    d_model           D, width of the embedding, the LSTMs and the head
    d_boom            H, Boom's inner width, a multiple of D
    n_layers          L, number of blocks
    n_heads           heads that each attention layer is split into; divides D
    attention_layers  blocks that have attention, counted from 0; empty for none
    max_context       most bytes that attention sees, memory and window together; a window longer than
                      this still sees all of itself
    dropout           probability before the decoder
    dropout_input     probability after the embedding
    dropout_hidden    probability everywhere inside the blocks
    init_scale        linear and embedding weights are drawn with a standard deviation of init_scale / sqrt(D)
    induction         the head starts as a copier, as shalab/induction.py sets it
    collapsed         the heads' value vectors are stored without the matrix that trained them
    """

    vocab_size: int = 256
    d_model: int = 1024
    d_boom: int = 4096
    n_layers: int = 4
    n_heads: int = 1
    attention_layers: tuple[int, ...] = (2,)
    max_context: int = 5000
    dropout: float = 0.1
    dropout_input: float = 0.1
    dropout_hidden: float = 0.1
    init_scale: float = 0.1
    induction: bool = False
    collapsed: bool = False

    def __post_init__(self):
        layers = self.attention_layers
        faults = [
            *wrong_fields(COUNT, self, "vocab_size d_model d_boom n_layers n_heads"),
            *wrong_fields(NATURAL, self, "max_context"),
            *wrong_fields(FRACTION, self, "dropout dropout_input dropout_hidden"),
            *wrong_fields(ABOVE_0, self, "init_scale"),
            *wrong_fields(FLAG, self, "induction collapsed"),
        ]
        if not isinstance(layers, list | tuple) or not all(map(whole, layers)) or len(set(layers)) < len(layers):
            faults.append(f"attention_layers must be a sequence of different block numbers, got {layers!r}")
        if not faults:
            object.__setattr__(self, "attention_layers", tuple(layers))
            if self.d_boom % self.d_model:
                faults.append(f"d_boom must be a multiple of d_model {self.d_model}, got {self.d_boom}")
            if self.d_model % self.n_heads:
                faults.append(f"n_heads must divide d_model {self.d_model}, got {self.n_heads}")
            if self.induction and (len(self.attention_layers) != 1 or self.d_model < 4):
                faults.append(
                    "induction needs attention in one block and a d_model of at least 4, "
                    f"got blocks {self.attention_layers} and {self.d_model}"
                )
            if strays := [layer for layer in self.attention_layers if layer not in range(self.n_layers)]:
                faults.append(f"attention_layers must be blocks from 0 to {self.n_layers - 1}, got {strays}")
        refuse(faults)


class State(NamedTuple):
    """What a model carries from window to window, per block, detached from the gradient.

    hidden[l]  the LSTM's (h, c), (1, B, D) each; None at the beginning of a text
    memory[l]  (M, B, D) with M at most max_context; None for a block without attention, or at the beginning of a text
    """

    hidden: tuple[tuple[Tensor, Tensor] | None, ...]
    memory: tuple[Tensor | None, ...]


class Block(nn.Module):
    """LSTM, attention if the block has it, Boom."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        d_model = config.d_model
        self.dropout = config.dropout_hidden
        self.norm_start = nn.LayerNorm(d_model, eps=1e-12)
        self.lstm = nn.LSTM(d_model, d_model)
        self.attention = None
        if layer in config.attention_layers:
            self.norm_mid = nn.LayerNorm(d_model, eps=1e-12)
            self.norm_memory = nn.LayerNorm(d_model, eps=1e-12)
            self.attention = AttentionHead(d_model, config.n_heads, self.dropout, config.collapsed)
        self.norm_ff = nn.LayerNorm(d_model, eps=1e-12)
        self.norm_boom = nn.LayerNorm(d_model, eps=1e-12)
        self.boom = Boom(d_model, config.d_boom, self.dropout)

    def forward(self, h, hidden, memory, max_context, drop, need_weights):
        """h (T, B, D) -> h (T, B, D), hidden, memory, weights (B, N, T, K) or None"""
        x, hidden = recurrent(self.lstm, self.norm_start(h), hidden)  # (T, B, D)
        h = drop(x, self.dropout)  # no residual around the LSTM
        weights = None
        if self.attention is not None:
            window, h = self.norm_memory(h), self.norm_mid(h)  # (T, B, D) each
            read, memory, weights = self.attention(h, window, memory, max_context, drop, need_weights)
            h = h + drop(read, self.dropout)
        h, x = self.norm_ff(h), self.norm_boom(h)  # the residual starts from the normalised h
        h = h + drop(self.boom(x, drop), self.dropout)
        return h, hidden, memory, weights


class SHARNN(nn.Module):
    """Bytes in, next bytes' logits and the state out.

    >>> model = SHARNN(ModelConfig(d_model=12, d_boom=48, max_context=100))
    >>> logits, state = model(torch.zeros(7, 3, dtype=torch.long))
    >>> logits, state = model(torch.zeros(5, 3, dtype=torch.long), state)
    >>> logits.shape, state.memory[2].shape
    (torch.Size([5, 3, 256]), torch.Size([12, 3, 12]))

    max_context: an attribute, taken from the configuration; it may be raised after training, since
    nothing depends on positions.
    checkpoint_blocks: an attribute; True stores only the blocks' inputs for the backward pass and computes the rest
    again there, with the same dropout.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.max_context = config.max_context
        self.checkpoint_blocks = False
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [Block(config, layer) for layer in range(config.n_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.decoder = nn.Linear(config.d_model, config.vocab_size)
        self.decoder.weight = self.embedding.weight
        self.apply(self._init)
        if config.induction and not config.collapsed:  # a collapsed model has been trained
            start_copying(blocks)

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.init_scale / self.config.d_model**0.5)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, state: State | None = None, need_weights: bool = False):
        """x (T, B) int64 -> logits (T, B, V), state; with need_weights also {block: (B, N, T, K)}.

        state None is the beginning of a text: zero hidden state, empty memory.
        """
        if x.ndim != 2 or x.dtype != torch.long:
            raise InputError(f"x must be int64 of shape (T, B), got {x.dtype} of shape {tuple(x.shape)}")
        if state is None:
            state = State((None,) * len(self.blocks), (None,) * len(self.blocks))
        elif state.hidden[0] is not None and (n_streams := state.hidden[0][0].shape[1]) != x.shape[1]:
            raise InputError(f"state is of {n_streams} streams, x of {x.shape[1]}")
        hidden, memory, weights = [], [], {}
        drop = dropout(self.training)
        recompute = self.checkpoint_blocks and torch.is_grad_enabled()
        if recompute:
            drop.prepare_recomputation()
        h = drop(self.embedding(x), self.config.dropout_input)  # (T, B, D)
        for layer, block in enumerate(self.blocks):
            inputs = h, state.hidden[layer], state.memory[layer], self.max_context, drop, need_weights
            outputs = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
            h, new_hidden, new_memory, block_weights = outputs
            hidden.append(tuple(part.detach() for part in new_hidden))
            memory.append(new_memory)
            if block_weights is not None:
                weights[layer] = block_weights
        logits = self.decoder(drop(h, self.config.dropout))  # (T, B, V)
        state = State(tuple(hidden), tuple(memory))
        return (logits, state, weights) if need_weights else (logits, state)

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def collapse(self) -> "SHARNN":
        """Stores each head's value vector without its training matrix, in place; returns self.

        The outputs stay the same; each block with attention loses 2D^2 + 2D parameters.
        """
        for module in self.modules():
            if isinstance(module, OverparameterisedVector) and not self.config.collapsed:
                module.collapse()
        self.config = replace(self.config, collapsed=True)
        return self
