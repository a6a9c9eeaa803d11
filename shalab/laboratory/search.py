"""One trial of a recipe, scored on the valid split; the test split is cut off before training begins.

    python -m shalab.laboratory.search --megabytes 10 batch_size=32 dropout=0.2 lr=1e-2

sets the given fields of ModelConfig and TrainConfig in the laptop preset. `dropout=` sets all three rates. With --gpt
the fields are those of GPTConfig. Each trial appends a line of JSON to --out.

    python -m shalab.laboratory.search --data FILE --minutes 3 --valid 500000 d_model=512 d_boom=2048

gives each trial the same time instead, on another text, and scores it on the first bytes of its valid split.
"""

import argparse
import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

from shalab.corpus import Corpus, load_corpus
from shalab.device import Precision
from shalab.errors import InputError
from shalab.laboratory.gpt import GPTConfig, GPTTrainer
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, ModelConfig
from shalab.presets import find_preset
from shalab.process import keep_freed_memory
from shalab.train import EvalEvent, StepEvent, TrainConfig, Trainer


@dataclass(frozen=True)
class OpenCorpus(Corpus):
    """A corpus without its test split: what a search may see."""

    n_train: int = 0

    @cached_property
    def bounds(self) -> dict[str, tuple[int, int]]:
        return {"train": (0, self.n_train), "valid": (self.n_train, len(self))}


def open_corpus(name: str = "enwik6", n_valid: int | None = None) -> OpenCorpus:
    """The train and valid splits of a corpus, the same bytes as there; of valid the first `n_valid` at most."""
    corpus = load_corpus(name)
    begin, end = corpus.bounds["valid"]
    end = min(end, begin + n_valid) if n_valid else end
    return OpenCorpus(corpus.name, corpus.data[:end].copy(), n_train=begin)


def changed(changes: dict) -> tuple[ModelConfig, TrainConfig]:
    """The laptop preset with some fields replaced; `dropout` replaces all three rates that are not given."""
    preset = find_preset("laptop")
    if "dropout" in changes:
        changes = {"dropout_input": changes["dropout"], "dropout_hidden": changes["dropout"], **changes}
    parts = []
    for part in (preset.model, preset.train):
        names = {field.name for field in fields(part)}
        parts.append(replace(part, **{name: value for name, value in changes.items() if name in names}))
        changes = {name: value for name, value in changes.items() if name not in names}
    if changes:
        raise InputError(f"neither ModelConfig nor TrainConfig has {', '.join(changes)}")
    return tuple(parts)


def updates(n_bytes: int, train: TrainConfig) -> int:
    """About how many updates it takes to read n bytes. Windows are a little shorter than bptt on average."""
    return round(n_bytes / train.batch_size / train.bptt / 0.97)


def trial(
    changes: dict, n_bytes: int, seed: int = 0, minutes: float | None = None, corpus: Corpus | None = None
) -> dict:
    """Trains once on `n_bytes` bytes, or for `minutes`, and returns what was learned and how fast."""
    model, train = changed(changes)
    torch.manual_seed(seed)
    steps = 1 if minutes else updates(n_bytes, train)
    trainer = Trainer(
        SHARNN(model), corpus or open_corpus(), replace(train, sample_bytes=0), Precision.pick("cpu"), steps, seed,
        minutes=minutes,
    )  # fmt: skip
    losses, curve = [], []
    for event in trainer.events():
        match event:
            case StepEvent():
                losses.append(event.loss_nats)
            case EvalEvent():
                curve.append(_point(event.n_bytes, losses, event.valid_bpc))
                losses = []
    given = {"minutes": minutes, "data": trainer.corpus.name, "n_valid": len(trainer.corpus.split("valid"))}
    return {"model": "SHA-RNN", **_result(changes, seed, trainer, curve), **(given if minutes else {})}


def gpt_trial(changes: dict, n_bytes: int, seed: int = 0, evaluations: int = 10) -> dict:
    """The same for a GPT."""
    config = GPTConfig(**changes)
    trainer = GPTTrainer(config, open_corpus(), round(n_bytes / config.batch_size / config.window), seed)
    losses, curve = [], []
    for step in range(1, trainer.total_steps + 1):
        losses.append(trainer.update())
        if step * evaluations // trainer.total_steps > (step - 1) * evaluations // trainer.total_steps:
            curve.append(_point(trainer.n_bytes, losses, trainer.evaluate()))
            losses = []
    return {"model": "GPT", **_result(changes, seed, trainer, curve)}


def _point(n_bytes: int, losses: list[float], valid_bpc: float) -> list:
    point = [n_bytes, round(sum(losses) / len(losses) / NATS_PER_BIT, 4), round(valid_bpc, 4)]
    print(*point, flush=True)
    return point


def _result(changes: dict, seed: int, trainer, curve: list) -> dict:
    return {
        "changes": changes, "seed": seed, "n_parameters": trainer.model.n_parameters,
        "threads": torch.get_num_threads(), "bytes_per_second": round(trainer.n_bytes / trainer.elapsed_s),
        "best_valid_bpc": min(valid for _, _, valid in curve), "bytes_train_valid": curve,
    }  # fmt: skip


def _value(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--gpt", action="store_true")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--minutes", type=float, help="instead of --megabytes: minutes of training")
    parser.add_argument("--data", default="enwik6", metavar="NAME_OR_PATH")
    parser.add_argument("--valid", type=int, metavar="N", help="score only the first N bytes of valid")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("assets/search.jsonl"))
    options = parser.parse_args()
    for change in options.changes:
        if "=" not in change:
            parser.error(f"{change}: expected FIELD=VALUE")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    changes = {name: _value(value) for name, value in (change.split("=", 1) for change in options.changes)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:  # before the training: a mistake in the name costs nothing
        n_bytes = round(options.megabytes * 1e6)
        if options.gpt:
            result = gpt_trial(changes, n_bytes, options.seed)
        else:
            corpus = open_corpus(options.data, options.valid)
            result = trial(changes, n_bytes, options.seed, options.minutes, corpus)
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
