"""How cost grows: `python -m shalab.laboratory.scaling`.

Fits the formulas of `shalab.plan` to small models and checks them on larger ones; measures cost against context,
several processes against one, and a file of a gigabyte. Writes a .json file for each, and context.png, into --out.
Every measurement has a process of its own, one after the other; memory is measured on Linux only.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.laboratory.search import open_corpus
from shalab.laboratory.timing import full_state
from shalab.model import SHARNN, ModelConfig
from shalab.parallel import Team
from shalab.plan import CPU, Cost, update_cost
from shalab.presets import PRESETS
from shalab.process import keep_freed_memory
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
    keep_freed_memory()
    trainer = Trainer(SHARNN(size.model), open_corpus(), size.train, Precision.pick("cpu", "float32"), 10**6)
    trainer.update()  # the first window begins an epoch, without memory
    trainer.state = full_state(trainer.model, size.batch_size, size.model.max_context)
    trainer.update()
    seconds = []
    for _ in range(updates):
        began = time.perf_counter()
        trainer.update()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": statistics.median(seconds), "peak_gb": _own_bytes("VmHWM") / 1e9}))


def _own_bytes(field: str) -> int:
    """A line of Linux's /proc/self/status. (getrusage's peak would also count the process that started this one.)"""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(fields[field].split()[0]) * 1024


def fit_and_check(fitted: tuple[Size, ...] = FITTED, held_out: tuple[Size, ...] = HELD_OUT, rounds: int = 3) -> dict:
    """Fits peak = a + b parameter_bytes + c stored_bytes and seconds = d multiply-adds + e traffic on some sizes.

    Returns the coefficients and, for every size, what was measured and predicted; error is relative. The machine's
    speed varies: the sizes take turns, and each counts by its median.
    """
    sizes = [*fitted, *held_out]
    order = sorted(range(len(sizes)), key=lambda n: sizes[n].cost.multiply_adds)  # fitted and held-out ones mixed
    runs = [{n: measure(sizes[n]) for n in order} for _ in range(rounds)]
    measured = [
        {key: statistics.median(run[n][key] for run in runs) for key in ("peak_gb", "seconds")}
        for n in range(len(sizes))
    ]
    costs = [size.cost for size in sizes]
    terms = {
        "peak_gb": [[1.0, cost.parameter_bytes / 1e9, cost.stored_bytes / 1e9] for cost in costs],
        "seconds": [[cost.multiply_adds / 1e9, cost.traffic_bytes / 1e9] for cost in costs],
    }
    rows = [
        {
            "width": size.model.d_model, "blocks": size.model.n_layers, "context": size.model.max_context,
            "batch": f"{size.batch_size} x {size.bptt}", "held_out": size in held_out,
        }
        for size in sizes
    ]  # fmt: skip
    coefficients = {}
    for key, x in terms.items():
        x, y = np.array(x), np.array([result[key] for result in measured])
        relative = x[: len(fitted)] / y[: len(fitted), None]  # so that every size's relative error counts alike
        coefficients[key] = nonnegative(relative, np.ones(len(fitted))).tolist()
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


def cost_of_context(contexts: tuple[int, ...] = (1024, 4096, 16384, 65536)) -> list[dict]:
    """Seconds and peak of an update of a small model (width 128, 16 x 256) against the bytes that it sees.

    From 32,768 on the attention weights of all streams would be more than `attention.KEPT`.
    """
    rows = []
    for n_context in contexts:
        size = _size(128, 2, n_context, 256)
        rows.append({"context": n_context, **measure(size, 1), "plan_gb": size.cost.peak_bytes / 1e9})
        print(rows[-1], flush=True)
    return rows


def picture_of_context(rows: list[dict]):
    """Two log-log panels: seconds and GB against context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_gb"), ("s per update", "GB at most"), strict=True
    ):
        axes.loglog([row["context"] for row in rows], [row[key] for row in rows], "o-", label="measured")
        if key == "peak_gb":
            axes.loglog([row["context"] for row in rows], [row["plan_gb"] for row in rows], "--", label="shalab.plan")
        axes.set_xticks([row["context"] for row in rows], [f"{row['context']:,}" for row in rows])
        axes.set_yticks([row[key] for row in rows], [f"{row[key]:.2g}" for row in rows])
        axes.minorticks_off()
        axes.set_xlabel("bytes that attention sees")
        axes.set_ylabel(label)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def cost_of_processes(rounds: int = 3) -> list[dict]:
    """The laptop preset's bytes per second with two processes of one thread and with one process of two, in turns."""
    ways = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
    speeds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (size, threads) in ways.items():
            speeds[name].append(_together(size, threads))
    first = next(iter(ways))
    return [
        {
            "way": name, "bytes_per_s": statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(found, speeds[first], strict=True)),
        }
        for name, found in speeds.items()
    ]  # fmt: skip


def _together(size: int, threads: int) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from shalab.laboratory.scaling import _speed; _speed()"
    common = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
            env=os.environ | {name: str(value) for name, value in (common | {"RANK": rank}).items()},
        )
        for rank in range(size)
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    for process in processes:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return float(outputs[0])


def _speed(updates: int = 40) -> None:
    keep_freed_memory()
    precision, preset = Precision.pick("cpu", team=Team.join()), PRESETS["laptop"]
    trainer = Trainer(SHARNN(preset.model), open_corpus(), preset.train, precision, 10**6)
    for _ in range(preset.model.max_context // preset.train.bptt + 2):
        trainer.update()
    n_bytes, elapsed_s = trainer.n_bytes, trainer.elapsed_s
    for _ in range(updates):
        trainer.update()
    print((trainer.n_bytes - n_bytes) / (trainer.elapsed_s - elapsed_s))


def cost_of_a_big_file(n_bytes: int = 10**9) -> list[dict]:
    """MB of memory that a process needs to verify and train on enwik6, and on a file of `n_bytes` zeros.

    Pages of the file that the system keeps in memory are not counted: it drops them when it needs room. Linux only.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sparse = Path(folder) / "sparse"
        with sparse.open("wb") as file:
            file.truncate(n_bytes)
        for data in ("enwik6", str(sparse)):
            code = f"from shalab.laboratory.scaling import _resident; _resident({data!r})"
            report = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            rows.append({"file": Path(data).name, **json.loads(report.stdout)})
    return rows


def _resident(data: str, updates: int = 20) -> None:
    keep_freed_memory()
    corpus, preset = load_corpus(data), PRESETS["laptop"]
    len(corpus.sha256)
    trainer = Trainer(SHARNN(preset.model), corpus, preset.train, Precision.pick("cpu", "float32"), 10**6)
    for _ in range(updates):
        trainer.update()
    print(json.dumps({"bytes": len(corpus), "own_mb": _own_bytes("RssAnon") / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder to write into")
    parts = {
        "formulas": fit_and_check,
        "context": cost_of_context,
        "processes": cost_of_processes,
        "file": cost_of_a_big_file,
    }
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(parts)}")
    options.out.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=options.out).close()  # a folder that cannot be written fails now, not after the work
    for name in options.parts:
        found = parts[name]()
        (options.out / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        if name == "context":
            picture_of_context(found).savefig(options.out / "context.png", dpi=120)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
