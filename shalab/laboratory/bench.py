"""What the fast path buys, measured in one process with the contestants taking turns: `make bench`.

Writes bench.json, bench.md and bench.png into --out. Machines differ and one machine's speed varies, so read the
ratios: each is the median over rounds of two timings of the same round.
"""

import argparse
import functools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import nbformat
import torch
from torch import nn
from torch.nn import functional as F

from shalab import course
from shalab.device import Precision, bfloat16_pays
from shalab.door import TRICKS, plain
from shalab.evaluate import charges
from shalab.fast.masks import POOL
from shalab.generate import generate
from shalab.laboratory.gpt import GPT_RECIPE, GPTTrainer
from shalab.laboratory.search import open_corpus
from shalab.laboratory.timing import full_state, median_ratio, processor, seconds_in_turns
from shalab.laboratory.widgets import bench_widgets
from shalab.model import SHARNN, ModelConfig
from shalab.optim import Lamb
from shalab.plan import multiply_adds
from shalab.presets import PRESETS
from shalab.process import dismiss_helpers, keep_freed_memory
from shalab.train import EvalEvent, Trainer, steps_by_clock

LAPTOP, PAPER = PRESETS["laptop"], PRESETS["paper"]
WIDTH_256 = ModelConfig(d_model=256, d_boom=1024)


@dataclass(frozen=True)
class Case:
    """One size to train, with dropout 0.1: B streams, T bytes per window, M bytes of memory, all of them there."""

    name: str
    model: ModelConfig
    batch_size: int
    bptt: int
    memory: int

    @property
    def config(self) -> ModelConfig:
        dropout = {"dropout": 0.1, "dropout_input": 0.1, "dropout_hidden": 0.1}
        return replace(self.model, max_context=self.memory + self.bptt, **dropout)


CASES = (
    Case("laptop", LAPTOP.model, LAPTOP.train.batch_size, LAPTOP.train.bptt, 1024),
    Case("width 256, 4 blocks", WIDTH_256, 16, 128, 0),
    Case("width 256, 4 blocks", WIDTH_256, 16, 128, 1000),
    Case("width 256, 4 blocks", WIDTH_256, 16, 128, 5000),
    Case("width 1024, 4 blocks", PAPER.model, 16, 128, 5000),
)


