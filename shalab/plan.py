"""What a run costs, before it is run: memory, arithmetic, memory traffic and time, from formulas.

T window, B streams, N = T B, D width, H Boom width, L blocks, A blocks with a head, K bytes of context, V vocabulary,
P parameters. An update of `accumulate` windows:

*Multiply-adds.* A weight is used three times per byte: forward, for the gradient of its input and for its own. LSTMs
have 8 D^2 weights in products, Boom D H, a head's query D^2, the decoder D V. A head multiplies T x K weights with the
context twice forward and four times backward; on a CPU the memory's rows get no gradient, so that only 4 K + 2 T of
those 6 K products are left. Masked products count: they are computed.

*Memory.* The larger of two moments. Before the backward pass: P times the weight, LAMB's two moments and the best
weights so far, and all that is stored. In the update: P times these, the gradient, and what LAMB makes of it. Stored
are, N times, what the backward pass needs of each byte: L (block D + boom H) + A head D + vocab V, with bytes per
element as in `Path`: counted for a CPU in float32, with PyTorch's hooks on saved tensors (in bfloat16 a CPU holds less
and computes differently: there are no formulas for it). A B D K times: the context of every head, and the memory before
it. A B T K times: its attention weights, where they are kept: on a CPU, up to KEPT; above, what is at hand of one
stream's. The gradients of one block are as large again as what it stores. With checkpointed blocks only the L blocks'
inputs are stored, and one block in full, with one head at most.

*Traffic.* Everything stored is written, read, and its gradient written and read: 4 times; a recurrent matrix of 4 D^2
is read anew for each of T time steps, forward and backward, because step t + 1 needs h_t; P parameters pass 12 times
through LAMB in float32.

*Time.* 2 multiply-adds / (arithmetic's peak x share) + traffic / (bandwidth x share). On a GPU the shares are
an assumption: what well-tuned kernels usually reach. Two measurements check them: the paper's half hour per epoch on a
TITAN V, and 303 kB/s of its preset on an H100, where they say 316. There the update took 5.9 GB, where the formula for
memory says 6.9. `shalab.laboratory.scaling` fits both formulas on a CPU, in float32, on small models and checks them on
larger ones.
"""

from dataclasses import dataclass, replace

import torch

from shalab.errors import ABOVE_0, InputError, refuse, wrong
from shalab.fast.attention import CHUNK, KEPT
from shalab.model import SHARNN, ModelConfig
from shalab.presets import Preset
from shalab.train import TrainConfig


@dataclass(frozen=True)
class Card:
    """A device by its vendor's figures: memory in GB (1e9 bytes), dense half-precision TFLOP/s, memory GB/s."""

    memory_gb: float
    tflops: float
    gb_per_s: float

    def __post_init__(self):
        refuse(wrong(ABOVE_0, **vars(self)))


CARDS = {
    "RTX 4060": Card(8, 30, 272),
    "TITAN V": Card(12, 110, 653),
    "T4": Card(16, 65, 320),
    "RTX 4090": Card(24, 165, 1008),
    "L40S": Card(48, 362, 864),
    "A100": Card(80, 312, 2039),
    "H100": Card(80, 989, 3350),
    "H200": Card(141, 989, 4800),
}
SHARE_OF_TFLOPS, SHARE_OF_BANDWIDTH = 0.5, 0.7


@dataclass(frozen=True)
class Path:
    """How a kind of device computes: bytes per parameter, and per element of what is stored (see above)."""

    parameter: int  # between updates
    block: int
    boom: int
    head: int
    vocab: int
    context: int
    weights: int
    element: int  # of a matrix product's operand
    base: float  # of a process that holds no model
    all_context_learns: bool  # whether attention computes gradients of rows that have none
    update: int = 12  # per parameter: gradients and what the optimizer makes of them, when all that is stored is gone


# CPU, float32: the LSTM of oneDNN alone keeps 62 bytes per element. LAMB takes all tensors together: root and update.
CPU = Path(16, 82, 4, 28, 12, 8, 4, 4, 0.35e9, False)
# GPU, half precision: cuDNN's LSTM keeps 16 bytes per element, masks one; LayerNorms and sums are in float32.
GPU = Path(18, 34, 3, 30, 12, 11, 0, 2, 0.6e9, True)


