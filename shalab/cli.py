"""The command line: shalab data | train | watch | plan | eval | generate | compress | ... | lab | page | info."""

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from io import StringIO

from shalab.commands import compress, data, evaluate, generate, info, lab, share, train, watch
from shalab.device import print_anything
from shalab.door import plain
from shalab.errors import InputError
from shalab.train import NonFiniteError

COMMANDS = (data, train, watch, evaluate, generate, compress, share, lab, info)  # as `shalab --help` lists them


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0 for success, 1 for numbers that were not finite, 2 for a mistake in what was asked for, 128 + N for signal N.
    """
    print_anything()
    options = parser().parse_args(arguments)
    try:
        with plain() if vars(options).get("plain") else nullcontext():
            code = options.command(options) or 0
        sys.stdout.flush()  # what cannot be written is told here, not when the interpreter has ended
        return code
    except BrokenPipeError:
        sys.stdout = StringIO()  # else the interpreter would try once more
        return 141
    except InputError as error:
        code, said = 2, " ".join(str(error).split())
    except NonFiniteError as error:
        code, said = 1, str(error)
    except KeyboardInterrupt:
        code, said = 130, "interrupted"
    except MemoryError:
        code, said = 2, "memory is full: take smaller settings; a run's last checkpoint is kept"
    except OSError as error:  # a full disk behind standard output, or a name that is too long for one
        code, said = 2, f"cannot use {error.filename or 'standard output'} ({error.strerror or error})"
        if not error.filename:
            sys.stdout = StringIO()
    print(f"shalab: {said}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    description = "Single Headed Attention RNN, from bytes to a trained model."
    top = argparse.ArgumentParser(prog="shalab", description=description)
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, act: Callable, purpose: str, **options) -> argparse.ArgumentParser:
        described = f"{purpose[0].upper()}{purpose[1:]}."
        new = commands.add_parser(name, help=purpose, description=described, **options)
        new.set_defaults(command=act)
        return new

    for each in COMMANDS:
        each.define(command)
    return top
