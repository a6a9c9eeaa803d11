"""The command line: shalab data | train | watch | plan | eval | generate | compress | ... | lab | page | info."""

import argparse
import inspect
import itertools
import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from shalab.background import stop_on_interrupt
from shalab.bundled import assets_dir
from shalab.checkpoint import best_model, load_checkpoint, load_model, model_config
from shalab.corpus import CACHE_VARIABLE, SOURCES, SPLITS, STDIN, corpus_of_run, load_corpus, standard_input
from shalab.device import DEVICES, DTYPES, Precision, print_anything
from shalab.divergence import NonFiniteError
from shalab.door import TRICKS, plain
from shalab.download import fetch
from shalab.errors import InputError
from shalab.evaluate import evaluate
from shalab.fast.process import keep_freed_memory
from shalab.files import as_json, reading, replacing
from shalab.generate import as_text, generate
from shalab.model import SHARNN, ModelConfig, n_parameters
from shalab.parallel import Team, lost
from shalab.presets import MOST, PRESETS, Budget, TrainConfig, find_preset
from shalab.run import Run, other_model
from shalab.run_config import CHANGEABLE, differing

# What only shows, watches or plans is imported by the command that needs it.

CONFIGS = {"model": ModelConfig, "train": TrainConfig}
ASKS = {  # of `shalab watch`
    "pause": "ask its process to pause, with a checkpoint",
    "continue": "continue it; a run that no process trains is resumed here, in a process of its own",
    "stop": "ask its process to stop, with a checkpoint",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0 for success, 1 for numbers that were not finite, 2 for a mistake in what was asked for, 128 + N for signal N.
    """
    print_anything()
    options = parser().parse_args(arguments)
    try:
        with plain() if vars(options).get("plain") else nullcontext():
            return options.command(options) or 0
    except InputError as error:
        print(f"shalab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"shalab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shalab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    description = "Single Headed Attention RNN, from bytes to a trained model."
    top = argparse.ArgumentParser(prog="shalab", description=description)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, act: Callable, purpose: str, *parents: argparse.ArgumentParser, usage: str | None = None
    ) -> argparse.ArgumentParser:
        described = f"{purpose[0].upper()}{purpose[1:]}."
        new = commands.add_parser(name, help=purpose, description=described, parents=parents, usage=usage)
        new.set_defaults(command=act)
        return new

    machine = argparse.ArgumentParser(add_help=False)
    _add_machine(machine)

    trained = argparse.ArgumentParser(add_help=False)
    add = trained.add_argument
    add("run", help="a run's folder, or a checkpoint file")
    add("--max-context", type=int, metavar="K", help="most bytes that attention sees (default: as trained)")

    data = command("data", data_command, "download and verify a corpus")
    data.add_argument(
        "name", choices=SOURCES, help=f"which one; it goes into a cache folder, or the one that ${CACHE_VARIABLE} names"
    )

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
    _add_machine(train.add_argument_group("the machine"))
    for name, config in CONFIGS.items():
        _add_fields(train.add_argument_group(f"[{name}] in a --config file (default: the preset's values)"), config)

    watch = command("watch", watch_command, "follow a run that another process trains, here or on another machine")
    watch.add_argument("run", help="the run's folder")
    add = watch.add_mutually_exclusive_group().add_argument
    for name, effect in ASKS.items():
        add(f"--{name}", dest="ask", action="store_const", const=name, help=f"do not follow the run: {effect}")

    add = command(
        "plan", plan_command, "say what a preset's run costs here and on GPUs: memory, time, energy"
    ).add_argument
    add("--preset", default="paper", help="recipe (default: paper)")
    add("--data", default="enwik8", metavar="NAME_OR_PATH", help="corpus, file or folder (default: enwik8)")
    figures = "GB", "TFLOPS", "GB_PER_S"
    add("--card", type=float, nargs=3, metavar=figures, help="another card: memory, half-precision speed, bandwidth")

    add = command("eval", eval_command, "score a split or a file, in bits per byte", trained, machine).add_argument
    add("--data", metavar="NAME_OR_PATH", help="corpus, file, folder, or - (default: what it was trained on)")
    add("--split", choices=(*SPLITS, "all"), default="test", help="what to score (default: test)")
    add("--window", type=int, default=1024, metavar="T", help="bytes per step (default: 1024)")
    add(
        "--context",
        type=int,
        metavar="N",
        help="bytes to read before what is scored (default: 16384, or twice the memory)",
    )
    add("--streams", type=int, default=1, metavar="S", help="read it in S pieces side by side (default: 1)")
    add("--dynamic", action="store_true", help="learn from each byte after it is charged; valid is read before test")
    add("--mix", action="store_true", help="mix with counts of long contexts in all the text before; in one stream")

    text = command("generate", generate_command, "continue a prompt", trained, machine)
    add = text.add_mutually_exclusive_group().add_argument
    add("--prompt", default="\n", help="text to continue (default: a new line)")
    add("--prompt-file", metavar="FILE", help="file whose bytes are continued, text or not; - for standard input")
    add = text.add_argument
    add("--raw", action="store_true", help="write only the new bytes, as they are")
    add("--bytes", type=int, default=500, metavar="N", help="bytes to write (default: 500)")
    add("--temperature", type=float, default=0.8, metavar="X", help="0 takes the likeliest byte (default: 0.8)")
    add("--top-k", type=int, default=0, metavar="K", help="choose among the K likeliest bytes (default: all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="choose among the likeliest that sum to P (default: 1)")
    add("--seed", type=int, default=0, metavar="S", help="random seed (default: 0)")

    packing = argparse.ArgumentParser(add_help=False)
    packing.add_argument(
        "--model", metavar="RUN", help="whose predictions to use (default: the course's trained model)"
    )

    add = command("compress", compress_command, "pack a file by a model's predictions", packing, machine).add_argument
    add("file", help="what to pack, text or not")
    add("archive", help="a new file; the same model unpacks it, on a machine like this one")
    add(
        "--streams",
        type=int,
        metavar="S",
        help="pieces packed side by side (default: one per 100,000 bytes, at most 64)",
    )
    add(
        "--mix",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mix in counts of long contexts (default: yes)",
    )
    add("--learn", action="store_true", help="keep training on what has been read: a smaller archive, and far slower")

    add = command("decompress", decompress_command, "unpack an archive", packing, machine).add_argument
    add("archive", help="what `shalab compress` wrote")
    add("file", help="a new file")

    add = command(
        "export", export_command, "copy a finished run without what only resuming needs, to share it"
    ).add_argument
    add("run", help="a finished run's folder; for onnx and safetensors an unfinished one will do")
    add("out", help="a new folder or file; eval, generate and info read it like a run's folder, but not onnx")
    formats = "folder", "onnx", "safetensors"
    add("--format", choices=formats, default="folder", help="onnx, safetensors: one file for other programs")

    add = command("page", page_command, "write a model as one web page, in which it reads and writes").add_argument
    add("run", help="a run's folder, or an export's")
    add("out", help="a new HTML file, to open or to send to somebody")

    add = command("lab", lab_command, "compare small models of other kinds on enwik6, in half an hour").add_argument
    add("file", help="for the results; what it holds already is not trained again")
    add("--only", nargs="+", default=(), metavar="NAME", help="only these contestants, and those they are held against")
    add("--bytes", type=int, default=300_000, metavar="N", help="bytes that each of them reads (default: %(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: %(default)s)")
    add("--toy", action="store_true", help="models that learn next to nothing, in minutes")

    info = command("info", info_command, "show presets, corpora and this machine; or what a run holds", machine)
    info.add_argument("run", nargs="?", help="a run's folder, or a checkpoint file")
    return top


def _add_machine(group) -> None:
    add = group.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: auto, the fastest there is)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="format of matrix products (default: auto)")
    add(
        "--plain",
        action="store_true",
        help="compute by the plain equations, without the tricks that `shalab info` lists",
    )


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


def data_command(options) -> None:
    with tqdm(unit="B", unit_scale=True, desc=options.name, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = fetch(options.name, progress)
    print(f"{options.name}: verified, {f'at {path}' if path else 'embedded in the package'}")


def train_command(options) -> int:
    team = Team.join()
    keep_freed_memory()
    with team.quiet():
        code = _train(options, team)
    team.leave(code)
    return code


def _train(options, team: Team) -> int:
    """The exit code: 0, or that of the signal that stopped the training."""
    from shalab.terminal import announce, report, show_progress

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
            ended = show_progress(run)
        except RuntimeError as error:
            if lost(error):
                print(f"shalab: another process is gone ({error}); go on with --resume", file=sys.stderr)
                return 1
            if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
                raise
            from shalab.plan import savings

            ways = [f"{way} saves about {gb:.1f} GB" for way, gb in savings(run.config.model, run.config.train).items()]
            raise InputError(f"the device is out of memory; {'; '.join(ways)}. Name another --out") from error
        if team.first and ended.reason == "finished" and not run.stop.is_set():
            try:
                report(run, run.finish())
                return 0
            except InputError:
                if not run.stop.is_set():
                    raise
        if team.first:
            print(f"stopped at step {ended.step:,}; go on with: shalab train --resume --out {run.folder}")
        return 128 + run.stop.signal_number if run.stop.is_set() and run.stop.signal_number else 0


def _created(options, team: Team) -> Run:
    precision = Precision.pick(options.device, options.dtype, team)
    name = options.preset or "laptop"
    preset = find_preset(name)
    changes = _changes(options)
    try:
        if options.init_from and (asked := changes.pop("model")):
            source = model_config(load_checkpoint(options.init_from), options.init_from)
            if others := other_model(asked, source):
                raise InputError(
                    f"--init-from keeps to the model of {options.init_from}, which has {', '.join(others)}: "
                    "leave that option out"
                )
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
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
            for part, values in changes.items():  # TOML has no None
                values |= {name: None if x == "none" else x for name, x in content.get(part, {}).items()}
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
        change = ", or add --change to go on with it" if name in (*CHANGEABLE, *MOST) else ""
        raise InputError(
            f"{run.folder} was begun with {name} {config.settings.get(name)}, not {asked[name]}: leave that option "
            f"out, or name another --out{change}"
        )
    return run


def watch_command(options) -> None:
    from shalab.follow import Follower
    from shalab.terminal import watch

    if not options.ask:
        return watch(options.run)
    follower = Follower(options.run)
    {"pause": follower.pause, "continue": follower.proceed, "stop": follower.end}[options.ask]()


def plan_command(options) -> None:
    from shalab.terminal import show_plan

    keep_freed_memory()  # as training does
    show_plan(options.preset, options.data, options.card)


def eval_command(options) -> None:
    precision = Precision.pick(options.device, options.dtype)
    content = load_checkpoint(options.run)
    model = _prepared(best_model(content, options.run), options, precision)
    if options.data:
        corpus = load_corpus(options.data)
    else:  # not other bytes, whose test split could contain some that it has learned
        folder = Path(options.run) if os.path.isdir(options.run) else Path(options.run).parent
        corpus = corpus_of_run(content["config"]["data"], content["config"]["data_sha256"], folder)
    begin, end = corpus.bounds[options.split] if options.split != "all" else (0, len(corpus))
    splits, how = [options.split], f" over {end - begin:,} bytes"
    if (options.dynamic or options.mix) and options.streams != 1:
        raise InputError("--dynamic and --mix read in one stream: leave out --streams")
    if options.dynamic:
        from shalab.dynamic import dynamic_evaluate

        if options.split not in ("valid", "test") or options.mix:
            raise InputError("--dynamic reads valid, or valid and then test, and does not go with --mix")
        splits = ["valid"] if options.split == "valid" else ["valid", "test"]
        bounds = [corpus.bounds["valid"][0], *(corpus.bounds[split][1] for split in splits)]
        scores = dynamic_evaluate(model, corpus.data, bounds, precision, context=options.context)
        how = ", learning while reading"
    elif options.mix:
        from shalab.mixing import PARTS, mixed_evaluate

        how_to_read = {"window": options.window, "context": options.context}
        score, parts = mixed_evaluate(model, corpus.data, begin, end, precision, **how_to_read)
        scores = [score]
        how += "; " + ", ".join(f"{part} alone {bpc:.3f}" for part, bpc in zip(PARTS, parts, strict=True))
    else:
        how_to_read = {"window": options.window, "n_streams": options.streams, "context": options.context}
        scores = [evaluate(model, corpus.data, begin, end, precision, **how_to_read)]
    if not all(map(math.isfinite, scores)):
        raise InputError(f"the weights of {options.run} give no finite score")
    for split, bpc in zip(splits, scores, strict=True):
        print(f"{corpus.name} {split}: {bpc:.6f} bits per byte{how}")


def compress_command(options) -> None:
    from shalab.archive import compress

    with reading(options.file):
        data = Path(options.file).read_bytes()
    model, precision = _packer(options, options.archive)
    with replacing(Path(options.archive)) as file:  # before the work: a folder that cannot be written is named at once
        archive, _ = compress(model, data, precision, options.streams, options.mix, options.learn)
        file.write(archive)
    each = f", {8 * len(archive) / len(data):.3f} bits per byte" if data else ""
    print(f"{options.file}: {len(data):,} bytes; {options.archive}: {len(archive):,}{each}")


def decompress_command(options) -> None:
    from shalab.archive import decompress

    with reading(options.archive):
        archive = Path(options.archive).read_bytes()
    model, precision = _packer(options, options.file)
    with replacing(Path(options.file)) as file:
        data = decompress(model, archive, precision)
        file.write(data)
    print(f"{options.file}: {len(data):,} bytes")


def _packer(options, target: str) -> tuple[SHARNN, Precision]:
    if os.path.lexists(target):
        raise InputError(f"{target} exists already: name a new file")
    precision = Precision.pick(options.device, options.dtype)
    return precision.place(load_model(options.model or assets_dir() / "model")), precision


def generate_command(options) -> None:
    precision = Precision.pick(options.device, options.dtype)
    model = _prepared(load_model(options.run), options, precision)
    if options.prompt_file is None:
        prompt = options.prompt.encode("utf-8", "surrogateescape")
    elif options.prompt_file == STDIN:
        prompt = b"".join(standard_input())
    else:
        with reading(options.prompt_file):
            prompt = Path(options.prompt_file).read_bytes()
    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")}
    stream = generate(model, prompt, options.bytes, precision, **sampling)
    if options.raw:
        for byte in stream:
            sys.stdout.buffer.write(bytes([byte]))
            sys.stdout.buffer.flush()
        return
    if hasattr(sys.stdout, "reconfigure") and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # as sample.txt, whatever the machine's own encoding is
    sys.stdout.write(prompt.decode("utf-8", "replace"))
    for piece in as_text(stream):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _prepared(model: SHARNN, options, precision: Precision) -> SHARNN:
    if options.max_context is not None:
        if options.max_context < 0:
            raise InputError(f"--max-context must be at least 0, got {options.max_context}")
        model.max_context = options.max_context
    return precision.place(model)


def export_command(options) -> None:
    from shalab import portable
    from shalab.export import export

    write = {"folder": export, "onnx": portable.export_onnx, "safetensors": portable.export_safetensors}
    write[options.format](options.run, options.out)


def page_command(options) -> None:
    from shalab.pages.run import page

    n_bytes = page(options.run, options.out)
    print(f"{options.out}: {n_bytes / 1e6:.1f} MB")


def lab_command(options) -> None:
    from shalab.laboratory import lab

    lab.run(Path(options.file), options.only, options.bytes, options.seeds, options.toy)


def info_command(options) -> None:
    if options.run:
        content = load_checkpoint(options.run)
        model_config(content, options.run)
        facts = {"step": content.get("step"), "best_valid_bpc": content.get("best_bpc"), **content["config"]}
        print(as_json(facts, indent=2))
        return
    precision = Precision.pick(options.device, options.dtype)
    print(f"device: {precision}, {torch.get_num_threads()} threads, torch {torch.__version__}")
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
