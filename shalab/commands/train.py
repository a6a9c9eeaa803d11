"""shalab train: a run, from its options to its end."""

import argparse
import inspect
import itertools
import json
import os
import re
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from shalab.background import stop_on_interrupt
from shalab.checkpoint import load_checkpoint, model_config
from shalab.commands import Command, add_machine
from shalab.corpus import STDIN
from shalab.device import Precision
from shalab.errors import InputError
from shalab.events import as_line
from shalab.model import ModelConfig
from shalab.parallel import Team, lost
from shalab.presets import MOST, PRESETS, Budget, TrainConfig, find_preset
from shalab.process import keep_freed_memory
from shalab.run import Run, other_model
from shalab.run_config import CHANGEABLE, RunConfig, differing, to_resume

CONFIGS = {"model": ModelConfig, "train": TrainConfig}


def define(command: Command) -> None:
    usage = (
        "shalab train [--preset PRESET] [--data NAME_OR_PATH] [--out DIR] [--resume]\n"
        "                    [--minutes X | --steps N | --epochs E] [OPTION ...]"
    )
    train = command("train", train_command, "train a model; without options, the preset laptop on enwik6", usage=usage)
    add = train.add_argument_group("what is trained").add_argument
    add("--preset", help=f"recipe: {', '.join(PRESETS)} (default: laptop)")
    add("--config", metavar="FILE", help="TOML or JSON with fields of [model] and [train], such as a run's config.json")
    add("--data", metavar="NAME_OR_PATH", help="corpus, file, folder, or - for standard input (default: enwik6)")
    add("--init-from", metavar="RUN_OR_MODEL", help="start from the best weights of a run or an export, with its model")
    add("--seed", type=int, metavar="S", help="random seed: first weights, dropout, window lengths (default: 0)")
    add = train.add_argument_group("how long (default: as the preset says)").add_mutually_exclusive_group().add_argument
    add("--minutes", type=float, metavar="X", help="train for X minutes, not counting evaluations")
    add("--steps", type=int, metavar="N", help="train for N updates")
    add("--epochs", type=float, metavar="E", help="train for E passes over the training split")
    add = train.add_argument_group("the run's folder").add_argument
    add("--out", metavar="DIR", help="where it is (default: runs/PRESET-DATA-NUMBER, a new one)")
    add("--resume", action="store_true", help="continue the run in --out from its last checkpoint")
    add("--change", action="store_true", help="with --resume: continue with the length and settings given here")
    add_machine(train.add_argument_group("the machine"))
    for name, config in CONFIGS.items():
        _add_fields(train.add_argument_group(f"[{name}] in a --config file (default: the preset's values)"), config)


def _add_fields(group, config: type) -> None:
    """An option for each field of a dataclass, explained by the class's docstring."""
    text = re.sub(r"\n {2,}", " ", inspect.getdoc(config) or "")  # an explanation's further lines are indented
    explained = dict(re.findall(r"^(\w+) +(.+)$", text, re.MULTILINE))
    kinds: dict[Any, dict[str, Any]] = {
        int: {"type": int, "metavar": "N"},
        float: {"type": float, "metavar": "X"},
        float | None: {"type": number_or_none, "metavar": "X"},
        str: {"metavar": "NAME"},
        bool: {"action": argparse.BooleanOptionalAction},
        tuple[int, ...]: {"type": int, "nargs": "*", "metavar": "N"},
    }
    for field in fields(config):
        group.add_argument(
            f"--{field.name.replace('_', '-')}", default=argparse.SUPPRESS,
            help=explained[field.name].replace("%", "%%"), **kinds[field.type],
        )  # fmt: skip


def number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def train_command(options) -> int:
    team = Team.join()
    keep_freed_memory()
    with team.quiet():
        code = _train(options, team)
    team.leave(code)
    return code


