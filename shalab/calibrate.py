"""How fast this machine trains a preset, from updates of its own model that are cut short, and what the run costs here.

A full update of the paper's preset takes a laptop a minute or more. But an update's time grows evenly with its window:
each time step costs the same, since the memory is full and there are as many streams, and what does not depend on the
window is LAMB's step. So two short windows tell how long any takes. Each is timed with a full memory, the longer one
grown until an update takes ENOUGH_S, and a straight line through both leads to the preset's window. Where that is
short, as the laptop's, it is timed itself.

Checked on one thread of a busy machine with bfloat16 instructions: in 10 s of calibration the line said 39.8 s for the
paper's update, which took 38.0 and 39.9. That was in a process that keeps its freed memory, as `shalab plan` and
`shalab train` do. In one that gives it back, such as a notebook's, long windows pay for that and short ones do not:
there the line said 29.9 s, and it took 49.
"""

import math
import platform
import statistics
import time
from dataclasses import asdict, replace

import numpy as np
import torch

from shalab.batches import Windows
from shalab.corpus import Corpus
from shalab.device import Precision
from shalab.door import TRICKS
from shalab.kept import kept
from shalab.model import SHARNN, State
from shalab.plan import CPU, GPU, Plan, planned, update_cost
from shalab.presets import Preset, TrainConfig
from shalab.train import Trainer

SHORTEST = 4  # bytes per stream of the shorter window
ENOUGH_S = 0.7  # an update as long as this is timed well enough
ROUNDS_S = 0.5  # updates of a window are repeated for so long, and at least twice
MOST_GB = 2.0  # what a calibration may take
QUIET = 0.95  # share of the time in which this thread was computing; 0.87 with two threads on two busy cores


def here(preset: Preset, n_train: int, precision: Precision | None = None) -> Plan:
    """What `preset` costs on this machine: as of `plan`, but its speed is measured.

    Some seconds, once: the speed is kept in the cache folder. Memory is by formula, on a CPU by that for float32; the
    watts are assumed. Where there is too little memory even for shortened updates, speed and time are nan.
    """
    precision = precision or Precision.pick()
    memory = precision.memory_bytes()
    cost = update_cost(preset.model, preset.train, CPU if precision.on_cpu else GPU)
    seconds = seconds_per_update(preset, precision)
    return planned(preset, n_train, str(precision), memory and memory / 1e9, cost, seconds, precision.watts)


def seconds_per_update(preset: Preset, precision: Precision) -> float:
    """Of training with a full memory; kept for the same preset, format, number of threads, PyTorch and machine.

    A processor that did other work meanwhile is measured again the next time.
    """
    key = {
        "model": asdict(preset.model),
        "train": asdict(preset.train),
        "precision": str(precision),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.node(),
        "tricks": [name for name, trick in TRICKS.items() if trick.on],
    }
    line = kept(
        "speed", key, lambda: measure(preset, precision),
        lambda line: not (line and precision.on_cpu) or line["share"] >= QUIET,
    )  # fmt: skip
    return line["fixed"] + line["per_byte"] * preset.train.bptt if line else float("nan")


def measure(preset: Preset, precision: Precision) -> dict[str, float] | None:
    """Seconds of an update = fixed + per_byte x window, and the share of the time in which this thread was computing.

    None where not even one stream fits into MOST_GB and into half of the memory. PyTorch's random state stays.
    """
    room = min(1e9 * MOST_GB, (precision.memory_bytes() or math.inf) / 2)
    train = replace(preset.train, vary_bptt=False, log_every=1, lr=1e-6)  # noise must not make the weights infinite
    costs = CPU if precision.on_cpu else GPU

    def fits(streams: int, bptt: int) -> bool:
        return update_cost(preset.model, replace(train, batch_size=streams, bptt=bptt), costs).peak_bytes <= room

    short, streams = min(SHORTEST, train.bptt), train.batch_size
    while streams and not fits(streams, short):
        streams //= 2
    if not streams:
        return None
    random_state = precision.random_state()
    try:
        timed = _Timed(preset, replace(train, batch_size=streams), precision)
        long = short
        while long < train.bptt and fits(streams, min(2 * long, train.bptt)):
            long = min(2 * long, train.bptt)
            if timed.update(long) >= ENOUGH_S:
                break
        began, computed = time.perf_counter(), time.thread_time()
        short_s, long_s = timed.updates(short), timed.updates(long)
        share = (time.thread_time() - computed) / (time.perf_counter() - began)
    finally:
        precision.set_random_state(random_state)
    per_byte = (long_s - short_s) / (long - short) if long > short else 0.0
    if not 0 < per_byte * long <= long_s:  # so short that what else the machine did counts for more
        per_byte = long_s / long
    fixed = long_s - per_byte * long
    return {"fixed": fixed, "per_byte": per_byte * train.batch_size / streams, "share": share}


class _Timed:
    """A training on noise, whose updates are timed with windows of any length and a full memory."""

    def __init__(self, preset: Preset, train: TrainConfig, precision: Precision):
        n_bytes = train.batch_size * (2 * (train.accumulate + 1) * train.bptt + 100)
        noise = np.random.default_rng(0).integers(0, preset.model.vocab_size, n_bytes, np.uint8)
        self.trainer = Trainer(SHARNN(preset.model), Corpus("noise", noise), train, precision, 10**9)
        model, shape = preset.model, (train.batch_size, preset.model.d_model)
        hidden = precision.place(torch.zeros(1, *shape))
        memory = precision.place(torch.randn(model.max_context, *shape))
        layers = range(model.n_layers)
        memories = tuple(memory if layer in model.attention_layers else None for layer in layers)
        self.trainer.state = State(tuple((hidden, hidden) for _ in layers), memories)

    def update(self, bptt: int) -> float:
        """Seconds of one update."""
        trainer = self.trainer
        trainer.windows = Windows(trainer.windows.streams, bptt, False, 0, trainer.precision.place)
        trainer.windows.cursor = 1  # at 0 an epoch begins, without memory
        began = time.perf_counter()
        trainer.update()
        return time.perf_counter() - began

    def updates(self, bptt: int) -> float:
        """Seconds of an update: the median of some, after one that warms up."""
        seconds = [self.update(bptt)]
        while len(seconds) < 3 or sum(seconds) < ROUNDS_S:
            seconds.append(self.update(bptt))
        return statistics.median(seconds[1:])
