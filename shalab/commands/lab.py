"""shalab lab: other architectures."""

from pathlib import Path

from shalab.commands import Command


def define(command: Command) -> None:
    add = command("lab", lab_command, "compare small models of other kinds on enwik6, in half an hour").add_argument
    add("file", help="for the results; what it holds already is not trained again")
    add("--only", nargs="+", default=(), metavar="NAME", help="only these contestants, and those they are held against")
    add("--bytes", type=int, default=300_000, metavar="N", help="bytes that each of them reads (default: %(default)s)")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: %(default)s)")
    add("--toy", action="store_true", help="models that learn next to nothing, in minutes")


def lab_command(options) -> None:
    from shalab.laboratory import lab

    lab.run(Path(options.file), options.only, options.bytes, options.seeds, options.toy)
