"""The course's commands; what they share with the checks, the grades and the pages is `shalab.course` itself.

python -m shalab.course lab [OPTION ...] opens a copy in JupyterLab, on this machine alone; its options pass through
python -m shalab.course copy [--fresh]   my-course/ with empty outputs; never overwrites one
python -m shalab.course grade FOLDER     runs handed-in copies and says who passed what; see shalab/grade.py
python -m shalab.course execute [NAME]   runs notebooks again and stores their outputs
python -m shalab.course minutes          copies what the notebooks say of their length into README.md and teaching.md
python -m shalab.course html FOLDER      pages for readers without Python; --stored runs nothing, for pictures only
"""

import argparse
import getpass
import os
import socket
import sys
import threading
import time
from pathlib import Path

from shalab.course import copy, execute, notebooks, store_minutes
from shalab.errors import InputError


def lab(options: list[str]) -> None:
    """JupyterLab with a copy of the course, which only this machine can reach, with a token; there root may start it.

    Where no browser can be opened it is told how to get there. options: JupyterLab's own; --ip among them leaves the
    address and root to it.
    """
    from jupyterlab.labapp import LabApp

    os.chdir(copy())
    if not any(option.startswith(("--ip", "--ServerApp.ip")) for option in options):
        options = ["--ip=127.0.0.1", "--allow-root", *options]
    has_display = sys.platform in ("darwin", "win32") and "SSH_CONNECTION" not in os.environ
    if not (has_display or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        options = ["--no-browser", *options]
        threading.Thread(target=_tell_the_way, daemon=True).start()
    LabApp.launch_instance([*dict.fromkeys(options), "00_start_here.ipynb"])


def _tell_the_way() -> None:
    """Waits for the server of this process, and says where it is."""
    from jupyter_server.serverapp import list_running_servers

    while not (own := [server for server in list_running_servers() if server["pid"] == os.getpid()]):
        time.sleep(0.2)
    time.sleep(1)  # until JupyterLab has said what it says at its start
    url, port, token = (own[0][name] for name in ("url", "port", "token"))
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "USER"
    print(
        f"\nThe course, for a browser on this machine: {url}lab/tree/00_start_here.ipynb?token={token}\n"
        "From another machine, open a tunnel there first, with the name and options by which you log in here:\n"
        f"ssh -N -L {port}:127.0.0.1:{port} {user}@{socket.gethostname()}\n",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 2 for a mistake in what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m shalab.course", description="The course around the notebooks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("lab", help="opens a copy in JupyterLab, to which all further options go", add_help=False)
    copying = commands.add_parser("copy", help="my-course/, a copy to work in; an existing one is left alone")
    copying.add_argument("--fresh", action="store_true", help="a new copy beside the ones there are")
    executing = commands.add_parser("execute", help="run notebooks again and store their outputs")
    executing.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK", help="files (default: the whole course)")
    grading = commands.add_parser("grade", help="who passed what: runs handed-in copies of the course")
    grading.add_argument("folder", type=Path, help="a folder for each student, one copy, or single notebooks")
    grading.add_argument("--out", type=Path, default=Path("grades.csv"), metavar="CSV", help="default: %(default)s")
    grading.add_argument("--seconds", type=float, default=180.0, help="for each exercise (default: %(default)g)")
    commands.add_parser("minutes", help="store what the notebooks say of their length in README.md and teaching.md")
    exporting = commands.add_parser("html", help="the course as pages that need no network; runs it for its widgets")
    exporting.add_argument("folder", type=Path)
    exporting.add_argument("--stored", action="store_true", help="run nothing: stored pictures instead of widgets")
    options, further = parser.parse_known_args(arguments)
    if further and options.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    try:
        if options.command == "lab":
            lab(further)
        elif options.command == "copy":
            print(copy(options.fresh))
        elif options.command == "html":
            from shalab.pages import course as pages  # only who asks for pages waits for what makes them

            pages.write(options.folder, living=not options.stored)
        elif options.command == "minutes":
            store_minutes()
        elif options.command == "grade":
            from shalab.grade import grade

            grade(options.folder, options.out, options.seconds)
        else:
            for path in options.paths or notebooks():
                print(path, flush=True)
                execute(path)
    except InputError as error:
        print(f"shalab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename or Path.cwd()
        print(
            f"shalab: cannot use {place} ({error.strerror}): name another, or one that you may write", file=sys.stderr
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
