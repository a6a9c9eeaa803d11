"""Who learns most from the same text in the same time: a SHA-RNN from two starts, the same without a head, and a GPT.

    python -m shalab.laboratory.race assets/results/race.json

Each contestant trains by the learning rate that was best for it in the recorded searches, with a schedule that ends
where its training does. At equal bytes all of them read `n_bytes`. Equal time is what the paper's start takes for that
in processor time of one thread: the contestants' speeds are measured first, taking turns, and without a head, where
more is read in that time, the model then trains on so much more. The runs that `backoff.json` holds are taken from
there, whatever device they were made on.

It takes half an hour of processor time. FILE.parts keeps what is done, and the same command continues from there.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from shalab.bundled import stored_result
from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.evaluate import evaluate
from shalab.laboratory.experiments import READING, Part, finish, kept, told
from shalab.laboratory.gpt import GPT_RECIPE, GPTTrainer
from shalab.laboratory.heads import study
from shalab.laboratory.search import open_corpus, updates
from shalab.laboratory.timing import processor
from shalab.model import SHARNN
from shalab.presets import find_preset
from shalab.process import keep_freed_memory
from shalab.train import Trainer

PAPER, COPIER, NO_HEAD, GPT = "SHA-RNN, the paper's start", "SHA-RNN, a copier", "without a head", "GPT"
IN_BACKOFF = {PAPER: "the paper's", COPIER: "a copier", NO_HEAD: "the paper's, no head"}
LAPTOP = find_preset("laptop")
RECIPE = replace(LAPTOP.train, sample_bytes=0)
MODELS = {
    PAPER: replace(LAPTOP.model, induction=False),
    COPIER: LAPTOP.model,
    NO_HEAD: replace(LAPTOP.model, induction=False, attention_layers=()),
}


def best_rates(runs: list[dict]) -> dict[str, float]:
    """Of each SHA-RNN the learning rate whose mean over seeds is the lowest on valid, among backoff's runs."""
    rates = {}
    for name, start in IN_BACKOFF.items():
        by_rate: dict[float, list[float]] = {}
        for run in runs:
            if run["start"] == start:
                by_rate.setdefault(run["lr"], []).append(run["valid"])
        rates[name] = min(by_rate, key=lambda lr: statistics.mean(by_rate[lr]))
    return rates


def contestant(name: str, lr: float, n_bytes: int, seed: int = 0, toy: bool = False) -> Trainer | GPTTrainer:
    """Ready to train on about `n_bytes` bytes of enwik6.

    lr   of a SHA-RNN; a GPT has its recipe's
    toy  a fourteenth of the size, which nothing was tuned for
    """
    corpus, precision = open_corpus(), Precision.pick("cpu")
    if name == GPT:
        recipe = replace(GPT_RECIPE, d_model=48) if toy else GPT_RECIPE
        return GPTTrainer(recipe, corpus, round(n_bytes / recipe.batch_size / recipe.window), seed, precision)
    torch.manual_seed(seed)
    model = replace(MODELS[name], d_model=64, d_boom=256) if toy else MODELS[name]
    return Trainer(SHARNN(model), corpus, replace(RECIPE, lr=lr), precision, updates(n_bytes, RECIPE), seed)


def scores(run: Trainer | GPTTrainer) -> dict[str, float]:
    """Valid and test, bits per byte: a SHA-RNN reads windows of 64 with its memory, a GPT charges 8 bytes a window."""
    corpus = load_corpus("enwik6")
    found = {}
    for split in ("valid", "test"):
        if isinstance(run, GPTTrainer):
            run.corpus = corpus
            bpc = run.evaluate(split, stride=8)
        else:
            bpc = evaluate(run.model, corpus.data, *corpus.bounds[split], run.precision, **READING)
        found[split] = round(bpc, 4)
    return found


