"""Does a student learn more from a trained model's predictions than from the bytes alone? (Hinton et al. 2015)

    python -m shalab.laboratory.distillation assets/results/distillation.json

The teacher is the trained model in `assets/model`. The students are two of the ladder's contestants, of a fourteenth
and a sixteenth of its parameters: "a copier", which is a small SHA-RNN, and "no head", two LSTMs with Boom. Their rates
are those that were best for them in the ladder (`assets/results/lab.json`), on three times as many bytes.

Taught: for the same bytes half of the loss is the usual one, and half is how far the student's probabilities are from
the teacher's, both softened by a temperature, which is chosen on valid with the first seed. Alone in equal time: a
student that reads as many bytes as fit into the time of a taught one, which pays for the teacher's forward pass, too.

The teacher learned from all of the training text, five times over: a taught student is given what a student alone is
not. It takes five minutes of processor time. FILE.parts keeps what is done, and the same command goes on from there.
"""

import argparse
import functools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shalab.bundled import stored_result
from shalab.course import trained_model
from shalab.files import write_json, writing
from shalab.laboratory.contestants import COPIER, FULL, Size, contestant
from shalab.laboratory.experiments import Part, kept
from shalab.laboratory.lab import machine, trained
from shalab.laboratory.race import scores
from shalab.model import SHARNN
from shalab.process import keep_freed_memory
from shalab.train import Trainer, mean_nats

# T window, B streams, V vocabulary, P positions of a stream

STUDENTS = COPIER, "no head"
TEMPERATURES = 1.0, 2.0, 4.0
SIZE = replace(FULL, n_bytes=100_000)
WEIGHT = 0.5  # of what the teacher says, in the loss


