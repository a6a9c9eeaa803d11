"""The commands, in a file each: `define` says what one is called and takes, the function below it does it.

What a command alone needs is imported when it is asked for, so that `shalab --help` is quick.
"""

import argparse
from collections.abc import Callable

from shalab.device import DEVICES, DTYPES, Precision
from shalab.errors import InputError
from shalab.model import SHARNN

# Makes a command's parser: its name, the function that gets its options, what it does, and argparse's own options.
Command = Callable[..., argparse.ArgumentParser]


def add_machine(parser) -> None:
    """Options: in what to compute. They may also go into a group of a parser's options."""
    add = parser.add_argument
    add("--device", choices=DEVICES, default="auto", help="where to compute (default: auto, the fastest there is)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="format of matrix products (default: auto)")
    plain = "compute by the plain equations, without the tricks that `shalab info` lists"
    add("--plain", action="store_true", help=plain)


def add_trained(parser: argparse.ArgumentParser) -> None:
    """Options: a trained model."""
    add = parser.add_argument
    add("run", help="a run's folder, or a checkpoint file")
    add("--max-context", type=int, metavar="K", help="most bytes that attention sees (default: as trained)")


def prepared(model: SHARNN, options, precision: Precision) -> SHARNN:
    """The model where it computes, with the memory that `add_trained` asks for."""
    if options.max_context is not None:
        if options.max_context < 0:
            raise InputError(f"--max-context must be at least 0, got {options.max_context}")
        model.max_context = options.max_context
    return precision.place(model)
