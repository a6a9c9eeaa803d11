"""Handed-in copies of the course: who passed which exercise.

No hand-in's word is taken for it. Its answers are called in a process of their own, on the inputs of the check; what
comes back is plain data, and the checks of this process judge it. So an output that was typed in, or a check that was
overwritten, changes nothing. The process works in a copy of the hand-in, with a limited time for each exercise and
limited memory, and where the system allows it (Linux, with `unshare`) without a network and with nothing to write to
but its copy. Whoever hands in somebody else's right answer passes.

Of a hand-in, this runs the cell with an exercise's check, and the statements in cells before it that define a name
which it needs. Where the answer is a value and not a function, it also runs the cells that the reader wrote or changed
since the exercise before. Nothing else, so no demonstration is trained again.
"""

import ast
import builtins
import contextlib
import csv
import functools
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import symtable
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from torch import Tensor

from shalab.checks import Check, _array, _is_stub, exercises
from shalab.course import notebooks
from shalab.device import print_anything
from shalab.errors import InputError
from shalab.files import write_text

START_S = 300.0  # for a process to import its libraries
SECONDS = 180.0  # for each exercise
MEMORY = 4 * 2**30  # bytes that one process may have
FILE = 2**30  # bytes that one file may have
ANSWER = 2**24  # bytes that the results of a notebook may have
LEFT_OUT = "runs", "solutions", ".*"  # of a hand-in, when it is copied
SIGNS = {"right": "✔", "open": "○", "wrong": "✘", "stopped": "⚠", "too long": "∞", "unreadable": "?", "missing": "-"}

# What the walls are, and the command that builds them around another: $0 is the only folder to write to, $1 the one
# to begin in.
_READ_ONLY = """
mount --bind "$0" "$0" && mount -o remount,bind,ro / || exit 1
while read -r _ _ _ _ place _; do
  case "$place" in /|/dev|/dev/*|/proc|/proc/*|"$0"|"$0"/*) ;; *) mount -o remount,bind,ro "$place" ;; esac
done < /proc/self/mountinfo 2>/dev/null
cd "$1" && shift && exec "$@"
"""
_UNSHARE = "unshare --map-root-user --net --pid --fork --kill-child --mount --mount-proc".split()
WALLS = {
    "Each process has no network, and can write to nothing but its copy.": [*_UNSHARE, "sh", "-c", _READ_ONLY],
    "Each process has no network. It has a copy to work in, but can write wherever you can.": [
        "unshare", "--map-root-user", "--net", "sh", "-c", 'cd "$1" && shift && exec "$@"',
    ],
    "No walls can be built here: a hand-in can reach your network and your files. Grade what you trust, or in a "
    "container.": [],
}  # fmt: skip


def grade(folder: Path, out: Path, seconds: float = SECONDS) -> None:
    """Prints a table of all hand-ins in `folder` and writes it to `out` as CSV: students by exercises.

    folder   a folder for each student, or one copy of the course, or single notebooks, recognised by their names
    seconds  for each exercise
    InputError where there is nothing to grade.
    """
    print_anything()
    students = hand_ins(folder)
    words, walls = next(filter(_holds, WALLS.items()))
    print(f"Hand-ins: {len(students)}. {words}" + ("" if sys.platform == "linux" else " Memory is not limited here."))
    course = exercises()
    columns = [check.key for checks in course.values() for check in checks]
    width = max(map(len, [*students, "student"]))
    print(f"{'student':<{width}}", *(f"{stem[:2]:<{len(course[stem[3:]])}}" for stem in _stems()), "right")
    rows, found = [], defaultdict(set)
    for student, files in students.items():
        marks: dict[str, str] = {}
        for notebook, checks in course.items():
            if notebook in files:
                marks |= _marks(checks, files[notebook], files[notebook].parent == folder, walls, seconds)
            else:
                marks |= {check.key: "missing" for check in checks}
        for key, mark in marks.items():
            if _kind(mark) not in ("right", "open", "missing"):
                found[key.partition(".")[0] if mark == "unreadable" else key, mark].add(student)
        n_right = sum(mark == "right" for mark in marks.values())
        signs = ("".join(SIGNS[_kind(marks[check.key])] for check in checks) for checks in course.values())
        print(f"{student:<{width}}", *signs, f"{n_right} of {len(columns)}", flush=True)
        rows.append([student, n_right, *(marks[key] for key in columns)])
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["student", "right", *columns], *rows])
        write_text(out, table.getvalue())
    print(*(f"{sign} {kind}" for kind, sign in SIGNS.items()), sep="   ")
    for (key, mark), who in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"{key}: {mark} ({', '.join(sorted(who))})")
    print(out)


