"""shalab info: what is here."""

import torch

from shalab.checkpoint import load_checkpoint, model_config
from shalab.commands import Command, add_machine
from shalab.corpus import SOURCES, load_corpus
from shalab.device import Precision, threads
from shalab.door import TRICKS
from shalab.errors import InputError
from shalab.files import as_json
from shalab.presets import PRESETS
from shalab.shapes import n_parameters


def define(command: Command) -> None:
    info = command("info", info_command, "show presets, corpora and this machine; or what a run holds")
    add_machine(info)
    info.add_argument("run", nargs="?", help="a run's folder, or a checkpoint file")


def info_command(options) -> None:
    if options.run:
        content = load_checkpoint(options.run)
        model_config(content, options.run)
        facts = {"step": content.get("step"), "best_valid_bpc": content.get("best_bpc"), **content["config"]}
        print(as_json(facts, indent=2))
        return
    precision = Precision.pick(options.device, options.dtype)
    print(f"device: {precision}, {threads()}, torch {torch.__version__}")
    for trick in TRICKS.values():
        print(f"trick {trick.name}: {'on' if trick.on else 'off'}, {trick.where}; {trick.gain}")
    for name, preset in PRESETS.items():
        size = f"width {preset.model.d_model}, {preset.model.n_layers} blocks"
        print(f"preset {name}: {n_parameters(preset.model):,} parameters, {size}, {preset.budget}")
    for name, source in SOURCES.items():
        try:
            load_corpus(name)
            state = "verified"
        except InputError:
            state = f"not here: shalab data {name}"
        print(f"corpus {name}: {source.n_bytes:,} bytes, {state}")
