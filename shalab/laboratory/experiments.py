"""What the notebooks show and a reader should not have to wait for. Each experiment writes one file of results:

python -m shalab.laboratory.experiments boom --out assets/results/boom.json

All of them train on enwik6 with fixed seeds, on the CPU, and never read its test slice.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.optim import Adam

from shalab.corpus import assets_dir
from shalab.device import Precision
from shalab.evaluate import charges, evaluate
from shalab.laboratory.feedforward import with_feed_forward
from shalab.laboratory.search import open_corpus, updates
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, ModelConfig
from shalab.optim import Lamb
from shalab.presets import find_preset
from shalab.train import EvalEvent, NonFiniteError, TrainConfig, Trainer

# One head in the first of two blocks; no dropout, since no byte is seen twice.
_SMALL = ModelConfig(
    d_model=64, d_boom=256, n_layers=2, attention_layers=(0,), max_context=128,
    dropout=0.0, dropout_input=0.0, dropout_hidden=0.0,
)  # fmt: skip
_SHORT = TrainConfig(
    bptt=32, vary_bptt=False, lr=1e-2, schedule="cosine", warmup_steps=30, restart_from_best=False,
    evaluations=1, sample_bytes=0,
)  # fmt: skip

OPTIMIZERS = {
    "Adam": lambda params: Adam(params),
    "LAMB": lambda params: Lamb(params, min_trust=None),
    "min-trust LAMB": lambda params: Lamb(params, min_trust=0.25),
}


def small_trainer(
    optimizer: str, steps: int, seed: int = 0, *, lr: float, warmup_steps: int = 0, init_scale: float = 0.1
) -> Trainer:
    """A small SHA-RNN at the paper's initialisation, before its first update by one of OPTIMIZERS."""
    torch.manual_seed(seed)
    model = SHARNN(replace(_SMALL, init_scale=init_scale))
    recipe = replace(_SHORT, lr=lr, warmup_steps=warmup_steps)
    trainer = Trainer(model, open_corpus(), recipe, Precision.pick("cpu", "float32"), steps, seed)
    trainer.optimizer = OPTIMIZERS[optimizer](model.parameters())  # each update sets its learning rate
    return trainer


def finish(trainer: Trainer) -> list[float]:
    """Bits per byte of each update up to the last, or up to the one whose loss or gradient is no number."""
    losses = []
    while trainer.step < trainer.total_steps:
        try:
            losses.append(trainer.update().loss_nats / NATS_PER_BIT)
        except NonFiniteError:
            break
    return losses


