"""The laboratory's ladder: other architectures, starts and optimizers beside the SHA-RNN, on the same text.

    shalab lab ladder.json                                # all of it, three seeds each: half an hour of one core
    shalab lab mine.json --only "minGRU" "SRU"            # these, and what they are held against

Equal bytes: all contestants read as many bytes of enwik6, with a schedule that ends where their training does. Those
that have learning rates of their own try them on the first seed and keep the one with the best score on valid; the
others take the rate of the one that they are held against.

Equal time: "one head" trains on half and on twice as many bytes, too. A contestant is then held against what "one head"
reaches in the processor time that the contestant took: between its trainings, on a line through the logarithm of their
bytes. How many bytes that is, is measured: the two train in turns, a moment each, with their memories full.

Every finished training is a line of FILE.jsonl, beside FILE. A command that was killed goes on from there and repeats
none; what is known so far stands in FILE after each. Delete both when a contestant has changed.
"""

import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout

from shalab.errors import COUNT, InputError, refuse, wrong
from shalab.files import check_file, write_json, writing
from shalab.laboratory.contestants import CONTESTANTS, FULL, REFERENCE, TOY, Contestant, Size, contestant
from shalab.laboratory.race import scores, to_its_end
from shalab.laboratory.timing import processor
from shalab.process import keep_freed_memory

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t by number of seeds


def trained(
    which: str | Contestant,
    lr: float,
    seed: int = 0,
    size: Size = FULL,
    n_bytes: int | None = None,
) -> dict:
    """One training, from its first update to its scores; valid and test are None if it diverged."""
    run = contestant(which, size, lr, seed, n_bytes)
    taken = to_its_end(run)
    whole = run.step == run.total_steps
    return {
        "seed": seed, "lr": lr, "n_bytes": run.n_bytes, "n_parameters": run.model.n_parameters,
        **(scores(run) if whole else {"valid": None, "test": None}),
        "processor_s": round(taken, 2),
    }  # fmt: skip


class Cell(NamedTuple):
    """A training of the grid.

    lr     None for the rate that was chosen
    times  the bytes, as a multiple of Size.n_bytes
    """

    contestant: str
    seed: int
    lr: float | None = None
    times: float = 1.0


LENGTHS = 0.5, 1.0, 2.0  # of the reference's trainings


def cells(names: Iterable[str], seeds: Sequence[int]) -> list[Cell]:
    """In the order in which they are trained."""
    order = []
    for name in names:
        rates = CONTESTANTS[name].rates
        order += [Cell(name, seeds[0], lr) for lr in rates]
        order += [Cell(name, seed) for seed in (seeds[1:] if rates else seeds)]
        if name == REFERENCE:
            order += [Cell(name, seed, times=times) for times in LENGTHS if times != 1 for seed in seeds]
    return order


def with_those_they_are_held_against(names: Sequence[str]) -> list[str]:
    """In the table's order; all contestants for none."""
    wanted = {*names, REFERENCE} if names else {*CONTESTANTS}
    if strays := wanted - {*CONTESTANTS}:
        raise InputError(f"no contestant is called {', '.join(sorted(strays))}; there are {', '.join(CONTESTANTS)}")
    wanted |= {CONTESTANTS[name].against for name in wanted}
    return [name for name in CONTESTANTS if name in wanted]


def chosen_rate(name: str, runs: list[dict]) -> float:
    """Of a contestant, by its trials on the first seed; InputError if every one of them diverged."""
    if not CONTESTANTS[name].rates:
        return chosen_rate(CONTESTANTS[name].against, runs)
    of_it = [run for run in runs if run["contestant"] == name and run["times"] == 1]
    tried = [run for run in of_it if run["seed"] == of_it[0]["seed"] and run["valid"] is not None]
    if not tried:
        raise InputError(f"{name} diverged at every one of its rates; give it lower ones")
    return min(tried, key=lambda run: run["valid"])["lr"]