def softened(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """How far the student is from the teacher: mean over the bytes of t^2 KL(teacher || student), in nats.

    logits, targets (..., V): the student's and the teacher's logits; both are divided by t. The factor keeps the
    gradient as large as it is at t = 1, about.

    >>> softened(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), 2.0).item()
    0.0
    """
    student = F.log_softmax(logits.float() / temperature, -1)
    teacher = F.log_softmax(targets.float() / temperature, -1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()


@torch.no_grad()
def predictions_of(teacher: SHARNN, student: Trainer, n_positions: int, window: int = 64) -> Tensor:
    """The teacher's logits for the first positions of the student's streams, float16 (P, B, V)."""
    teacher, state, parts = teacher.eval(), None, []
    for begin in range(0, n_positions, window):
        x, _ = student.windows.streams.window(begin, min(window, n_positions - begin))
        logits, state = teacher(x, state)
        parts.append(logits.half())
    return torch.cat(parts)


def teach(student: Trainer, predictions: Tensor, temperature: float, weight: float = WEIGHT) -> None:
    """One update: predict, charge twice, differentiate, clip, step. The trainer's own, but for the second charge."""
    student.model.train()
    x, y = student.next_window()  # (T, B)
    end = student.windows.cursor
    logits, student.state = student.model(x, student.state)  # (T, B, V)
    apart = softened(logits, predictions[end - len(x) : end], temperature)
    loss = (1 - weight) * mean_nats(logits, y) + weight * apart
    student.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.model.parameters(), student.config.clip)
    for group in student.optimizer.param_groups:
        group["lr"] = student.lr
    student.optimizer.step()
    student.step += 1
    student.n_bytes += y.numel()


def taught(name: str, lr: float, temperature: float, seed: int, predictions: Tensor, size: Size = SIZE) -> dict:
    """One student, from its first update to its scores."""
    student, began = contestant(name, size, lr, seed), time.process_time()
    while student.step < student.total_steps:
        teach(student, predictions, temperature)
    return {
        "student": name, "temperature": temperature, "seed": seed, "lr": lr, "n_bytes": student.n_bytes,
        **scores(student), "processor_s": round(time.process_time() - began, 2),
    }  # fmt: skip


def seconds_per_byte(
    name: str, lr: float, teacher: SHARNN, size: Size = SIZE, rounds: int = 5, slice_s: float = 0.3
) -> dict:
    """Processor time that a byte costs a student alone, a taught one, and the teacher: a number per round of turns."""
    alone, student, told = (contestant(name, size, lr, n_bytes=10**7) for _ in range(3))
    any_predictions = torch.zeros(1, 1, 1).expand(10**6, size.batch_size, 256)  # which ones costs the same

    @torch.no_grad()
    def read_by_teacher() -> None:
        x, _ = told.next_window()
        _, told.state = teacher(x, told.state)
        told.n_bytes += x.numel()

    workers = {
        "alone": (alone, alone.update),
        "taught": (student, partial(teach, student, any_predictions, 2.0)),
        "teacher": (told, read_by_teacher),
    }
    for _, act in workers.values():  # until the memories are full
        for _ in range(teacher.max_context // size.bptt + 2):
            act()
    found: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for who, (trainer, act) in workers.items():
            began, before = time.process_time(), trainer.n_bytes
            while time.process_time() - began < slice_s:
                act()
            found[who].append((time.process_time() - began) / (trainer.n_bytes - before))
    return found


def price(seconds: dict[str, list[float]]) -> float:
    """How many bytes a student alone reads while a taught one reads one: the median over rounds."""
    rounds = zip(seconds["taught"], seconds["teacher"], seconds["alone"], strict=True)
    return round(sorted((taught + teacher) / alone for taught, teacher, alone in rounds)[len(seconds["alone"]) // 2], 3)


def distillation(part: Part, seeds: tuple[int, ...] = (0, 1, 2), size: Size = SIZE) -> dict:
    """All that the file holds.

    students   of each: its rate, the temperature that was chosen, its price, see `price`, and the seconds per byte
    runs       way "taught", or "alone" in "equal bytes" or "equal time", with student, seed, n_bytes, valid and test
    """
    ladder = stored_result("lab")
    teacher = trained_model()
    found: dict = {"students": {}, "runs": []}

    @functools.cache
    def predictions() -> Tensor:
        """The same for all students: their windows differ, not their text."""
        return predictions_of(teacher, contestant(STUDENTS[0], size, 0.01), round(1.1 * size.n_bytes / size.batch_size))

    def lesson(name: str, lr: float, temperature: float, seed: int) -> dict:
        return taught(name, lr, temperature, seed, predictions(), size)

    for name in STUDENTS:
        lr = ladder["contestants"][name]["lr"]
        tried = [
            part(f"{name}, seed {seeds[0]}, temperature {t:g}", partial(lesson, name, lr, t, seeds[0]))
            for t in TEMPERATURES
        ]
        best = min(tried, key=lambda run: run["valid"])["temperature"]
        rest = [
            part(f"{name}, seed {seed}, temperature {best:g}", partial(lesson, name, lr, best, seed))
            for seed in seeds[1:]
        ]
        seconds = part(f"{name}, speeds", partial(seconds_per_byte, name, lr, teacher, size))
        found["students"][name] = {"lr": lr, "temperature": best, "price": price(seconds), "seconds_per_byte": seconds}
        found["runs"] += [{"way": "taught", **run} for run in tried + rest]
        for way, n_bytes in (("equal bytes", size.n_bytes), ("equal time", round(size.n_bytes * price(seconds)))):
            for seed in seeds:
                ran = part(f"{name}, seed {seed}, {way}", partial(trained, name, lr, seed, size, n_bytes))
                found["runs"].append({"way": f"alone, {way}", "student": name, "temperature": None, **ran})
    return found


def scores_of(found: dict, name: str, way: str, split: str = "valid") -> list[float]:
    """A student's scores by seed: "taught" at its temperature, "alone, equal bytes" or "alone, equal time"."""
    temperature = found["students"][name]["temperature"] if way == "taught" else None
    runs = [
        run for run in found["runs"] if (run["student"], run["way"], run["temperature"]) == (name, way, temperature)
    ]
    return [run[split] for run in sorted(runs, key=lambda run: run["seed"])]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args(arguments).out
    torch.set_num_threads(1)
    keep_freed_memory()
    parts = out.with_suffix(".parts")
    with writing(out.parent):
        part = kept(parts)
    made = {"command": "python -m shalab.laboratory.distillation FILE", **machine()}
    write_json(out, {**distillation(part), **made})
    parts.unlink()


if __name__ == "__main__":
    main()
