"""What a run costs, before it is run: memory, arithmetic, memory traffic and time, from formulas.

T window, B streams, N = T B bytes per window, D width, H Boom width, L blocks, A blocks with a head, K bytes of
context, V vocabulary, P parameters. An update reads `accumulate` windows. Of one window:

*Multiply-adds.* Each weight is used three times per byte: forward, for the gradient of its input, and for its own. In
products an LSTM has 8 D^2 weights, Boom D H, a head's query D^2, and the decoder D V. A head also multiplies T x K
attention weights with the context, twice forward and four times backward. On a CPU the rows of the memory get no
gradient, which leaves 4 K + 2 T of those 6 K products per byte. Products that the mask throws away are computed, so
they count.

*Memory.* Two moments of an update take much, and the larger one counts. Before the backward pass there are the
parameters, each with its weight, LAMB's two moments and the best weights so far, and all that is stored for the
backward pass. In the optimizer's step nothing of that is stored any more; instead there are the parameters' gradients
and what LAMB makes of them. Stored are, in bytes per element as `DeviceCosts` has them:

    N times         L (block D + boom H) + A head D + vocab V
    A B D K times   context: what each head attends to, and the memory that it was made from
    A B T K times   weights: the attention weights. A CPU keeps them if they are no more than KEPT; if they are more, it
                    computes them part by part, and only one part, of one stream, is there at a time

The gradients of one block take as much again as what the block stores. With checkpointed blocks, only the inputs of the
L blocks are stored, and one block in full, with one head at most. For the CPU the bytes were counted in float32, with
PyTorch's hooks on saved tensors; in bfloat16 a CPU stores less and computes differently, and there are no formulas.

*Traffic.* All that is stored is written and read, and so is its gradient: 4 times. A recurrent matrix of 4 D^2 weights
is read again in each of T time steps, forward and backward, because step t + 1 needs h_t. P parameters pass through
LAMB 12 times in float32.

*Time.* 2 multiply-adds / (peak of arithmetic x share) + traffic / (bandwidth x share). On a GPU the shares are an
assumption: what well-tuned kernels usually reach. Two measurements check it. The paper reports half an hour per epoch
on a TITAN V, which the formulas give within 15 %. Of its preset an H100 read 303 kB/s, where they say 316; there an
update took 5.9 GB, where the formula for memory says 6.9. `shalab.laboratory.scaling` fits both formulas to small
models on a CPU, in float32, and checks them on larger ones. This machine's own speed is measured: `shalab.calibrate`.

*Energy.* The card's board power by its vendor, all the time; what is around the card comes on top.
"""

from dataclasses import dataclass, replace

from shalab.errors import ABOVE_0, InputError, refuse, wrong
from shalab.fast.attention import CHUNK, KEPT
from shalab.model import ModelConfig
from shalab.presets import Preset, TrainConfig
from shalab.shapes import n_parameters


@dataclass(frozen=True)
class Card:
    """A GPU by its vendor's figures: memory in GB (1e9 bytes), dense half-precision TFLOP/s, bandwidth in GB/s, and
    the power of the board in watts, None if it is not known."""

    memory_gb: float
    tflops: float
    gb_per_s: float
    watts: float | None = None

    def __post_init__(self):
        refuse(wrong(ABOVE_0, **{name: value for name, value in vars(self).items() if value is not None}))


CARDS = {
    "RTX 4060": Card(8, 30, 272, 115),
    "TITAN V": Card(12, 110, 653, 250),
    "T4": Card(16, 65, 320, 70),
    "RTX 4090": Card(24, 165, 1008, 450),
    "L40S": Card(48, 362, 864, 350),
    "A100": Card(80, 312, 2039, 400),
    "H100": Card(80, 989, 3350, 700),
    "H200": Card(141, 989, 4800, 700),
}
SHARE_OF_TFLOPS, SHARE_OF_BANDWIDTH = 0.5, 0.7


@dataclass(frozen=True)
class DeviceCosts:
    """How many bytes a kind of device takes for what an update holds (see above)."""

    parameter: int  # between updates
    update: int  # in the optimizer's step, more per parameter: its gradient and what LAMB makes of it
    block: int  # this and the next five: per element of what is stored for the backward pass
    boom: int
    head: int
    vocab: int
    context: int
    weights: int
    operand: int  # per element of a matrix product's operand
    process: float  # of a process that holds no model
    memory_gets_gradients: bool  # whether attention computes those of the memory's rows, which are then thrown away