def hand_ins(folder: Path) -> dict[str, dict[str, Path]]:
    """Student -> notebook -> its file.

    A student is a folder, or what a single notebook's name says beside the course's: `anna_02_lstm.ipynb`. A folder
    with a notebook of exactly the course's name is one copy.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder of hand-ins, got {folder}")
    one_copy = any((folder / f"{stem}.ipynb").exists() for stem in _stems())
    students: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.ipynb") if one_copy else folder.rglob("*.ipynb")):
        above = path.relative_to(folder).parts[:-1]
        stem = next((stem for stem in _stems() if stem in path.stem), None)
        if stem and not any(part in LEFT_OUT or part.startswith(".") for part in above):
            own_name = "" if one_copy else path.stem.replace(stem, "").strip(" _-.")
            student = above[0] if above else own_name or folder.resolve().name
            files = students.setdefault(student, {})
            if path.stem == stem or stem[3:] not in files:  # before "02_lstm-Copy1"
                files[stem[3:]] = path
    if not students:
        raise InputError(f"no notebook in {folder} is called like one of the course ({', '.join(_stems())})")
    return students


def _stems() -> list[str]:
    return [path.stem for path in notebooks() if path.stem[3:] in exercises()]


def _kind(mark: str) -> str:
    return mark.partition(":")[0]


def _holds(walls: tuple[str, list[str]]) -> bool:
    """Whether this system can build them."""
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(OSError):
        command = [*walls[1], place, place, "true"] if walls[1] else [sys.executable, "-c", ""]
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


def _marks(checks: list[Check], file: Path, alone: bool, walls: list[str], seconds: float) -> dict[str, str]:
    """Exercise -> its mark. One that ends or outlasts its process does not cost those after it, which get another."""
    marks: dict[str, str] = {}
    while left := checks[len(marks) :]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            work = Path(place).resolve() / "work"
            work.mkdir()
            with contextlib.suppress(OSError):  # what can be copied; shutil.Error is one
                if alone:
                    shutil.copy(file, work)
                else:
                    left_out = shutil.ignore_patterns(*LEFT_OUT)
                    shutil.copytree(file.parent, work, symlinks=True, ignore=left_out, dirs_exist_ok=True)
            lines, late = _run([str(work / file.name), *(check.key for check in left)], work, walls, seconds)
            for check, line in zip(left, lines, strict=False):
                marks[check.key] = _mark(check, line, work)
        if len(lines) < len(left):
            marks[left[len(lines)].key] = "too long" if late else "stopped: its process ended"
    return marks


def _run(arguments: list[str], work: Path, walls: list[str], seconds: float) -> tuple[list[str], bool]:
    """The lines of a process that answers, and whether it was ended because the next did not come in time."""
    command = [sys.executable, "-P", "-m", __name__, *arguments]
    if walls:
        command = [*walls, str(work.parent), str(work), *command]
    own = {name: str(work.parent / name) for name in ("IPYTHONDIR", "MPLCONFIGDIR", "SHALAB_CACHE", "TMPDIR")}
    Path(own["TMPDIR"]).mkdir()
    answers = work.parent / "answers"
    with answers.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=work, env={**os.environ, **own, "MPLBACKEND": "agg"}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            n_lines, until = 0, time.monotonic() + START_S
            while (alive := process.poll() is None) and time.monotonic() < until:
                time.sleep(0.05)
                if (n := _read(answers).count("\n")) > n_lines:
                    n_lines, until = n, time.monotonic() + seconds
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
            process.wait()
    return _read(answers).split("\n")[1:-1], alive


def _read(answers: Path) -> str:
    with answers.open("rb") as file:
        return file.read(ANSWER).decode("utf-8", "replace")


def _mark(check: Check, line: str, work: Path) -> str:
    """What the check of this process says to the results of another."""
    try:
        told = json.loads(line)
        if told.get("unreadable"):
            return "unreadable"
        verdict = check.judge(_answer(check, told, work))
    except Exception as error:  # whatever a hand-in made of its line
        return f"stopped: {type(error).__name__}"
    if verdict.outcome in ("right", "open"):
        return verdict.outcome
    said = verdict.mistake or re.sub(rf"^{check.name}( stopped| is not right yet)?:? |\.$", "", verdict.message)
    return f"{verdict.outcome}: {''.join(c if c.isprintable() else ' ' for c in said)[:200].rstrip(' :')}"


def _answer(check: Check, told: dict, work: Path) -> object:
    """A stand-in for the answer: it gives what the answer gave."""
    if "results" not in told:
        answer = _object(told["value"])
        if check.read and isinstance(answer, str):
            answer = (work / answer).resolve()
            if not answer.is_relative_to(work) or not all(
                path.is_dir() or path.is_file() and not path.is_symlink() for path in answer.rglob("*")
            ):
                raise InputError("expected a folder of regular files in the hand-in")
        return answer
    results, error = iter(told["results"]), _error(*(told["error"] or ("RuntimeError", ["no result"])))

    def answer_again(*_):
        for result in results:
            return _object(result)
        raise error

    return answer_again


def _error(name: str, arguments: list) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):
            return kind(*arguments)
    return type(name, (Exception,), {})(*arguments)


def _object(plain: Any) -> object:
    """`_plain` backwards."""
    if isinstance(plain, list):
        return [_object(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    match kind:
        case "array":
            numbers, shape = value
            return np.array(numbers, float).reshape(shape)
        case "bytes":
            return bytes.fromhex(value)
        case "dots":
            return ...
        case "function":
            return lambda *_: None
        case _:
            return type(str(value), (), {})()


# What follows runs in the process of a hand-in.


def _plain(x: Any, depth: int = 0) -> object:
    """x as JSON that needs no trust; what has no such form becomes the name of its type."""
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, bytes) and len(x) < 10**6:
        return {"bytes": x.hex()}
    if isinstance(x, tuple | list) and len(x) < 10**5 and depth < 4:
        return [_plain(part, depth + 1) for part in x]
    if isinstance(x, Tensor | np.ndarray | np.generic):
        with contextlib.suppress(TypeError, ValueError):
            array = _array(x)
            if array.size < 10**6:
                return {"array": [array.ravel().tolist(), array.shape]}
    return {"dots": True} if x is ... else {"function": True} if callable(x) else {"type": type(x).__name__}


def _told(check: Check, answer: Any) -> dict:
    """What a hand-in's answer gives for the inputs of its check."""
    if not callable(answer) or check.inputs is None:
        return {"value": _plain(str(answer) if isinstance(answer, Path) else answer)}
    results, error = check._results(answer)
    if any(result is None for result in results) and _is_stub(answer):
        return {"value": None}
    return {"results": _plain(results), "error": error and [type(error).__name__, _plain(error.args)]}


