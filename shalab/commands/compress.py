"""shalab compress and decompress: a file by a model's predictions, and back."""

import argparse
import os
from pathlib import Path

from shalab.bundled import assets_dir
from shalab.checkpoint import load_model
from shalab.commands import Command, add_machine
from shalab.device import Precision
from shalab.errors import InputError
from shalab.files import reading, replacing
from shalab.model import SHARNN


def define(command: Command) -> None:
    pack = command("compress", compress_command, "pack a file by a model's predictions")
    unpack = command("decompress", decompress_command, "unpack an archive")
    for parser in (pack, unpack):
        whose = "whose predictions to use (default: the course's trained model)"
        parser.add_argument("--model", metavar="RUN", help=whose)
        add_machine(parser)

    add = pack.add_argument
    add("file", help="what to pack, text or not")
    add("archive", help="a new file; the same model unpacks it, on a machine like this one")
    pieces = "pieces packed side by side (default: one per 100,000 bytes, at most 64)"
    add("--streams", type=int, metavar="S", help=pieces)
    yes_or_no = argparse.BooleanOptionalAction
    add("--mix", action=yes_or_no, default=True, help="mix in counts of long contexts (default: yes)")
    add("--learn", action="store_true", help="keep training on what has been read: a smaller archive, and far slower")

    add = unpack.add_argument
    add("archive", help="what `shalab compress` wrote")
    add("file", help="a new file")


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
