"""What the notebooks show and a reader should not have to wait for. Each experiment writes one file of results:

python -m shalab.laboratory.experiments boom --out assets/results/boom.json

All of them train on enwik6 with fixed seeds, on the CPU unless they say otherwise, and none sees its test split before
training is over. FILE.parts, beside the file, keeps what is done so far, and the same command continues from there.
Delete it when the experiment has changed.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam

from shalab.bundled import stored_result
from shalab.corpus import load_corpus
from shalab.device import Precision
from shalab.evaluate import charges, evaluate
from shalab.laboratory.feedforward import with_feed_forward
from shalab.laboratory.search import open_corpus, updates
from shalab.metrics import NATS_PER_BIT
from shalab.model import SHARNN, ModelConfig
from shalab.optim import Lamb
from shalab.presets import find_preset
from shalab.train import EvalEvent, NonFiniteError, TrainConfig, Trainer

Part = Callable[[str, Callable[[], Any]], Any]  # a part's name and what computes it -> its result


def told(name: str, compute: Callable[[], Any]) -> Any:
    """Keeps nothing, but says which part is computed, and how long it took."""
    began = time.monotonic()
    print(f"{name} ...", end=" ", flush=True)
    result = compute()
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    return result


def kept(path: Path) -> Part:
    """Keeps each part's result in a file as soon as it is there; none that the file holds is computed again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(done), encoding="utf-8")  # a folder that cannot be written to says so before the work

    def part(name: str, compute: Callable[[], Any]) -> Any:
        if name not in done:
            done[name] = compute()
            written = path.with_suffix(".new")
            written.write_text(json.dumps(done), encoding="utf-8")
            written.replace(path)
        print(name, str(done[name])[-100:], flush=True)
        return done[name]

    return part


# One head in the first of two blocks; no dropout, since no byte is seen twice.
_SMALL = ModelConfig(
    d_model=64, d_boom=256, n_layers=2, attention_layers=(0,), max_context=128,
    dropout=0.0, dropout_input=0.0, dropout_hidden=0.0,
)  # fmt: skip
_SHORT = TrainConfig(
    bptt=32, vary_bptt=False, lr=1e-2, schedule="cosine", warmup_steps=30, restart_from_best=False,
    evaluations=1, sample_bytes=0,
)  # fmt: skip

READING = {"window": 64, "n_streams": 50, "context": 1024}

# As a floor it is above every ratio: all tensors take the same multiple of Adam's direction without bias correction.
_ABOVE_ALL = 2.0**30

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
    part: Part = told,
) -> dict:
    """How far each optimizer comes in so many updates, for every learning rate, warm-up and initialisation.

    bpc[optimizer][init_scale]: a row per warm-up and a column per learning rate; bits per byte of the last
    tenth of the updates, none of whose text was seen before; None where training broke off.
    """

    def run(name: str, init_scale: float, warmup_steps: int, lr: float) -> float | None:
        trainer = small_trainer(name, steps, lr=lr, warmup_steps=warmup_steps, init_scale=init_scale)
        return _tail(finish(trainer), steps)

    def field(*place) -> float | None:
        return part(", ".join(map(str, place)), partial(run, *place))

    grids = {
        name: {
            str(scale): [[field(name, scale, warmup, lr) for lr in lrs] for warmup in warmups] for scale in init_scales
        }
        for name in OPTIMIZERS
    }
    return {"steps": steps, "lrs": lrs, "warmups": warmups, "init_scales": init_scales, "bpc": grids}


