"""shalab watch and plan: a run that another process trains, and one that is not begun yet."""

from shalab.commands import Command
from shalab.process import keep_freed_memory

ASKS = {  # of `shalab watch`
    "pause": "ask its process to pause, with a checkpoint",
    "continue": "continue it; a run that no process trains is resumed here, in a process of its own",
    "stop": "ask its process to stop, with a checkpoint",
}


def define(command: Command) -> None:
    watch = command("watch", watch_command, "follow a run that another process trains, here or on another machine")
    watch.add_argument("run", help="the run's folder")
    add = watch.add_mutually_exclusive_group().add_argument
    for name, effect in ASKS.items():
        add(f"--{name}", dest="ask", action="store_const", const=name, help=f"do not follow the run: {effect}")

    purpose = "say what a preset's run costs here and on GPUs: memory, time, energy"
    add = command("plan", plan_command, purpose).add_argument
    add("--preset", default="paper", help="recipe (default: paper)")
    add("--data", default="enwik8", metavar="NAME_OR_PATH", help="corpus, file or folder (default: enwik8)")
    figures = "GB", "TFLOPS", "GB_PER_S"
    add("--card", type=float, nargs=3, metavar=figures, help="another card: memory, half-precision speed, bandwidth")


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