def speeds(name: str, size: Size, rounds: int = 7, slice_s: float = 0.2) -> list[float]:
    """How many times as many bytes as "one head" a contestant reads in the same processor time, by rounds of turns."""
    runs = [contestant(which, size, 1e-3, n_bytes=10**7) for which in (name, REFERENCE)]
    for run in runs:
        for _ in range(size.memory // size.bptt + 2):  # until the memory is full
            run.update()
    found = []
    for _ in range(rounds):
        speed = []
        for run in runs:
            began, before = time.process_time(), run.n_bytes
            while time.process_time() - began < slice_s:
                run.update()
            speed.append((run.n_bytes - before) / (time.process_time() - began))
        found.append(round(speed[0] / speed[1], 3))
    return found


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
    out: Path, names: Sequence[str] = (), size: Size = FULL, seeds: Sequence[int] = (0, 1, 2),
    tell: Callable[[str], object] = print,
) -> dict:  # fmt: skip
    """Trains what `out` does not hold yet, and returns what it holds then; `tell` hears of each training.

    contestants  in what each differs, whom it is held against, its rate, the rates that were tried, and its speed as
                 multiples of the reference's
    runs         of every training what `trained` found, with contestant and times, see `Cell`
    left         how many trainings are missing
    """
    names = with_those_they_are_held_against(names)
    lines = Lines(out.with_suffix(".jsonl"), {"size": asdict(size)})
    runs: list[dict] = []
    faster: dict[str, list[float]] = {}
    todo = cells(names, seeds)
    began, n_new = time.monotonic(), 0
    for n, (name, seed, lr, times) in enumerate(todo, 1):
        lr = lr or chosen_rate(name, runs)
        n_bytes = round(size.n_bytes * times)
        key = f"{name}, seed {seed}, rate {lr:g}, {n_bytes} bytes"
        n_new += key not in lines.found
        found = lines.keep(key, lambda: machine() | trained(name, lr, seed, size, n_bytes))  # noqa: B023
        runs.append({"contestant": name, "times": times, **found})
        if name not in faster:
            faster[name] = lines.keep(f"{name}, speed", partial(speeds, name, size))
        write_json(out, summary(size, seeds, runs, faster, len(todo) - n))
        left = (time.monotonic() - began) / max(1, n_new) * (len(todo) - n)
        scored = "diverged" if found["valid"] is None else f"valid {found['valid']:.3f}"
        tell(f"{n} of {len(todo)}  {key}: {scored}" + (f"; about {left / 60:.0f} min left" if n_new else ", kept"))
    return summary(size, seeds, runs, faster, 0)


def machine() -> dict:
    """What a number may depend on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": processor(), "threads": torch.get_num_threads(), "versions": versions}


def summary(size: Size, seeds: Sequence[int], runs: list[dict], faster: dict[str, list[float]], left: int) -> dict:
    contestants = {}
    for name in faster:
        one = CONTESTANTS[name]
        contestants[name] = {
            "differs": one.differs, "against": one.against, "rates_tried": list(one.rates),
            "lr": chosen_rate(name, runs), "speed": faster[name],
        }  # fmt: skip
    return {
        "command": "shalab lab FILE", "size": asdict(size), "seeds": list(seeds), "contestants": contestants,
        "left": left, "runs": runs,
    }  # fmt: skip


def by_seed(found: dict, name: str, split: str = "valid", times: float = 1.0) -> list[float | None]:
    """A contestant's scores at its chosen rate, in the order of the seeds; fewer if some are missing."""
    lr = found["contestants"][name]["lr"]
    runs = [run for run in found["runs"] if (run["contestant"], run["times"], run["lr"]) == (name, times, lr)]
    return [run[split] for run in sorted(runs, key=lambda run: run["seed"])]


def reference_in_its_time(found: dict, name: str, split: str = "valid") -> list[float | None]:
    """What "one head" reaches, seed by seed, in the time that a contestant took; none where that is out of reach.

    That is a line between two of its trainings, through the logarithm of their bytes.
    """
    reads = 1 / statistics.median(found["contestants"][name]["speed"])  # times as many bytes as the contestant
    for low, high in itertools.pairwise(LENGTHS):
        if low <= reads <= high:
            part = math.log(reads / low) / math.log(high / low)
            ends = (by_seed(found, REFERENCE, split, times) for times in (low, high))
            return [None if None in pair else (1 - part) * pair[0] + part * pair[1] for pair in zip(*ends, strict=True)]
    return []


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean of n numbers and half the width of its 95 % interval, by Student's t."""
    return statistics.mean(values), T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def rows(found: dict, split: str = "valid", equal_time: bool = False) -> Iterator[dict]:
    """A row per contestant whose seeds are all there, in the order of training.

    mean, half      bits per byte, and half the width of the 95 % interval
    difference, by  the same of contestant minus the one it is held against, seed by seed; None for the reference.
                    In equal time all are held against "one head"
    seen            whether that interval leaves out zero
    """
    for name, one in found["contestants"].items():
        scores = by_seed(found, name, split)
        against = REFERENCE if equal_time else one["against"]
        others = reference_in_its_time(found, name, split) if equal_time else by_seed(found, against, split)
        if not len(scores) == len(others) == len(found["seeds"]) or None in scores + others:
            continue
        mean, half = interval(scores)
        row = {"contestant": name, "mean": mean, "half": half, "difference": None, "by": None, "seen": None}
        if name != against:
            difference, by = interval([a - b for a, b in zip(scores, others, strict=True)])
            row |= {"difference": difference, "by": by, "seen": abs(difference) > by}
        run = next(run for run in found["runs"] if run["contestant"] == name)
        yield {**one, **row, "against": against, "n_parameters": run["n_parameters"]}


def table(found: dict, split: str = "valid", equal_time: bool = False) -> str:
    """The rows as text."""
    lines = []
    for row in rows(found, split, equal_time):
        line = f"{row['contestant']:<34}{row['n_parameters']:>8,}{row['mean']:>8.3f} ± {row['half']:.3f}"
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
    check_file(out)
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
    print(f"\nvalid, bits per byte, at equal bytes:\n{table(found)}\n\nin equal time:\n{table(found, equal_time=True)}")