def lamb_control(
    steps: int = 150, seeds: tuple[int, ...] = (0, 1, 2), long_steps: int = 600, part: Part = told
) -> dict:
    """What the grid of `lamb` leaves open, in its bits per byte.

    best[optimizer][init_scale]: the lowest field's lr and warmup, and bpc per seed
    uncorrected[init_scale]: the first row's learning rates, of Adam without bias correction at a quarter of each
    longer[optimizer]: the run of `trust`, by LAMB with the floor and by Adam at a quarter of the rate, without bias
    correction, with it, and with Adam's own epsilon instead of LAMB's: per seed learning, valid and test
    """
    grid = stored_result("lamb")

    def run(optimizer: str, lr: float, warmup_steps: int, init_scale: str, seed: int = 0) -> float | None:
        trainer = small_trainer(
            optimizer, steps, seed, lr=lr, warmup_steps=warmup_steps, init_scale=float(init_scale)
        )  # fmt: skip
        return _tail(finish(trainer), steps)

    best = {name: {} for name in OPTIMIZERS}
    for name, by_scale in grid["bpc"].items():
        for scale, rows in by_scale.items():
            _, lr, warmup_steps = min(
                (bpc, lr, warmup_steps)
                for warmup_steps, row in zip(grid["warmups"], rows, strict=True)
                for lr, bpc in zip(grid["lrs"], row, strict=True)
                if bpc is not None
            )
            bpc = [
                part(f"{name}, {scale}, seed {seed}", partial(run, name, lr, warmup_steps, scale, seed))
                for seed in seeds
            ]
            best[name][scale] = {"lr": lr, "warmup": warmup_steps, "bpc": bpc}

    def uncorrected_adam(steps: int, seed: int, lr: float, init_scale: float = 0.1) -> Trainer:
        trainer = small_trainer("min-trust LAMB", steps, seed, lr=lr / _ABOVE_ALL, init_scale=init_scale)
        trainer.optimizer.param_groups[0]["min_trust"] = _ABOVE_ALL
        return trainer

    def corrected_adam(steps: int, seed: int, lr: float) -> Trainer:
        trainer = small_trainer("Adam", steps, seed, lr=lr)
        trainer.optimizer.param_groups[0]["eps"] = 1e-6
        return trainer

    def uncorrected_run(lr: float, init_scale: str) -> float | None:
        return _tail(finish(uncorrected_adam(steps, 0, lr / 4, float(init_scale))), steps)

    def long_run(make: Callable[[int], Trainer], seed: int) -> dict:
        trainer = make(seed)
        learning = _tail(finish(trainer), long_steps)
        return {"learning": learning, **_scores(trainer)}

    uncorrected = {
        scale: [part(f"uncorrected, {scale}, lr {lr}", partial(uncorrected_run, lr, scale)) for lr in grid["lrs"]]
        for scale in map(str, grid["init_scales"])
    }
    longer = {
        "min-trust LAMB, 1e-2": lambda seed: small_trainer("min-trust LAMB", long_steps, seed, lr=1e-2),
        "Adam without bias correction, 2.5e-3": lambda seed: uncorrected_adam(long_steps, seed, 2.5e-3),
        "the same with bias correction": lambda seed: corrected_adam(long_steps, seed, 2.5e-3),
        "the same with epsilon 1e-8": lambda seed: small_trainer("Adam", long_steps, seed, lr=2.5e-3),
    }
    runs = [(seed, name, part(f"{name}, {long_steps} updates, seed {seed}", partial(long_run, make, seed)))
            for seed in seeds for name, make in longer.items()]  # fmt: skip
    longer = {name: [run for _, of, run in runs if of == name] for name in longer}
    return {"steps": steps, "seeds": seeds, "best": best, "uncorrected": uncorrected,
            "long_steps": long_steps, "longer": longer}  # fmt: skip


