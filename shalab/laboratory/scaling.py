"""How cost grows: `python -m shalab.laboratory.scaling`.

The formulas of `shalab.plan` fitted on small models and checked on larger ones, cost against context, several processes
beside one, and a file of a gigabyte. Writes scaling.json and context.png into --out. Everything is measured in
processes of its own, one after the other.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from shalab.device import Precision
from shalab.laboratory.bench import full_state
from shalab.laboratory.search import open_corpus
from shalab.model import SHARNN, ModelConfig
from shalab.plan import CPU, Cost, update_cost
from shalab.presets import PRESETS
from shalab.train import TrainConfig, Trainer


@dataclass(frozen=True)
class Size:
    """A model and its windows; model.max_context - bptt bytes are in memory."""

    model: ModelConfig
    bptt: int
    batch_size: int = 16
    checkpoint_blocks: bool = False

    @property
    def train(self) -> TrainConfig:
        return replace(
            PRESETS["laptop"].train, vary_bptt=False, batch_size=self.batch_size, bptt=self.bptt,
            checkpoint_blocks=self.checkpoint_blocks,
        )  # fmt: skip

    @property
    def cost(self) -> Cost:
        return update_cost(self.model, self.train, CPU)


def _size(width: int, layers: int, context: int, bptt: int, batch_size: int = 16) -> Size:
    return Size(
        ModelConfig(d_model=width, d_boom=4 * width, n_layers=layers, attention_layers=(0,), max_context=context),
        bptt, batch_size,
    )  # fmt: skip


FITTED = (
    _size(192, 2, 256, 64), _size(256, 2, 1024, 64), _size(256, 4, 512, 128), _size(384, 2, 2048, 128),
    _size(512, 2, 512, 64), _size(256, 2, 256, 256), _size(192, 3, 3000, 128), _size(512, 3, 1024, 128),
)  # fmt: skip
HELD_OUT = (
    _size(320, 3, 1500, 128), _size(512, 4, 1024, 256), _size(768, 2, 1024, 128), _size(512, 2, 5000, 128),
    _size(1024, 2, 1024, 128),
)  # fmt: skip


def measure(size: Size, updates: int = 5) -> dict:
    """Median seconds of an update with a full memory, and the peak of the process in GB, in a process of its own."""
    code = f"from shalab.laboratory.scaling import ModelConfig, Size, _measure; _measure({size!r}, {updates})"
    report = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(report.stdout)


def _measure(size: Size, updates: int) -> None:
    import resource  # not on Windows

    trainer = Trainer(SHARNN(size.model), open_corpus(), size.train, Precision.pick("cpu"), 10**6)
    trainer.state = full_state(trainer.model, size.batch_size, size.model.max_context)
    trainer.update()
    seconds = []
    for _ in range(updates):
        began = time.perf_counter()
        trainer.update()
        seconds.append(time.perf_counter() - began)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    print(json.dumps({"seconds": statistics.median(seconds), "peak_gb": peak}))


def fit_and_check(fitted: tuple[Size, ...] = FITTED, held_out: tuple[Size, ...] = HELD_OUT, rounds: int = 3) -> dict:
    """Fits peak = a + b parameter_bytes + c stored_bytes and seconds = d multiply-adds + e traffic on some sizes.

    Returns the coefficients and, for every size, what was measured and predicted; error is relative. The machine's
    speed varies: the sizes take turns, and each counts by its median.
    """
    runs = [[measure(size) for size in (*fitted, *held_out)] for _ in range(rounds)]
    measured = [
        {key: statistics.median(run[key] for run in turns) for key in ("peak_gb", "seconds")}
        for turns in zip(*runs, strict=True)
    ]
    costs = [size.cost for size in (*fitted, *held_out)]
    terms = {
        "peak_gb": [[1.0, cost.parameter_bytes / 1e9, cost.stored_bytes / 1e9] for cost in costs],
        "seconds": [[cost.multiply_adds / 1e9, cost.traffic_bytes / 1e9] for cost in costs],
    }
    rows = [
        {
            "width": size.model.d_model, "blocks": size.model.n_layers, "context": size.model.max_context,
            "batch": f"{size.batch_size} x {size.bptt}", "held_out": size in held_out,
        }
        for size in (*fitted, *held_out)
    ]  # fmt: skip
    coefficients = {}
    for key, x in terms.items():
        x, y = np.array(x), np.array([result[key] for result in measured])
        share = x[: len(fitted)] / y[: len(fitted), None]  # every size's relative error counts alike
        coefficients[key] = nonnegative(share, np.ones(len(fitted))).tolist()
        for row, predicted, found in zip(rows, x @ coefficients[key], y, strict=True):
            row[key], row[f"predicted_{key}"], row[f"error_{key}"] = found, predicted, predicted / found - 1
    return {"coefficients": coefficients, "sizes": rows}


def nonnegative(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The c >= 0 with the least |x c - y|: terms whose coefficient would be negative are left out."""
    c, used = np.zeros(x.shape[1]), list(range(x.shape[1]))
    while used:
        found = np.linalg.lstsq(x[:, used], y, rcond=None)[0]
        if (found >= 0).all():
            c[used] = found
            break
        used.pop(int(found.argmin()))
    return c
