"""Runs that are killed and go on, again and again: python killed.py FOLDER DATA KILLS SEED.

One process loads PyTorch; every attempt to train is a fork of it, so that a kill costs a fraction of a second. The
kills fall at random moments of the whole road: creating the folder, reading, training, writing checkpoints, scoring,
drawing the curve. What comes out is a line of JSON: how the attempts ended, and how many runs were completed.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from shalab import cli, plots  # noqa: F401  (what an attempt would import, at once)
from shalab.presets import PRESETS

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main(folder: str, data: str, n_kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    tiny = PRESETS["tiny"]
    PRESETS["tiny"] = replace(tiny, train=replace(tiny.train, checkpoint_every=1))  # so that many kills meet a writer
    folder, draw, ends, done = Path(folder), random.Random(int(seed)), Counter(), 0
    began = time.monotonic()
    assert attempt(folder / "straight", data) == 0, "the run that nobody kills"
    whole_s = time.monotonic() - began
    kills = 0
    while kills < int(n_kills):
        run, left = folder / f"run-{done}", True
        while left:
            # Before the last kill is used up, every attempt is cut off somewhere within half of a run's time.
            number = draw.choice(SIGNALS) if kills < int(n_kills) else None
            code = attempt(run, data, number, draw.uniform(0, whole_s / 2))
            left = code != 0
            kills += number is not None and left
            ends[str(code)] += 1
        done += 1
    print(json.dumps({"ends": ends, "runs": done, "kills": kills}))


def attempt(run: Path, data: str, number: int | None = None, after_s: float = 0.0) -> int:
    """Trains in `run`, from where it stands, until done or until the signal; the exit code, negative for a signal."""
    options = ["--resume"] if (run / "config.json").exists() else ["--preset", "tiny", "--steps", "25", "--data", data]
    child = os.fork()
    if not child:
        code = 70
        try:
            sys.stdout = sys.stderr = open(run.with_suffix(".log"), "a", encoding="utf-8")
            code = cli.main(["train", "--dtype", "float32", "--out", str(run), *options])
        finally:
            sys.stdout.flush()
            os._exit(code)
    if number is not None:
        time.sleep(after_s)
        os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
