"""The commands, in a file each: `define` says what one is called and takes, the function below it does it.

What a command alone needs is imported when it is asked for, so that `shalab --help` is quick.
"""

import argparse
from typing import Protocol

from shalab.device import DEVICES, DTYPES, Precision
from shalab.errors import InputError
from shalab.model import SHARNN


class Command(Protocol):
    """Makes a command's parser: its name, the function that gets its options, what it does, options it shares."""

    def __call__(
        self, name: str, act, purpose: str, *parents: argparse.ArgumentParser, usage: str | None = None
    ) -> argparse.ArgumentParser: ...


def machine() -> argparse.ArgumentParser:
    """Options: in what to compute."""
    options = argparse.ArgumentParser(add_help=False)
    add_machine(options)
    return options


def add_machine(group) -> None:
    """The same, added to a parser or to a group of its options."""
    add = group.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: auto, the fastest there is)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="format of matrix products (default: auto)")
    add(
        "--plain",
        action="store_true",
        help="compute by the plain equations, without the tricks that `shalab info` lists",
    )


def trained() -> argparse.ArgumentParser:
    """Options: a trained model."""
    options = argparse.ArgumentParser(add_help=False)
    add = options.add_argument
    add("run", help="a run's folder, or a checkpoint file")
    add("--max-context", type=int, metavar="K", help="most bytes that attention sees (default: as trained)")
    return options


def prepared(model: SHARNN, options, precision: Precision) -> SHARNN:
    """The model where it computes, with the memory that `trained` asks for."""
    if options.max_context is not None:
        if options.max_context < 0:
            raise InputError(f"--max-context must be at least 0, got {options.max_context}")
        model.max_context = options.max_context
    return precision.place(model)