def _bindings(source: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """A cell's statements: their source, the names that they bind, and those that they need."""

    def needed(table: symtable.SymbolTable) -> Iterator[str]:
        yield from (
            symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()
        )
        for child in table.get_children():
            yield from needed(child)

    for statement in ast.parse(source).body:
        lines = ast.unparse(statement)
        table = symtable.symtable(lines, "cell", "exec")
        binds = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        yield lines, binds, set(needed(table))


class HandIn:
    """The code cells of a notebook, and what is to be run for an exercise.

    shipped  sources of the course's own cells
    """

    def __init__(self, cells: list[str], shipped: set[str]):
        self.cells, self.shipped = cells, shipped
        self.statements: list[list[tuple[str, set[str], set[str]]] | None] = []  # None where a cell is not Python
        for source in cells:
            try:
                self.statements.append([*_bindings(source)])
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                self.statements.append(None)

    def place(self, name: str) -> int | None:
        """The last cell with the exercise's check, else the last that defines its name."""
        checked = [place for place, cell in enumerate(self.cells) if re.search(rf"\bcheck\.{name}\(", cell)]
        defined = [
            place for place, statements in enumerate(self.statements)
            if any(name in binds for _, binds, _ in statements or ())
        ]  # fmt: skip
        return max(checked or defined, default=None)

    def before(self, place: int, whole_after: int | None) -> list[tuple[int, int, str]]:
        """What cell `place` needs, in order: cell, statement and source.

        whole_after  from the cell after this one on, the cells that the course did not ship are run as they are
        """
        own = [
            at for at in range((place if whole_after is None else whole_after + 1), place)
            if self.cells[at] not in self.shipped
        ]  # fmt: skip
        wanted = {name for at in [*own, place] for _, _, needs in self.statements[at] or () for name in needs}
        left = {
            (at, number): statement
            for at in range(place) if at not in own
            for number, statement in enumerate(self.statements[at] or ())
        }  # fmt: skip
        found = [(at, -1, self.cells[at]) for at in own]
        while more := [where for where, (source, binds, _) in left.items() if binds & wanted or "import *" in source]:
            for where in more:
                source, _, needs = left.pop(where)
                found.append((*where, source))
                wanted |= needs
        return sorted(found)


def _limit() -> None:
    """Memory and files, where the system has such limits."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def main(path: str, *keys: str) -> None:
    """Writes a line when it is ready, then one for each exercise: what the hand-in's answer gives."""
    from IPython.core.inputtransformer2 import TransformerManager
    from IPython.core.interactiveshell import InteractiveShell

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    notebook = keys[0].partition(".")[0]
    checks = {check.key: check for check in exercises()[notebook]}
    handed: dict[str, object] = {}
    for key, check in checks.items():  # where the hand-in would be told, it is only heard
        setattr(
            importlib.import_module(f"shalab.checks.{notebook}"), check.name, functools.partial(handed.__setitem__, key)
        )
    transform = TransformerManager().transform_cell

    def cells(file: Path) -> list[str]:
        content = nbformat.read(file, as_version=4)
        return [transform(cell.source) for cell in content.cells if cell.cell_type == "code"]

    original = next(file for file in notebooks() if file.stem[3:] == notebook)
    shell = InteractiveShell.instance()
    _limit()
    sys.path.insert(0, os.getcwd())  # as in a kernel; not before the libraries are loaded

    def tell(content: dict) -> None:
        line = json.dumps(content)
        print(
            line if len(line) < ANSWER // 16 else '{"value": {"type": "more than can be read"}}',
            file=answers,
            flush=True,
        )

    print(file=answers, flush=True)
    try:
        hand_in = HandIn(cells(Path(path)), set(cells(original)))
    except Exception:
        for _ in keys:
            tell({"unreadable": True})
        return
    places = {key: hand_in.place(check.name) for key, check in checks.items()}
    done: set[tuple[int, int]] = set()
    for key in keys:
        check, place = checks[key], places[key]
        try:
            error = None
            if place is not None:
                earlier = [other for other in places.values() if other is not None and other < place]
                whole_after = max(earlier, default=-1) if check.inputs is None else None
                for at, number, source in hand_in.before(place, whole_after):
                    if (at, number) not in done:
                        done.add((at, number))
                        shell.run_cell(source)
                ran = shell.run_cell(hand_in.cells[place])
                error = ran.error_before_exec or ran.error_in_exec
            answer = handed.get(key, shell.user_ns.get(check.name))
            if error and answer is None:
                tell({"results": [], "error": [type(error).__name__, [str(error)]]})
            else:
                tell(_told(check, answer))
        except BaseException as error:  # also SystemExit
            tell({"results": [], "error": [type(error).__name__, [str(error)]]})


if __name__ == "__main__":
    main(*sys.argv[1:])