# In float32. oneDNN's LSTM alone keeps 62 bytes per element. LAMB takes all tensors together: their roots and updates.
CPU = DeviceCosts(
    parameter=16, update=12, block=82, boom=4, head=28, vocab=12, context=8, weights=4, operand=4,
    process=0.35e9, memory_gets_gradients=False,
)  # fmt: skip
# In half precision. cuDNN's LSTM keeps 16 bytes per element, and masks take one; LayerNorms and sums are in float32.
GPU = DeviceCosts(
    parameter=18, update=12, block=34, boom=3, head=30, vocab=12, context=11, weights=0, operand=2,
    process=0.6e9, memory_gets_gradients=True,
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one update with a full memory. peak_bytes: the larger of two moments, before backward and in LAMB's step."""

    n_bytes: int
    multiply_adds: int
    traffic_bytes: float
    parameter_bytes: float
    stored_bytes: float
    peak_bytes: float

    def seconds(self, card: Card) -> float:
        arithmetic = 2 * self.multiply_adds / (card.tflops * 1e12 * SHARE_OF_TFLOPS)
        return arithmetic + self.traffic_bytes / (card.gb_per_s * 1e9 * SHARE_OF_BANDWIDTH)


def multiply_adds(model: ModelConfig, bptt: int, n_context: int, device: DeviceCosts = CPU) -> tuple[int, int]:
    """Per byte of a training step: those with the model's weights, and those of attention with the context."""
    d_model, n_heads = model.d_model, len(model.attention_layers)
    n_weights = model.n_layers * (8 * d_model**2 + d_model * model.d_boom) + n_heads * d_model**2
    n_weights += d_model * model.vocab_size
    products = 6 * n_context if device.memory_gets_gradients else 4 * n_context + 2 * bptt
    return 3 * n_weights, n_heads * d_model * products


def update_cost(model: ModelConfig, train: TrainConfig, device: DeviceCosts = GPU) -> Cost:
    """The formulas above, for one update."""
    bptt, streams, d_model = train.bptt, train.batch_size, model.d_model
    n_context = max(model.max_context, bptt)
    n, n_heads = bptt * streams, len(model.attention_layers)
    parameters = n_parameters(model)
    block = n * (device.block * d_model + device.boom * model.d_boom)
    attn_weights = n * n_context if n * n_context <= KEPT else 6 * min(CHUNK, bptt * n_context)
    head = n * device.head * d_model + streams * n_context * device.context * d_model + device.weights * attn_weights
    if train.checkpoint_blocks:
        stored = 4 * n * model.n_layers * d_model + block + min(n_heads, 1) * head
        stored += max(0, n_heads - 1) * streams * n_context * device.operand * d_model
    else:
        stored = model.n_layers * block + n_heads * head
    stored += block  # the gradients of one
    stored += n * device.vocab * model.vocab_size
    recurrent = bptt * model.n_layers * 2 * 4 * d_model**2 * device.operand
    return Cost(
        n_bytes=n * train.accumulate,
        multiply_adds=sum(multiply_adds(model, bptt, n_context, device)) * n * train.accumulate,
        traffic_bytes=(4 * stored + recurrent) * train.accumulate + 12 * 4 * parameters,
        parameter_bytes=device.parameter * parameters,
        stored_bytes=stored,
        peak_bytes=device.process + device.parameter * parameters + max(stored, device.update * parameters),
    )


@dataclass(frozen=True)
class Plan:
    """What training a preset costs on a card, without evaluations: by formulas and the vendor's figures."""

    card: str
    memory_gb: float | None  # of the card; None if it is not known
    peak_gb: float
    tflop_per_update: float
    kb_per_s: float
    hours: float
    n_bytes: float | None  # that a run of minutes reads; None for other runs
    kwh: float | None  # None if the power is not known

    @property
    def fits(self) -> bool:
        return self.memory_gb is None or self.peak_gb <= self.memory_gb


def plan(preset: Preset, n_train: int, cards: dict[str, Card]) -> list[Plan]:
    """What `preset` costs on each card, for a training split of n_train bytes."""
    cost = update_cost(preset.model, preset.train)
    return [
        planned(preset, n_train, name, card.memory_gb, cost, cost.seconds(card), card.watts)
        for name, card in cards.items()
    ]  # fmt: skip


def planned(
    preset: Preset, n_train: int, name: str, memory_gb: float | None, cost: Cost, seconds: float, watts: float | None
) -> Plan:
    """A run's plan from the cost and the seconds of an update."""
    if n_train // preset.train.batch_size < 2:
        raise InputError(f"{n_train} training bytes cannot feed {preset.train.batch_size} streams of at least 2 bytes")
    minutes, steps = preset.budget.minutes, preset.budget.total_steps(n_train, preset.train, seed=0)
    hours = steps * seconds / 3600 if steps is not None else (minutes or 0) / 60
    return Plan(
        card=name,
        memory_gb=memory_gb,
        peak_gb=cost.peak_bytes / 1e9,
        tflop_per_update=2 * cost.multiply_adds / 1e12,
        kb_per_s=cost.n_bytes / seconds / 1e3,
        hours=hours,
        n_bytes=cost.n_bytes * 60 * minutes / seconds if minutes else None,
        kwh=hours * watts / 1e3 if watts else None,
    )


def savings(model: ModelConfig, train: TrainConfig) -> dict[str, float]:
    """What would lower an update's peak on a card: option of `shalab train` -> GB saved, most first."""
    smaller = {
        f"--max-context {model.max_context // 2}": (replace(model, max_context=model.max_context // 2), train),
        "--checkpoint-blocks": (model, replace(train, checkpoint_blocks=True)),
    }
    for name in ("batch_size", "bptt"):
        if half := getattr(train, name) // 2:
            smaller[f"--{name.replace('_', '-')} {half}"] = model, replace(train, **{name: half})
    now = update_cost(model, train).peak_bytes
    saved = {option: (now - update_cost(*changed).peak_bytes) / 1e9 for option, changed in smaller.items()}
    return dict(sorted(saved.items(), key=lambda item: -item[1]))