def training_step(model: SHARNN, optimizer, case: Case, dtype: str = "auto") -> Callable[[], None]:
    """A whole update: forward, backward, clip, optimizer; from a full memory each time."""
    precision = Precision.pick("cpu", dtype)
    x = torch.randint(256, (case.bptt + 1, case.batch_size))
    state = full_state(model, case.batch_size, case.memory, precision.dtype)

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast():
            logits, _ = model(x[:-1], state)
        F.cross_entropy(logits.flatten(0, 1).float(), x[1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


def peak_gflops(dtype: torch.dtype, size: int = 2048) -> float:
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    taken = seconds_in_turns({"product": lambda: a @ b}, 15)["product"]
    return 2 * size**3 / statistics.median(taken) / 1e9


def memory_gb_per_s(n_bytes: int = 1 << 30) -> float:
    """GB/s of a pass over more memory than any cache holds."""
    x = torch.ones(n_bytes // 4)
    return n_bytes / statistics.median(seconds_in_turns({"sum": x.sum}, 7)["sum"]) / 1e9


def machine() -> dict:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "float32_gflops": peak_gflops(torch.float32),
        "bfloat16_gflops": peak_gflops(torch.bfloat16) if bfloat16_pays() else "",
        "read_gb_per_s": memory_gb_per_s(),
    }


def bench_training(peaks: dict, rounds: int = 15) -> list[dict]:
    """Training bytes per second with all tricks and with none, same weights, same windows, dropout 0.1.

    cost_by_memory: the fast path's time beside its own with a memory of 1,000 where that is a case too.
    """
    paths = {"fast": "auto", "plain": "float32"}
    steps = {}
    for case in CASES:
        for path, dtype in paths.items():
            torch.manual_seed(0)
            model = SHARNN(case.config).train()
            step = training_step(model, Lamb(model.parameters()), case, dtype)
            steps[case, path] = plainly(step) if path == "plain" else step
    taken = seconds_in_turns(steps, rounds)
    rows = []
    for case in CASES:
        n_bytes = case.batch_size * case.bptt
        fast, slow = (statistics.median(taken[case, path]) for path in paths)
        gflops = 2 * sum(multiply_adds(case.config, case.bptt, case.memory + case.bptt)) * n_bytes / fast / 1e9
        smaller = taken.get((replace(case, memory=1000), "fast"))
        rows.append(
            {
                "size": case.name, "batch": f"{case.batch_size} x {case.bptt}", "memory": case.memory,
                "products": Precision.pick("cpu").dtype_name,
                "fast_bytes_per_s": n_bytes / fast, "plain_bytes_per_s": n_bytes / slow,
                "ratio": median_ratio(taken[case, "plain"], taken[case, "fast"]),
                "cost_by_memory": median_ratio(taken[case, "fast"], smaller) if smaller else "", "gflops": gflops,
                "share_of_float32_peak": gflops / peaks["float32_gflops"],
                "share_of_bfloat16_peak": gflops / peak if (peak := peaks["bfloat16_gflops"]) else "",
            }
        )  # fmt: skip
    return rows


def bench_tricks(rounds: int = 15) -> list[dict]:
    """The laptop's training step with one of its tricks taken away at a time."""
    torch.manual_seed(0)
    case = CASES[0]
    model = SHARNN(case.config).train()
    step = training_step(model, Lamb(model.parameters()), case)

    def in_thread():
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    steps = {
        "all tricks": step,
        **{f"without {name}": plainly(step, name) for name in TRICKS if name not in ELSEWHERE},
        "float32 only": training_step(model, Lamb(model.parameters()), case, "float32"),
        "none": plainly(training_step(model, Lamb(model.parameters()), case, "float32")),
    }
    taken = seconds_in_turns(steps, rounds)
    rows = [_trick(name, slow, taken["all tricks"]) for name, slow in taken.items()]
    if sys.platform == "linux":
        pairs = [[_in_fresh_process(f"_laptop_steps({keep})") for keep in (False, True)] for _ in range(rounds // 3)]
        rows.append(_trick("memory given back to Linux", *zip(*pairs, strict=True)))
        threads = {
            "in the same thread": step,
            "in a second thread": lambda: (dismiss_helpers(), in_thread()),
            "in a second thread, the first one's helpers kept": lambda: (torch.ones(POOL).exp(), in_thread()),
        }
        taken = seconds_in_turns(threads, rounds)
        rows += [_trick(name, slow, taken["in the same thread"]) for name, slow in taken.items()]
    return rows


ELSEWHERE = ("rolling memories", "one pass of silu, feed-forward")  # not in an update of this model


def plainly(act: Callable[[], None], *names: str) -> Callable[[], None]:
    """act, with the tricks of these names off; with all of them off if none is named."""

    def run():
        with plain(*names):
            act()

    return run


def _trick(name: str, slow: Sequence[float], fast: Sequence[float]) -> dict:
    return {"step": name, "milliseconds": 1e3 * statistics.median(slow), "times_as_long": median_ratio(slow, fast)}


def _laptop_steps(keep: bool) -> float:
    """Seconds of a step, in a process of its own: what malloc has once been told cannot be taken back."""
    if keep:
        keep_freed_memory()
    model = SHARNN(CASES[0].config).train()
    step = training_step(model, Lamb(model.parameters()), CASES[0])
    return statistics.median(seconds_in_turns({"step": step}, 15)["step"])


def _in_fresh_process(call: str):
    """What a function of this module returns in another process, by JSON; CalledProcessError if it fails."""
    code = f"import json; from shalab.laboratory import bench; print(json.dumps(bench.{call}))"
    return json.loads(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)


def bench_generation(peaks: dict, memory: int = 5000) -> list[dict]:
    """Bytes per second of one stream with a full memory, and how much of the machine's memory bandwidth that is."""
    rows = []
    prompt = bytes(open_corpus().split("train")[: memory + 200])
    for name, preset, n_bytes, rounds in (("laptop", LAPTOP, 200, 9), ("paper", PAPER, 20, 5)):
        torch.manual_seed(0)
        model = SHARNN(replace(preset.model, max_context=memory)).eval()
        precision = Precision.pick("cpu")
        stream = generate(model, prompt, 10**9, precision)

        full = full_state(model, 1, memory)

        def plain_bytes(n=n_bytes, model=model, state=full):
            with torch.no_grad(), plain():
                for _ in range(n):
                    logits, state = model(torch.zeros(1, 1, dtype=torch.long), state)
                    torch.multinomial((logits[0, 0] / 0.8).softmax(-1), 1)

        taken = seconds_in_turns(
            {"fast": lambda n=n_bytes, s=stream: [next(s) for _ in range(n)], "plain": plain_bytes}, rounds
        )
        fast, slow = (n_bytes / statistics.median(taken[path]) for path in ("fast", "plain"))
        numbers_read = SHARNN(replace(model.config, collapsed=True)).n_parameters + 2 * memory * model.config.d_model
        bytes_read = precision.dtype.itemsize * numbers_read
        rows.append(
            {
                "size": name, "memory": memory, "fast_bytes_per_s": fast, "plain_bytes_per_s": slow,
                "ratio": median_ratio(taken["plain"], taken["fast"]), "mb_touched_per_byte": bytes_read / 1e6,
                "share_of_bandwidth": bytes_read * fast / 1e9 / peaks["read_gb_per_s"],
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def bench_evaluation(n_streams: int = 16, window: int = 1024) -> list[dict]:
    """Bytes per second charged in parallel streams and in one, against training at the laptop preset's size."""
    corpus, precision = open_corpus(), Precision.pick("cpu")
    torch.manual_seed(0)
    trainer = Trainer(SHARNN(LAPTOP.model), corpus, LAPTOP.train, precision, 10**6)
    for _ in range(LAPTOP.model.max_context // LAPTOP.train.bptt + 1):
        trainer.update()

    def train(n_updates=60):
        before = trainer.n_bytes
        for _ in range(n_updates):
            trainer.update()
        return trainer.n_bytes - before

    def score(n_streams, n_windows):
        model = SHARNN(LAPTOP.model)
        end = 500_000 + n_windows * window * n_streams
        parts = charges(model, corpus.data, 500_000, end, precision, window, n_streams, context=2048)
        return sum(part.numel() for part in parts)

    jobs = {"train": train, "16 streams": lambda: score(n_streams, 12), "1 stream": lambda: score(1, 20)}
    sizes = {name: job() for name, job in jobs.items()}
    taken = seconds_in_turns(jobs, 5)
    return [
        {
            "reader": name, "bytes_per_s": sizes[name] / statistics.median(taken[name]),
            "times_training": median_ratio(taken["train"], taken[name]) * sizes[name] / sizes["train"],
        }
        for name in jobs
    ]  # fmt: skip


def peak_memory() -> dict:
    """GB that two training steps of the paper's size take at most (memory 5,000, B 16, T 1,024), in its own process."""
    try:
        return _in_fresh_process("_paper_step()")
    except subprocess.CalledProcessError:  # too little memory, most likely: the other parts need far less
        return {"peak_gb": "not measured", "seconds": ""}


def _paper_step() -> dict:
    import resource  # not on Windows

    case = Case("paper", PAPER.model, 16, 1024, 5000 - 1024)
    keep_freed_memory()
    model = SHARNN(case.config).train()
    step = training_step(model, Lamb(model.parameters()), case)
    step()
    began = time.perf_counter()
    step()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return {"peak_gb": peak, "seconds": time.perf_counter() - began}


def bench_learning(budgets: list[float], slice_s: float = 2.0) -> list[dict]:
    """Valid bits per byte after so many minutes of training, each budget a run of its own with its own schedule.

    The models take turns of some seconds, so that a slow minute of the machine hits both.
    """
    corpus, precision, rows = open_corpus(), Precision.pick("cpu"), []
    for minutes in budgets:
        torch.manual_seed(0)
        config = replace(LAPTOP.train, sample_bytes=0, evaluations=1)

        def ours(steps, config=config):
            torch.manual_seed(0)
            return Trainer(SHARNN(LAPTOP.model), corpus, config, precision, steps)

        builds = {"SHA-RNN": ours, "GPT": functools.partial(GPTTrainer, GPT_RECIPE, corpus, precision=precision)}
        runs, budget_s = {name: build(10**4) for name, build in builds.items()}, 60 * minutes
        while any(run.elapsed_s < budget_s for run in runs.values()):
            for run in runs.values():
                until = min(run.elapsed_s + slice_s, budget_s)
                while run.elapsed_s < until:
                    run.update()
                run.total_steps = steps_by_clock(run.step, run.elapsed_s, minutes)
        for name, run in runs.items():
            score = run.evaluate() if name == "SHA-RNN" else run.evaluate(stride=8)
            rows.append(
                {
                    "minutes": minutes, "threads": torch.get_num_threads(), "model": name,
                    "n_parameters": run.model.n_parameters,
                    "valid_bpc": score.valid_bpc if isinstance(score, EvalEvent) else score,
                    "trained_mb": run.n_bytes / 1e6, "trained_minutes": run.elapsed_s / 60,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def bench_notebooks() -> list[dict]:
    """Seconds of every notebook of the course, each in a kernel of its own."""
    rows = []
    for path in course.notebooks():
        notebook = nbformat.read(path, as_version=4)
        began = time.perf_counter()
        course.run_all(notebook, record_timing=True)
        rows.append(
            {
                "notebook": path.stem, "seconds": time.perf_counter() - began,
                "longest_cell_s": max(cell_seconds(cell) for cell in notebook.cells if cell.cell_type == "code"),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def cell_seconds(cell) -> float:
    execution = cell.metadata.execution
    began, ended = (datetime.fromisoformat(execution[name]) for name in ("iopub.status.busy", "shell.execute_reply"))
    return (ended - began).total_seconds()


def as_markdown(results: dict) -> str:
    """Every part of the results as a table."""
    note = "Ratios are medians over rounds of turns, not quotients of the figures beside them."
    lines = ["# Benchmark", "", note, ""]
    for name, rows in results.items():
        rows = rows if isinstance(rows, list) else [rows]
        lines += [f"## {name}", "", "| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |"]
        lines += ["|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows] + [""]
    return "\n".join(lines)


def _cell(value) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


PARTS = {
    "training": lambda results, options: bench_training(results["machine"]),
    "tricks": lambda results, options: bench_tricks(),
    "generation": lambda results, options: bench_generation(results["machine"]),
    "evaluation": lambda results, options: bench_evaluation(),
    "memory": lambda results, options: peak_memory(),
    "notebooks": lambda results, options: bench_notebooks(),
    "widgets": lambda results, options: bench_widgets(),
    "learning": lambda results, options: bench_learning(options.minutes),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", default=list(PARTS), metavar="PART",
        help=f"{', '.join(PARTS)}: only these are measured again, the others' results stay (default: all)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--minutes", type=float, nargs="*", default=[1, 2, 5, 10],
        help="budgets of the learning comparison (default: 1 2 5 10, forty minutes in all)",
    )  # fmt: skip
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for all contestants
    options.out.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=options.out).close()  # a folder that cannot be written fails now, not after the work
    stored = options.out / "bench.json"
    results = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() and options.parts != list(PARTS) else {}
    if not results:  # parts that are measured later are held to the same peaks
        results["machine"] = machine()
    print(results["machine"], flush=True)
    for name in options.parts:
        results[name] = PARTS[name](results, options)
        results = {name: results[name] for name in ("machine", *PARTS) if name in results}
        stored.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (options.out / "bench.md").write_text(as_markdown(results), encoding="utf-8")
    if "training" in results:
        from shalab import plots

        plots.save(plots.benchmark(results), options.out / "bench.png")
    print(as_markdown(results))


if __name__ == "__main__":
    main()
