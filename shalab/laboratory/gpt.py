"""What most readers would have picked instead: a small GPT, after nanoGPT's recipe for a CPU (Karpathy 2022).

Pre-norm blocks, learned positions, tied embeddings, no biases, AdamW, random windows. The sizes give it as many
parameters as the laptop preset has. Learning rate, window and batch were searched for: `assets/search.jsonl`.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab.corpus import Corpus
from shalab.device import Precision
from shalab.metrics import bits_per_byte
from shalab.optim import adamw
from shalab.schedules import warmup

# T window, B batch, D width, N heads, V vocabulary


@dataclass(frozen=True)
class GPTConfig:
    """
    window        T, bytes that attention sees
    weight_decay  on matrices only
    min_lr        where the cosine ends, as a share of lr
    """

    d_model: int = 192
    n_layers: int = 4
    n_heads: int = 4
    window: int = 64
    batch_size: int = 12
    dropout: float = 0.0
    lr: float = 1e-3
    min_lr: float = 0.1
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0


GPT_RECIPE = GPTConfig(lr=1.5e-3, window=48, batch_size=12)  # within 0.025 of the best trial, a third of its updates


class Layer(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        d_model = config.d_model
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.norm_attention = nn.LayerNorm(d_model, bias=False)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.norm_ff = nn.LayerNorm(d_model, bias=False)
        self.widen = nn.Linear(d_model, 4 * d_model, bias=False)
        self.narrow = nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        p = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm_attention(h)).unflatten(-1, (3, self.n_heads, -1))  # (B, T, 3, N, D / N)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, T, D / N) each
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        h = h + F.dropout(self.out(attended.transpose(1, 2).flatten(2)), p)
        return h + F.dropout(self.narrow(F.gelu(self.widen(self.norm_ff(h)))), p)


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(256, config.d_model)
        self.positions = nn.Embedding(config.window, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.n_layers) if residual else 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) int64 -> logits (B, T, V)"""
        h = self.embedding(x) + self.positions.weight[: x.shape[1]]  # (B, T, D)
        h = F.dropout(h, self.config.dropout, self.training)
        for layer in self.layers:
            h = layer(h)
        return F.linear(self.norm(h), self.embedding.weight)

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


class GPTTrainer:
    """As much of the library's Trainer as a comparison needs: `update` and `evaluate`."""

    def __init__(
        self, config: GPTConfig, corpus: Corpus, total_steps: int, seed: int = 0, precision: Precision | None = None
    ):
        torch.manual_seed(seed)
        self.config, self.corpus, self.total_steps = config, corpus, total_steps
        self.precision = precision or Precision.pick("cpu", "float32")
        self.model = GPT(config)
        self.optimizer = adamw(self.model.parameters(), config.lr, config.weight_decay, config.betas)
        self.draw = np.random.default_rng(seed)
        self.step, self.n_bytes, self.elapsed_s = 0, 0, 0.0

    def update(self) -> float:
        """One step on random windows; returns the loss in nats."""
        began = time.perf_counter()
        self.model.train()
        config, data = self.config, self.corpus.split("train")
        progress = max(0, self.step - config.warmup_steps) / max(1, self.total_steps - config.warmup_steps)
        cosine = config.min_lr + (1 - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1, progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * warmup(self.step, config.warmup_steps) * cosine
        begins = self.draw.integers(len(data) - config.window, size=config.batch_size)
        ids = torch.from_numpy(np.stack([data[i : i + config.window + 1] for i in begins]).astype(np.int64))
        with self.precision.autocast():
            logits = self.model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        self.optimizer.zero_grad()
        with self.precision.switches():
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.step += 1
        self.n_bytes += config.batch_size * config.window
        self.elapsed_s += time.perf_counter() - began
        return loss.item()

    @torch.no_grad()
    def evaluate(self, split: str = "valid", stride: int | None = None) -> float:
        """Bits per byte of a split. Windows overlap by all but `stride` bytes, by default half a window.

        The smaller the stride, the more text each byte has before it, and the longer the evaluation takes.
        """
        self.model.eval()
        window = self.config.window
        stride = stride or window // 2
        begin, end = self.corpus.bounds[split]
        nats = 0.0
        starts = np.arange(begin - window + stride - 1, end - 1, stride)  # of inputs; the last `stride` are charged
        for part in np.array_split(starts, math.ceil(len(starts) / 256)):
            places = part[:, None] + np.arange(window + 1)  # (B, T + 1)
            ids = torch.from_numpy(self.corpus.data[np.minimum(places, len(self.corpus) - 1)].astype(np.int64))
            charged = torch.from_numpy((places[:, 1:] < end) & (np.arange(window) >= window - stride))
            with self.precision.autocast():
                logits = self.model(ids[:, :-1]).float()
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            nats += losses.double()[charged.flatten()].sum().item()
        return bits_per_byte(nats, end - begin)