def _train(options, team: Team) -> int:
    """The exit code: 0, or that of the signal that stopped the training."""
    from shalab.terminal import announce, report, show

    if options.change and not options.resume:
        raise InputError("--change goes with --resume: a new run has nothing to change")
    if team.size > 1 and not options.out:
        raise InputError("several processes need --out, the folder of their run")
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # by torchrun, after a process was lost
    options.resume |= restarted and options.out is not None and (Path(options.out) / "config.json").exists()
    run = _resumed(options, team) if options.resume else _created(options, team)
    announce(run)
    with stop_on_interrupt(run.stop):
        try:
            lines = map(as_line, run.events())
            show(run.folder, lines, run.trainer.step, run.config.total_steps, run.trainer.best_bpc)
        except RuntimeError as error:
            if lost(error):
                print(f"shalab: another process is gone ({error}); go on with --resume", file=sys.stderr)
                return 1
            if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
                raise
            from shalab.plan import savings

            ways = [f"{way} saves about {gb:.1f} GB" for way, gb in savings(run.config.model, run.config.train).items()]
            raise InputError(f"the device is out of memory; {'; '.join(ways)}. Name another --out") from error
        if team.first and run.trainer.finished and not run.stop.is_set():
            try:
                report(run, run.finish())
                return 0
            except InputError:
                if not run.stop.is_set():
                    raise
        if team.first:
            print(f"stopped at step {run.trainer.step:,}; go on with: {to_resume(run.folder)}")
        return 128 + run.stop.signal_number if run.stop.signal_number else 0


def _created(options, team: Team) -> Run:
    precision = Precision.pick(options.device, options.dtype, team)
    name = options.preset or "laptop"
    preset = find_preset(name)
    changes = _changes(options)
    try:
        if options.init_from and (asked := changes.pop("model")):
            source = model_config(load_checkpoint(options.init_from), options.init_from)
            if others := ", ".join(other_model(asked, source)):
                kept = f"--init-from keeps to the model of {options.init_from}, which has {others}"
                raise InputError(f"{kept}: leave that option out")
            replace(source, **asked)  # a field that no model has
        parts = {part: replace(getattr(preset, part), **fields) for part, fields in changes.items()}
    except TypeError as error:
        raise InputError(f"--config {options.config}: {error}") from error
    given = _given(options, "minutes", "steps", "epochs")
    budget = Budget(**given) if given else None
    data = options.data or "enwik6"
    called = "stdin" if data == STDIN else Path(data).resolve().name
    folder = Path(options.out) if options.out else _next_folder(f"{name}-{called}")
    preset = replace(preset, **parts)
    return Run.create(folder, name, preset, data, options.seed or 0, budget, precision, options.init_from)


def _given(options, *names: str) -> dict:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _changes(options) -> dict[str, dict]:
    """The fields of the model's and the training's configuration that --config and the options change."""
    changes: dict[str, dict] = {part: {} for part in CONFIGS}
    if options.config:
        path = Path(options.config)
        try:
            text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
            for part, values in changes.items():  # TOML has no None
                values |= {name: None if x == "none" else x for name, x in content.get(part, {}).items()}
            if unknown := content.keys() - {field.name for field in fields(RunConfig)}:  # else lost without a word
                strays = ", ".join(sorted(unknown))
                raise ValueError(f"expected fields in [model] and [train], got {strays} outside them")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"cannot read --config {path} ({getattr(error, 'strerror', None) or error})") from error
    for part, config in CONFIGS.items():
        changes[part] |= {field.name: vars(options)[field.name] for field in fields(config) if field.name in options}
    return changes


def _next_folder(stem: str) -> Path:
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{stem}-{n}").exists())


def _resumed(options, team: Team) -> Run:
    if not options.out:
        raise InputError("--resume needs --out, the folder of the run to go on with")
    changes = _changes(options)
    asked = _given(options, "preset", "seed", "minutes", "steps", "epochs") | changes["model"] | changes["train"]
    where = {"data": options.data, "device": options.device, "dtype": options.dtype, "team": team}
    run = Run.resume(options.out, **where, changes=asked if options.change else None)
    config = run.config
    if options.init_from:
        place, began = Path(options.init_from).resolve(), config.init_from.name if config.init_from else "drawn weights"
        if began not in (place.name, f"{place.parent.name}/{place.name}"):
            raise InputError(f"{run.folder} was begun with {began}: leave out --init-from, or name another --out")
    for name in differing(config.settings, asked):
        begun = f"{run.folder} was begun with {name} {config.settings.get(name)}, not {asked[name]}"
        change = ", or add --change to go on with it" if name in (*CHANGEABLE, *MOST) else ""
        raise InputError(f"{begun}: leave that option out, or name another --out{change}")
    return run