def speeds(rates: dict[str, float], rounds: int = 12, slice_s: float = 1.0) -> dict[str, list[float]]:
    """Bytes per second of processor time that each contestant trains on: one number per round of turns."""
    runs = {name: contestant(name, rates.get(name, 0.0), 10**7) for name in (*MODELS, GPT)}
    for run in runs.values():
        for _ in range(LAPTOP.model.max_context // LAPTOP.train.bptt + 2):  # until the memory is full
            run.update()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began, read = time.process_time(), run.n_bytes
            while time.process_time() - began < slice_s:
                run.update()
            found[name].append(round((run.n_bytes - read) / (time.process_time() - began)))
    return found


def to_its_end(run: Trainer | GPTTrainer) -> float:
    """Trains on to the last update; returns the processor's seconds."""
    began = time.process_time()
    if isinstance(run, GPTTrainer):
        while run.step < run.total_steps:
            run.update()
    else:
        finish(run)
    return time.process_time() - began


def trained(name: str, lr: float, n_bytes: int, seed: int) -> dict:
    """One run, from its first update to its scores."""
    run = contestant(name, lr, n_bytes, seed)
    taken = to_its_end(run)
    return {
        "contestant": name, "seed": seed, "lr": GPT_RECIPE.lr if name == GPT else lr, "n_bytes": run.n_bytes,
        "n_parameters": run.model.n_parameters, **scores(run), "processor_s": round(taken),
    }  # fmt: skip


def bytes_read(n_bytes: int, seed: int) -> int:
    """What a SHA-RNN that is given about `n_bytes` reads of them: its windows vary in length."""
    run = contestant(PAPER, RECIPE.lr, n_bytes, seed)
    return sum(run.next_window()[1].numel() for _ in range(run.total_steps))


def head_that_learns(lr: float, n_bytes: int) -> list[dict]:
    """The paper's start, seed 0: what its head does before the first update and after the last.

    Of each n_bytes, and what `study` finds on the valid split.
    """
    run, found = contestant(PAPER, lr, n_bytes), []
    for step in (0, run.total_steps):
        while run.step < step:
            run.update()
        seen = study(run.model, run.corpus.data, *run.corpus.bounds["valid"], run.precision)
        found.append({"n_bytes": run.n_bytes, **seen})
    return found


def race(
    n_bytes: int = 1_200_000,
    seeds: tuple[int, ...] = (0, 1, 2),
    part: Part = told,
) -> dict:
    """All that the file holds.

    speed            bytes per second of processor time, a number per round of turns
    share            how many times as many bytes as the paper's start a contestant reads in the same time
    runs             contestant, seed, lr, n_bytes, n_parameters, valid, test, and the races it counts in, "bytes" and
                     "time". Those of the two with a head count in both, as they read equally fast; the GPT's too,
                     which gives it more time than the others where its share is below 1
    head             what `head_that_learns` found

    And on what it was computed: threads, dtype, versions, processor.
    """
    recorded = stored_result("backoff")["runs"]
    rates = best_rates(recorded)
    speed = part("speeds", partial(speeds, rates))
    share = {
        name: round(statistics.median(of / paper for of, paper in zip(speed[name], speed[PAPER], strict=True)), 3)
        for name in speed
    }
    runs = []
    for run in recorded:
        for name, start in IN_BACKOFF.items():
            if run["start"] == start and run["lr"] == rates[name] and run["seed"] in seeds:
                races = ["bytes"] if name == NO_HEAD else ["bytes", "time"]
                taken = {key: run[key] for key in ("seed", "lr", "n_parameters", "valid", "test")}
                taken["n_bytes"] = bytes_read(n_bytes, run["seed"])
                runs.append({"races": races, "contestant": name, **taken, "from": "backoff.json"})
    arms = [(GPT, n_bytes, ["bytes", "time"], seed) for seed in seeds]
    arms += [(NO_HEAD, round(n_bytes * share[NO_HEAD]), ["time"], seed) for seed in seeds]
    for name, given, races, seed in arms:
        ran = part(f"{name}, seed {seed}", partial(trained, name, rates.get(name, 0.0), given, seed))
        runs.append({"races": races, **ran})
    head = part("head", partial(head_that_learns, rates[PAPER], n_bytes))
    recipes = {name: {"model": asdict(model), "train": asdict(replace(RECIPE, lr=rates[name]))}
               for name, model in MODELS.items()} | {GPT: asdict(GPT_RECIPE)}  # fmt: skip
    return {
        "n_bytes": n_bytes, "seeds": seeds, "recipes": recipes, "speed": speed, "share": share, "runs": runs,
        "head": head, "threads": torch.get_num_threads(), "dtype": str(Precision.pick("cpu").dtype),
        "versions": {"python": platform.python_version(), "torch": torch.__version__}, "processor": processor(),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    parts = options.out.with_suffix(".parts")
    try:
        part = kept(parts)
    except OSError as error:
        parser.error(f"nothing can be written to {options.out.parent} ({error}); name a file in another folder")
    torch.set_num_threads(1)
    keep_freed_memory()
    found = {"command": "python -m shalab.laboratory.race FILE", **race(part=part)}
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    parts.unlink()


if __name__ == "__main__":
    main()
