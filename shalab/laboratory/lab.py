"""The laboratory's ladder: other architectures, starts and optimizers beside the SHA-RNN, on the same text.

    shalab lab ladder.json                                # all of it, three seeds each: half an hour of one core
    shalab lab mine.json --only "minGRU" "SRU"            # these, and what they are held against
    python -m shalab.laboratory.lab ladder.json           # the same

Equal bytes: all contestants read as many bytes of enwik6, with a schedule that ends where their training does. Those
that have learning rates of their own try them on the first seed and keep the one with the best score on valid; the
others take the rate of the one that they are held against.

Equal time: those in TIMED train again, on as many bytes as they read in the processor time that "one head" takes for
its own. How many that is, is measured before: all of them train in turns, a moment each, with their memories full.

Every finished training is a line of FILE.jsonl, beside FILE. A command that was killed goes on from there and repeats
none; what is known so far stands in FILE after each. Delete both when a contestant has changed.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout

from shalab.cli import main
from shalab.errors import COUNT, InputError, refuse, wrong
from shalab.fast.process import keep_freed_memory
from shalab.files import write_json, writing
from shalab.laboratory.contestants import CONTESTANTS, FULL, REFERENCE, TIMED, TOY, Contestant, Size, contestant
from shalab.laboratory.experiments import finish
from shalab.laboratory.gpt import GPTTrainer
from shalab.laboratory.race import scores
from shalab.laboratory.timing import processor

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t by number of seeds


def trained(
    which: str | Contestant,
    lr: float,
    seed: int = 0,
    size: Size = FULL,
    n_bytes: int | None = None,
) -> dict:
    """One training, from its first update to its scores; valid and test are None if it diverged."""
    run, began = contestant(which, size, lr, seed, n_bytes), time.process_time()
    if isinstance(run, GPTTrainer):
        while run.step < run.total_steps:
            run.update()
    else:
        finish(run)
    taken = time.process_time() - began
    whole = run.step == run.total_steps
    return {
        "seed": seed, "lr": lr, "n_bytes": run.n_bytes, "n_parameters": run.model.n_parameters,
        **(scores(run) if whole else {"valid": None, "test": None}),
        "processor_s": round(taken, 2),
    }  # fmt: skip


class Cell(NamedTuple):
    """A training of the grid. lr: None for the rate that was chosen; timed: of equal time instead of equal bytes"""

    contestant: str
    seed: int
    lr: float | None = None
    timed: bool = False


def cells(names: Iterable[str], seeds: Sequence[int]) -> list[Cell]:
    """In the order in which they are trained: a ladder that is cut off has the main rows first."""
    order = []
    for first in (True, False):
        group = [name for name in names if CONTESTANTS[name].main == first]
        order += [Cell(name, seeds[0], lr) for name in group for lr in CONTESTANTS[name].rates]
        order += [Cell(name, seed) for name in group for seed in (seeds[1:] if CONTESTANTS[name].rates else seeds)]
        order += [Cell(name, seed, timed=True) for name in group if name in TIMED for seed in seeds]
    return order


def with_those_they_are_held_against(names: Sequence[str]) -> list[str]:
    """In the table's order; all contestants for none."""
    wanted = {*names, REFERENCE} if names else {*CONTESTANTS}
    if strays := wanted - {*CONTESTANTS}:
        raise InputError(f"no contestant is called {', '.join(sorted(strays))}; there are {', '.join(CONTESTANTS)}")
    wanted |= {CONTESTANTS[name].against for name in wanted}
    return [name for name in CONTESTANTS if name in wanted]


def chosen_rate(name: str, runs: list[dict]) -> float:
    """Of a contestant, by the trials that are there; InputError if every one of them diverged."""
    if not CONTESTANTS[name].rates:
        return chosen_rate(CONTESTANTS[name].against, runs)
    tried = [run for run in runs if run["contestant"] == name and not run["timed"] and run["valid"] is not None]
    if not tried:
        raise InputError(f"{name} diverged at every one of its rates; give it lower ones")
    return min(tried, key=lambda run: (run["seed"] != tried[0]["seed"], run["valid"]))["lr"]