def lamb_laptop(n_bytes: int = 1_200_000, seeds: tuple[int, ...] = (0, 1, 2), part: Part = told) -> dict:
    """The laptop preset by its own optimizer, and by Adam without bias correction at a quarter of the rate.

    scores[optimizer]: valid and test per seed
    """
    preset = find_preset("laptop")
    recipe = replace(preset.train, sample_bytes=0)
    recipes = {
        "min-trust LAMB, 5e-3": recipe,
        "Adam without bias correction, 1.25e-3": replace(recipe, lr=recipe.lr / 4 / _ABOVE_ALL, min_trust=_ABOVE_ALL),
    }

    def run(name: str, seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        steps, precision = updates(n_bytes, recipe), Precision.pick("cpu")
        trainer = Trainer(SHARNN(preset.model), open_corpus(), recipes[name], precision, steps, seed)
        finish(trainer)
        return _scores(trainer)

    runs = [(name, part(f"{name}, seed {seed}", partial(run, name, seed))) for seed in seeds for name in recipes]
    scores = {name: [run for of, run in runs if of == name] for name in recipes}
    return {"n_bytes": n_bytes, "seeds": seeds, "scores": scores}


def _tail(losses: list[float], steps: int) -> float | None:
    """Mean of the last tenth of `steps`; None if training broke off."""
    tail = losses[-(steps // 10) :]
    return round(sum(tail) / len(tail), 3) if len(losses) == steps else None


def trust(steps: int = 600, recorded: int = 10, part: Part = told) -> dict:
    """A longer run of min-trust LAMB at the paper's initialisation: its trust events as lines of metrics.jsonl."""

    def run() -> list[dict]:
        trainer, lines = small_trainer("min-trust LAMB", steps, lr=1e-2), []
        while trainer.step < steps:
            trainer.update()
            if trainer.step * recorded % steps == 0:
                tensors = {  # float32 has eight digits
                    name: [float(f"{value:.8g}") for value in values]
                    for name, values in trainer.trust().tensors.items()
                }
                lines.append({"event": "trust", "step": trainer.step, "tensors": tensors})
        return lines

    return {"lines": part("run", run)}


def without_head(model: SHARNN) -> SHARNN:
    """Takes the head out, and the norms before and beside it, in place; the LSTMs stay as they were set."""
    for block in model.blocks:
        if block.attention is not None:
            block.attention = None
            del block.norm_mid, block.norm_memory
    return model


def _trainer(model: SHARNN, steps: int, seed: int) -> Trainer:
    recipe = replace(_SHORT, bptt=64)
    return Trainer(model, open_corpus(), recipe, Precision.pick("cpu", "float32"), steps, seed)


def boom(d_model: int = 96, steps: int = 600, seeds: tuple[int, ...] = (0, 1, 2), part: Part = told) -> dict:
    """The same small model with Boom, with a feed-forward layer as wide, and with one of as many parameters.

    A row per layer: d_inner, n_parameters of the model, valid_bpc per seed.
    """
    config = replace(_SMALL, d_model=d_model, d_boom=4 * d_model, max_context=256, init_scale=1.0)
    layers = {
        "Boom": lambda model: model,
        "feed-forward, as wide": lambda model: with_feed_forward(model, 4 * d_model),
        "feed-forward, as many parameters": lambda model: with_feed_forward(model, 2 * d_model),
    }

    def run(name: str, seed: int) -> dict:
        torch.manual_seed(seed)
        model = layers[name](SHARNN(config))
        trainer = _trainer(model, steps, seed)
        finish(trainer)
        return {
            "d_inner": model.blocks[0].boom.widen.out_features, "n_parameters": model.n_parameters,
            "n_bytes": trainer.n_bytes, "valid_bpc": round(trainer.evaluate().valid_bpc, 3),
        }  # fmt: skip

    rows = []
    for name in layers:
        runs = [part(f"{name}, seed {seed}", partial(run, name, seed)) for seed in seeds]
        rows.append({"layer": name, **runs[0], "valid_bpc": [found["valid_bpc"] for found in runs]})
    return {"d_model": d_model, "n_bytes": rows[0].pop("n_bytes"), "seeds": seeds, "rows": rows}


def value_gate(steps: int = 600, every: int = 5, seeds: tuple[int, ...] = (0, 1, 2), part: Part = told) -> dict:
    """The same small model with its value vector trained through the matrix and trained bare, from equal values.

    steps   at which the path is recorded
    rows    n_parameters, valid_bpc per seed; of the first seed the path, the gate's first 8 numbers at every
            recorded step, and the gate (D,) at the end
    """

    def run(name: str, seed: int) -> dict:
        torch.manual_seed(seed)
        model = SHARNN(replace(_SMALL, max_context=256, init_scale=1.0))
        if name == "bare":
            model.collapse()  # the same function, without what would train it
        trainer, path = _trainer(model, steps, seed), []
        gate = model.blocks[0].attention.value_gate
        while trainer.step < steps:
            if trainer.step % every == 0:
                path.append(_rounded(gate()[:8]))
            trainer.update()
        path.append(_rounded(gate()[:8]))
        return {
            "n_parameters": model.n_parameters, "valid_bpc": round(trainer.evaluate().valid_bpc, 3), "path": path,
            "gate": _rounded(gate()),
        }  # fmt: skip

    rows = {}
    for name in ("over-parameterised", "bare"):
        runs = [part(f"{name}, seed {seed}", partial(run, name, seed)) for seed in seeds]
        rows[name] = {**runs[0], "valid_bpc": [found["valid_bpc"] for found in runs]}
    return {"steps": list(range(0, steps + 1, every)), "rows": rows}


def backoff(
    n_bytes: int = 1_200_000,
    seeds: tuple[int, ...] = (0, 1, 2),
    lrs: tuple[float, ...] = (2.5e-3, 5e-3, 1e-2, 2e-2),
    part: Part = told,
) -> dict:
    """The laptop preset with a head and without, with the copier's start and without it ("the paper's"), each at every
    rate, on a GPU if there is one.

    runs: start, lr, seed, n_parameters and device; valid and test, and if there is a head, both with a silent one.
    """
    preset = find_preset("laptop")
    recipe = replace(preset.train, sample_bytes=0)
    steps = updates(n_bytes, recipe)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else Precision.pick().device.type
    starts = {
        "the paper's": replace(preset.model, induction=False),
        "the paper's, no head": replace(preset.model, induction=False, attention_layers=()),
        "a copier": preset.model,
        "a copier that sees its window only": replace(preset.model, max_context=0),
        "a copier's LSTMs, no head": preset.model,
    }

    def run(name: str, lr: float, seed: int) -> dict:
        torch.manual_seed(seed)
        model = SHARNN(starts[name])
        if name == "a copier's LSTMs, no head":
            without_head(model)
        trainer = Trainer(model, open_corpus(), replace(recipe, lr=lr), Precision.pick(), steps, seed)
        finish(trainer)
        found = {"start": name, "lr": lr, "seed": seed, "n_parameters": model.n_parameters, "device": device}
        found |= _scores(trainer)
        if heads := [block.attention for block in model.collapse().blocks if block.attention is not None]:
            for head in heads:
                head.value_gate.vector.data.zero_()
            found["silent"] = _scores(trainer)
        return found

    arms = [(name, lr, seed) for seed in seeds for name in starts for lr in lrs]
    runs = [part(f"{name}, {lr:g}, seed {seed}", partial(run, name, lr, seed)) for name, lr, seed in arms]
    return {"n_bytes": n_bytes, "seeds": seeds, "runs": runs}


def _scores(trainer: Trainer) -> dict[str, float]:
    """Valid and test, in windows of 64: a head without memory sees no more than while it learned."""
    corpus = load_corpus("enwik6")
    return {
        split: round(evaluate(trainer.model, corpus.data, *corpus.bounds[split], trainer.precision, **READING), 4)
        for split in ("valid", "test")
    }


def induction(
    n_bytes: int = 1_200_000, seeds: tuple[int, ...] = (0, 1), evaluations: int = 8, part: Part = told
) -> dict:
    """The laptop preset as it is, with a head that starts as a copier, and without the copier. Its rate was found at
    these settings, the other's with dropout 0.1 and windows of 128.

    curves[start]: per seed a list of (bytes read, valid bits per byte).
    """
    preset = find_preset("laptop")
    recipe = replace(preset.train, sample_bytes=0, evaluations=evaluations)
    steps = updates(n_bytes, recipe)
    starts = {"as the paper": (False, 1e-2), "as a copier": (True, recipe.lr)}

    def run(name: str, seed: int) -> list[tuple[int, float]]:
        copier, lr = starts[name]
        torch.manual_seed(seed)
        model = SHARNN(replace(preset.model, induction=copier))
        trainer = Trainer(model, open_corpus(), replace(recipe, lr=lr), Precision.pick("cpu"), steps, seed)
        scores = [event for event in trainer.events() if isinstance(event, EvalEvent)]
        return [(score.n_bytes, round(score.valid_bpc, 3)) for score in scores]

    curves = {name: [part(f"{name}, seed {seed}", partial(run, name, seed)) for seed in seeds] for name in starts}
    return {"seeds": seeds, "lr": {name: lr for name, (_, lr) in starts.items()}, "curves": curves}


def cuts(
    steps: int = 600, seeds: tuple[int, ...] = (0, 1, 2), window: int = 64, n_read: int = 49_152, part: Part = told
) -> dict:
    """A small model without attention, trained twice: its LSTMs' state is carried from window to window, or every
    window starts from zeros. Each is then read both ways on the first `n_read` bytes of the valid split.

    by_place[trained][read]: per seed the mean bits of the first, second, ... byte of a window.
    """
    config = replace(_SMALL, attention_layers=(), init_scale=1.0)
    ways = ("carried", "cut")

    def run(trained: str, seed: int) -> dict[str, list[float]]:
        torch.manual_seed(seed)
        trainer = _trainer(SHARNN(config), steps, seed)
        while trainer.step < steps:
            if trained == "cut":
                trainer.state = None
            trainer.update()
        begin, _ = trainer.corpus.bounds["valid"]
        scored = trainer.model, trainer.corpus.data, begin, begin + n_read, trainer.precision, window
        (cut,) = charges(*scored, n_streams=n_read // window, context=0)  # (T, S)
        carried = torch.cat(list(charges(*scored, n_streams=16, context=1024)), 1)
        return {read: _rounded(nats.mean(1) / NATS_PER_BIT) for read, nats in (("carried", carried), ("cut", cut))}

    runs = [(way, part(f"trained {way}, seed {seed}", partial(run, way, seed))) for seed in seeds for way in ways]
    by_place = {way: {read: [run[read] for of, run in runs if of == way] for read in ways} for way in ways}
    return {"n_bytes": steps * 16 * 64, "window": window, "seeds": seeds, "by_place": by_place}


def _rounded(x: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in x.tolist()]


EXPERIMENTS: dict[str, Callable[..., dict]] = {
    "backoff": backoff, "boom": boom, "cuts": cuts, "induction": induction, "lamb": lamb,
    "lamb_control": lamb_control, "lamb_laptop": lamb_laptop, "trust": trust, "value_gate": value_gate,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    parts = options.out.with_suffix(".parts")
    try:
        part = kept(parts)
    except OSError as error:
        parser.error(f"nothing can be written to {options.out.parent} ({error}); give --out in another folder")
    found = EXPERIMENTS[options.name](part=part)
    made = {
        "command": f"python -m shalab.laboratory.experiments {options.name}", "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }  # fmt: skip
    options.out.write_text(json.dumps({**found, **made}, indent=1) + "\n", encoding="utf-8")
    parts.unlink()


if __name__ == "__main__":
    main()