def lamb(
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    warmups: tuple[int, ...] = (0, 15, 75),
    init_scales: tuple[float, ...] = (0.1, 1.0),
    steps: int = 150,
) -> dict:
    """How far each optimizer comes in so many updates, for every learning rate, warm-up and initialisation.

    bpc[optimizer][init_scale]: a row per warm-up and a column per learning rate; bits per byte of the last
    tenth of the updates, none of whose text was seen before; None where training broke off.
    """
    grids = {name: {str(init_scale): [] for init_scale in init_scales} for name in OPTIMIZERS}
    for name, by_scale in grids.items():
        for init_scale in init_scales:
            for warmup_steps in warmups:
                row = []
                for lr in lrs:
                    trainer = small_trainer(name, steps, lr=lr, warmup_steps=warmup_steps, init_scale=init_scale)
                    losses = finish(trainer)
                    tail = losses[-(steps // 10) :]
                    row.append(round(sum(tail) / len(tail), 3) if len(losses) == steps else None)
                print(name, init_scale, warmup_steps, row, flush=True)
                by_scale[str(init_scale)].append(row)
    return {"steps": steps, "lrs": lrs, "warmups": warmups, "init_scales": init_scales, "bpc": grids}


def trust(steps: int = 600, recorded: int = 10) -> dict:
    """A longer run of min-trust LAMB at the paper's initialisation: its trust events as lines of metrics.jsonl."""
    trainer, lines = small_trainer("min-trust LAMB", steps, lr=1e-2), []
    while trainer.step < steps:
        trainer.update()
        if trainer.step * recorded % steps == 0:
            tensors = {  # float32 has eight digits
                name: [float(f"{value:.8g}") for value in values] for name, values in trainer.trust().tensors.items()
            }
            lines.append({"event": "trust", "step": trainer.step, "tensors": tensors})
    return {"lines": lines}


def _trainer(model: SHARNN, steps: int, seed: int) -> Trainer:
    recipe = replace(_SHORT, bptt=64)
    return Trainer(model, open_corpus(), recipe, Precision.pick("cpu", "float32"), steps, seed)


def boom(d_model: int = 96, steps: int = 600, seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """The same small model with Boom, with a feed-forward layer as wide, and with one of as many parameters.

    A row per layer: d_inner, n_parameters of the model, valid_bpc per seed.
    """
    config = replace(_SMALL, d_model=d_model, d_boom=4 * d_model, max_context=256, init_scale=1.0)
    layers = {
        "Boom": lambda model: model,
        "feed-forward, as wide": lambda model: with_feed_forward(model, 4 * d_model),
        "feed-forward, as many parameters": lambda model: with_feed_forward(model, 2 * d_model),
    }
    rows = []
    for name, change in layers.items():
        scores = []
        for seed in seeds:
            torch.manual_seed(seed)
            model = change(SHARNN(config))
            trainer = _trainer(model, steps, seed)
            finish(trainer)
            scores.append(round(trainer.evaluate().valid_bpc, 3))
        rows.append(
            {"layer": name, "d_inner": model.blocks[0].boom.widen.out_features, "n_parameters": model.n_parameters,
             "valid_bpc": scores}
        )  # fmt: skip
        print(rows[-1], flush=True)
    return {"d_model": d_model, "n_bytes": trainer.n_bytes, "seeds": seeds, "rows": rows}


def value_gate(steps: int = 600, every: int = 5, seeds: tuple[int, ...] = (0, 1, 2)) -> dict:
    """The same small model with its value vector trained through the matrix and trained bare, from equal values.

    steps   at which the path is recorded
    rows    n_parameters, valid_bpc per seed; of the first seed the path, the gate's first 8 numbers at every
            recorded step, and the gate (D,) at the end
    """
    rows = {}
    for name in ("over-parameterised", "bare"):
        scores, path = [], []
        for seed in seeds:
            torch.manual_seed(seed)
            model = SHARNN(replace(_SMALL, max_context=256, init_scale=1.0))
            if name == "bare":
                model.collapse()  # the same function, without what would train it
            trainer = _trainer(model, steps, seed)
            gate = model.blocks[0].attention.value_gate
            while trainer.step < steps:
                if seed == seeds[0] and trainer.step % every == 0:
                    path.append(_rounded(gate()[:8]))
                trainer.update()
            if seed == seeds[0]:
                path.append(_rounded(gate()[:8]))
                last = _rounded(gate())
            scores.append(round(trainer.evaluate().valid_bpc, 3))
        rows[name] = {"n_parameters": model.n_parameters, "valid_bpc": scores, "path": path, "gate": last}
        print(name, scores, flush=True)
    return {"steps": list(range(0, steps + 1, every)), "rows": rows}


def backoff(steps: int = 800, seeds: tuple[int, ...] = (0, 1)) -> dict:
    """A small model with a head, the same one read with its memory dropped, one that never had a head, and one whose
    head started as a copier.

    valid_bpc[reading]: a number per seed.
    """
    config = replace(_SMALL, max_context=256, init_scale=1.0)
    trained = (
        (config, ("with its memory", "memory dropped")),
        (replace(config, attention_layers=()), ("trained without a head",)),
        (replace(config, induction=True), ("started as a copier",)),
    )
    scores = {name: [] for _, readings in trained for name in readings}
    for seed in seeds:
        for start, readings in trained:
            torch.manual_seed(seed)
            model = SHARNN(start)
            trainer = _trainer(model, steps, seed)
            finish(trainer)
            begin, end = trainer.corpus.bounds["valid"]
            for name in readings:
                model.max_context = 0 if name == "memory dropped" else config.max_context
                window = 1 if name == "memory dropped" else 64  # a window always sees all of itself
                bpc = evaluate(
                    model, trainer.corpus.data, begin, end, trainer.precision,
                    window=window, n_streams=50, context=512,
                )  # fmt: skip
                scores[name].append(round(bpc, 3))
                print(seed, name, scores[name][-1], flush=True)
    return {"n_bytes": trainer.n_bytes, "seeds": seeds, "valid_bpc": scores}


def induction(n_bytes: int = 1_200_000, seeds: tuple[int, ...] = (0, 1), evaluations: int = 8) -> dict:
    """The laptop preset from the paper's initialisation, at the learning rate that the search found for it, and as it
    is, with a head that starts as a copier.

    curves[start]: per seed a list of (bytes read, valid bits per byte).
    """
    preset = find_preset("laptop")
    recipe = replace(preset.train, sample_bytes=0, evaluations=evaluations)
    steps = updates(n_bytes, recipe)
    starts = {"as the paper": (False, 1e-2), "as a copier": (True, recipe.lr)}
    curves = {name: [] for name in starts}
    for seed in seeds:
        for name, (copier, lr) in starts.items():
            torch.manual_seed(seed)
            model = SHARNN(replace(preset.model, induction=copier))
            trainer = Trainer(model, open_corpus(), replace(recipe, lr=lr), Precision.pick("cpu"), steps, seed)
            scores = [event for event in trainer.events() if isinstance(event, EvalEvent)]
            curves[name].append([(score.n_bytes, round(score.valid_bpc, 3)) for score in scores])
            print(seed, name, curves[name][-1][-1], flush=True)
    return {"seeds": seeds, "lr": {name: lr for name, (_, lr) in starts.items()}, "curves": curves}


def cuts(steps: int = 600, seeds: tuple[int, ...] = (0, 1, 2), window: int = 64) -> dict:
    """A small model without attention, trained twice: its LSTMs' state is carried from window to window, or every
    window starts from zeros. Each is then read both ways on the first 49,152 bytes of the valid split.

    by_place[trained][read]: per seed the mean bits of the first, second, ... byte of a window.
    """
    config = replace(_SMALL, attention_layers=(), init_scale=1.0)
    ways = ("carried", "cut")
    by_place = {trained: {read: [] for read in ways} for trained in ways}
    for seed in seeds:
        for trained in ways:
            torch.manual_seed(seed)
            trainer = _trainer(SHARNN(config), steps, seed)
            while trainer.step < steps:
                if trained == "cut":
                    trainer.state = None
                trainer.update()
            begin, _ = trainer.corpus.bounds["valid"]
            scored = trainer.model, trainer.corpus.data, begin, begin + 49_152, trainer.precision, window
            (cut,) = charges(*scored, n_streams=49_152 // window, context=0)  # (T, S)
            carried = torch.cat(list(charges(*scored, n_streams=16, context=1024)), 1)
            for read, nats in (("carried", carried), ("cut", cut)):
                by_place[trained][read].append(_rounded(nats.mean(1) / NATS_PER_BIT))
                print(seed, trained, read, f"{nats.mean() / NATS_PER_BIT:.3f}", flush=True)
    return {"n_bytes": trainer.n_bytes, "window": window, "seeds": seeds, "by_place": by_place}


def _rounded(x: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in x.tolist()]


EXPERIMENTS: dict[str, Callable[[], dict]] = {
    "backoff": backoff, "boom": boom, "cuts": cuts, "induction": induction, "lamb": lamb, "trust": trust,
    "value_gate": value_gate,
}  # fmt: skip


def result(name: str) -> dict:
    """The file of results that comes with the course."""
    return json.loads((assets_dir() / "results" / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = EXPERIMENTS[options.name]()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**found, "threads": torch.get_num_threads()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