def speeds(names: Iterable[str], size: Size, rates: dict[str, float], rounds: int = 9, slice_s: float = 0.5) -> dict:
    """Bytes per second of processor time that each contestant trains on: one number per round of turns."""
    runs = {name: contestant(name, size, rates[name], n_bytes=10**7) for name in names}
    for run in runs.values():
        for _ in range(size.memory // size.bptt + 2):  # until the memory is full
            run.update()
    found: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began, read = time.process_time(), run.n_bytes
            while time.process_time() - began < slice_s:
                run.update()
            found[name].append(round((run.n_bytes - read) / (time.process_time() - began)))
    return found


def share(speed: dict[str, list[int]], name: str) -> float:
    """How many times as many bytes as "one head" a contestant reads in the same time: the median over rounds."""
    pairs = zip(speed[name], speed[REFERENCE], strict=True)
    return round(statistics.median(of / reference for of, reference in pairs), 3)


class Lines:
    """Results that are appended to a file, one line of JSON each, as soon as they are there.

    settings: what all of them were made with; a file with others is refused
    A last line that a kill cut off is dropped.
    """

    def __init__(self, path: Path, settings: dict):
        self.path = path
        whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
        lines = [json.loads(line) for line in whole.splitlines()]
        settings = json.loads(json.dumps(settings))
        if lines and lines[0] != {"settings": settings}:
            raise InputError(f"{path} was begun with other settings, {lines[0].get('settings')}: name another file")
        self.found = {line["cell"]: line["result"] for line in lines[1:]}
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(len(whole) + bool(whole))
        if not lines:
            self._append({"settings": settings})

    def keep(self, cell: str, compute: Callable[[], Any]) -> Any:
        """What the file has of a cell; else computes and appends it."""
        if cell not in self.found:
            self.found[cell] = compute()
            self._append({"cell": cell, "result": self.found[cell]})
        return self.found[cell]

    def _append(self, line: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def ladder(
    out: Path, names: Sequence[str] = (), size: Size = FULL, seeds: Sequence[int] = (0, 1, 2),  # noqa: B008
    tell: Callable[[str], object] = print, rounds: int = 9,
) -> dict:  # fmt: skip
    """Trains what `out` does not hold yet, and returns what it holds then; `tell` hears of each training.

    contestants  in what each differs, against whom it is held, its rate and the rates that were tried
    runs         of every training what `trained` found, with contestant, and whether it was timed
    speed        bytes per second, see `speeds`; share: of those, see `share`
    left         how many trainings are missing
    """
    names = with_those_they_are_held_against(names)
    lines = Lines(out.with_suffix(".jsonl"), {"size": asdict(size)})
    runs: list[dict] = []
    speed: dict[str, list[int]] = {}
    todo = cells(names, seeds)
    began, n_new = time.monotonic(), 0
    for n, cell in enumerate(todo, 1):
        name, seed, lr, timed = cell
        lr = lr or chosen_rate(name, runs)
        n_bytes = size.n_bytes
        if timed:
            if not speed:
                racing = [name for name in names if name in (REFERENCE, *TIMED)]
                rates = {name: chosen_rate(name, runs) for name in racing}
                speed = lines.keep(f"speeds of {', '.join(racing)}", partial(speeds, racing, size, rates, rounds))
            n_bytes = round(size.n_bytes * share(speed, name))
        key = f"{name}, seed {seed}, rate {lr:g}, {n_bytes} bytes"
        n_new += key not in lines.found
        found = lines.keep(key, lambda: machine() | trained(name, lr, seed, size, n_bytes))  # noqa: B023
        runs.append({"contestant": name, "timed": timed, **found})
        left = (time.monotonic() - began) / max(1, n_new) * (len(todo) - n)
        scored = "diverged" if found["valid"] is None else f"valid {found['valid']:.3f}"
        tell(f"{n} of {len(todo)}  {key}: {scored}" + (f"; about {left / 60:.0f} min left" if n_new else ", kept"))
        result = summary(names, size, seeds, runs, speed, len(todo) - n)
        write_json(out, result)
    return result


def machine() -> dict:
    """What a number may depend on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": processor(), "threads": torch.get_num_threads(), "versions": versions}


def summary(names, size: Size, seeds, runs: list[dict], speed: dict, left: int) -> dict:
    tried = {run["contestant"] for run in runs}
    contestants = {}
    for name in [name for name in names if name in tried]:
        one = CONTESTANTS[name]
        contestants[name] = {
            "differs": one.differs, "against": one.against, "rates_tried": one.rates, "lr": chosen_rate(name, runs),
            "main": one.main,
        }  # fmt: skip
    return {
        "command": "shalab lab FILE", "size": asdict(size), "seeds": list(seeds), "contestants": contestants,
        "speed": speed, "share": {name: share(speed, name) for name in speed}, "left": left, "runs": runs,
    }  # fmt: skip


def by_seed(found: dict, name: str, split: str = "valid", timed: bool = False) -> list[float | None]:
    """A contestant's scores at its chosen rate, in the order of the seeds; fewer if some are missing."""
    if timed and name == REFERENCE:
        timed = False  # its own time is that of equal bytes
    lr = found["contestants"][name]["lr"]
    runs = [run for run in found["runs"] if run["contestant"] == name and run["timed"] == timed and run["lr"] == lr]
    return [run[split] for run in sorted(runs, key=lambda run: run["seed"])]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of n numbers and half the width of its 95 % interval, by Student's t."""
    return statistics.mean(values), T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def rows(found: dict, split: str = "valid", timed: bool = False) -> Iterator[dict]:
    """A row per contestant whose seeds are all there, in the table's order.

    mean, half           bits per byte, and half the width of the 95 % interval
    difference, by       the same of contestant minus the one it is held against, seed by seed; None for the reference
    seen                 whether that interval leaves out zero
    """
    for name, one in found["contestants"].items():
        scores = by_seed(found, name, split, timed)
        against = by_seed(found, one["against"], split, timed)
        if not len(scores) == len(against) == len(found["seeds"]) or None in scores + against:
            continue
        mean, half = interval(scores)
        row = {"contestant": name, "mean": mean, "half": half, "difference": None, "by": None, "seen": None, **one}
        if name != one["against"]:
            difference, by = interval([a - b for a, b in zip(scores, against, strict=True)])
            row |= {"difference": difference, "by": by, "seen": abs(difference) > by}
        run = next(run for run in found["runs"] if run["contestant"] == name)
        yield row | {"n_parameters": run["n_parameters"]}


def table(found: dict, split: str = "valid", timed: bool = False) -> str:
    """The rows as text, each under the one that it is held against."""
    lines = []
    for row in rows(found, split, timed):
        line = f"{row['contestant']:<36}{row['n_parameters']:>9,}{row['mean']:>8.3f} ± {row['half']:.3f}"
        if row["by"] is not None:
            said = "" if row["seen"] else "  no difference seen"
            line += f"{row['difference']:>+9.3f} ± {row['by']:.3f} against {row['against']}{said}"
        lines.append(line)
    return "\n".join(lines)


def run(out: Path, names: Sequence[str], n_bytes: int, n_seeds: int, toy: bool = False) -> None:
    """`shalab lab`: trains with one thread, and prints the tables."""
    refuse(wrong(COUNT, bytes=n_bytes))
    if not 2 <= n_seeds <= max(T_95):
        raise InputError(f"an interval needs 2 to {max(T_95)} seeds, got {n_seeds}")
    torch.set_num_threads(1)
    keep_freed_memory()
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(out.with_suffix(".lock"), timeout=0):
                size = TOY if toy else replace(FULL, n_bytes=n_bytes)
                found = ladder(out, names, size, range(n_seeds), partial(print, flush=True))
        except Timeout as error:
            raise InputError(f"another process is writing to {out}: wait for it, or name another file") from error
    for timed in (False, True):
        print(f"\nat equal {'time' if timed else 'bytes'}, valid, bits per byte:\n{table(found, timed=timed)}")


if __name__ == "__main__":
    sys.exit(main(["lab", *sys.argv[1:]]))