@dataclass(frozen=True)
class Cost:
    """Of one update with a full memory; peak_bytes is the larger of two moments, before backward and in the update."""

    n_bytes: int
    multiply_adds: int
    traffic_bytes: float
    parameter_bytes: float
    stored_bytes: float
    peak_bytes: float

    def seconds(self, card: Card) -> float:
        arithmetic = 2 * self.multiply_adds / (card.tflops * 1e12 * SHARE_OF_TFLOPS)
        return arithmetic + self.traffic_bytes / (card.gb_per_s * 1e9 * SHARE_OF_BANDWIDTH)


def multiply_adds(model: ModelConfig, bptt: int, n_context: int, path: Path = CPU) -> tuple[int, int]:
    """Per byte of a training step: those with weights, those of attention."""
    d_model, heads = model.d_model, len(model.attention_layers)
    weights = model.n_layers * (8 * d_model**2 + d_model * model.d_boom) + heads * d_model**2
    weights += d_model * model.vocab_size
    products = 6 * n_context if path.all_context_learns else 4 * n_context + 2 * bptt
    return 3 * weights, heads * d_model * products


def n_parameters(model: ModelConfig) -> int:
    with torch.device("meta"):
        return SHARNN(model).n_parameters


def update_cost(model: ModelConfig, train: TrainConfig, path: Path = GPU) -> Cost:
    """The formulas above, for one update."""
    bptt, streams, d_model = train.bptt, train.batch_size, model.d_model
    n_context = max(model.max_context, bptt)
    n, heads = bptt * streams, len(model.attention_layers)
    parameters = n_parameters(model)
    block = path.block * d_model + path.boom * model.d_boom
    weights = n * n_context if n * n_context <= KEPT else 6 * min(CHUNK, bptt * n_context)
    head = n * path.head * d_model + streams * n_context * path.context * d_model + path.weights * weights
    if train.checkpoint_blocks:
        stored = n * (4 * model.n_layers * d_model + block) + min(heads, 1) * head
        stored += max(0, heads - 1) * streams * n_context * path.element * d_model
    else:
        stored = n * model.n_layers * block + heads * head
    stored += n * block
    stored += n * path.vocab * model.vocab_size
    recurrent = bptt * model.n_layers * 2 * 4 * d_model**2 * path.element
    return Cost(
        n_bytes=n * train.accumulate,
        multiply_adds=sum(multiply_adds(model, bptt, n_context, path)) * n * train.accumulate,
        traffic_bytes=(4 * stored + recurrent) * train.accumulate + 12 * 4 * parameters,
        parameter_bytes=path.parameter * parameters,
        stored_bytes=stored,
        peak_bytes=path.base + path.parameter * parameters + max(stored, path.update * parameters),
    )


@dataclass(frozen=True)
class Plan:
    """A preset on a card, by vendor's figures and formulas: nothing here was measured on it."""

    card: str
    memory_gb: float
    peak_gb: float
    tflop_per_update: float
    kb_per_s: float
    hours: float


def plan(preset: Preset, n_train: int, cards: dict[str, Card]) -> list[Plan]:
    """What `preset` costs on each card, for a training split of n_train bytes."""
    if n_train // preset.train.batch_size < 2:
        raise InputError(f"{n_train} training bytes cannot feed {preset.train.batch_size} streams of at least 2 bytes")
    cost, budget, train = update_cost(preset.model, preset.train), preset.budget, preset.train
    steps = budget.total_steps(n_train, train, seed=0)
    return [
        Plan(
            name, card.memory_gb, cost.peak_bytes / 1e9, 2 * cost.multiply_adds / 1e12, cost.n_bytes / seconds / 1e3,
            hours=budget.minutes / 60 if steps is None else steps * seconds / 3600,
        )
        for name, card in cards.items()
        for seconds in [cost.seconds(card)]
    ]  # fmt: skip


def savings(model: ModelConfig, train: TrainConfig, path: Path = GPU) -> dict[str, float]:
    """GB of an update's peak that each way to make it smaller saves: option of `shalab train` -> GB, most first."""
    smaller = {
        f"--max-context {model.max_context // 2}": (replace(model, max_context=model.max_context // 2), train),
        "--checkpoint-blocks": (model, replace(train, checkpoint_blocks=True)),
    }
    for name in ("batch_size", "bptt"):
        if half := getattr(train, name) // 2:
            smaller[f"--{name.replace('_', '-')} {half}"] = model, replace(train, **{name: half})
    now = update_cost(model, train, path).peak_bytes
    saved = {option: (now - update_cost(*changed, path).peak_bytes) / 1e9 for option, changed in smaller.items()}
    return dict(sorted(saved.items(), key=lambda item: -item[1]))
