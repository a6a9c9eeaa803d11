"""shalab lab: other architectures."""

from pathlib import Path

from shalab.commands import Command


def define(command: Command) -> None:
    add = command("lab", lab_command, "race other architectures on enwik6, small, in half an hour").add_argument
    add("file", help="for the results; what it holds already is not trained again")
    add("--only", nargs="+", default=(), metavar="NAME", help="some of the contestants, and whom they are held against")
    add("--bytes", type=int, default=300_000, metavar="N", help="that each of them reads (default: %(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: %(default)s)")
    add("--toy", action="store_true", help="models that learn next to nothing, in minutes")


def lab_command(options) -> None:
    from shalab.laboratory import lab

    lab.run(Path(options.file), options.only, options.bytes, options.seeds, options.toy)
