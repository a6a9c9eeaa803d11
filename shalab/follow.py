"""Runs in a process of their own, which outlives the notebook or terminal that began them; followed by their folder."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from shalab.background import Background, StateEvent
from shalab.errors import InputError
from shalab.events import parse_line
from shalab.export import read_result
from shalab.files import Owner, write_json, write_text, writing
from shalab.presets import Budget, Preset, find_preset
from shalab.run_config import to_resume
from shalab.steering import ASK, LOOK_S

CONSOLE = "console.txt"  # what a launched process prints
SILENCE_S = 15.0  # without a sign, a process on another machine counts as gone
START_S = 300.0  # for a process to import its libraries, read its data and write config.json

# Windows' way to a process that outlives a console; elsewhere a session of its own does it.
_FLAGS = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)


class Follower(Background):
    """A run that any process trains, on this machine or on one that shares the folder.

    `events()` yields the lines of metrics.jsonl, those there and those to come, until training and scoring are over or
    the process is gone. `pause()`, `proceed()` and `end()` reach that process through the folder, within a second or
    an update. Setting `stop`, or Ctrl-C in `wait()`, ends the following; the training goes on.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        if not (self.folder / "config.json").exists():
            raise InputError(f"{folder} holds no run: expected a folder with config.json")
        self._read_to, self._file_id = 0, -1
        self._ended = ""  # the reason in the last line, if the training is over
        self._sign, self._sign_at = -1, time.monotonic()
        self.machine = ""  # the last one that trained it

    @property
    def process(self) -> tuple[int, str] | None:
        """Number and machine of the process that trains or scores now; None if there is none."""
        return owner[:2] if (owner := self._owner()) else None

    def backlog(self) -> Iterator[dict]:
        """The lines of metrics.jsonl that were not read yet. A file that was replaced is read from its beginning."""
        path = self.folder / "metrics.jsonl"
        with contextlib.suppress(OSError), path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._file_id or found.st_size < self._read_to:
                self._read_to, self._file_id = 0, found.st_ino
            file.seek(self._read_to)
            for text in file:
                if not text.endswith(b"\n"):  # it is being written
                    break
                self._read_to += len(text)
                if line := parse_line(text):
                    self._ended = line.get("reason", "") if line.get("event") == "end" else ""
                    yield line

    def events(self) -> Iterator[dict]:
        told = StateEvent("running")
        while not self.stop.is_set():
            owner = self._owner()  # before its lines, so that its last ones are not missed
            yield from self.backlog()
            if owner is None and self._over():
                if self._ended != "stopped" and not self.finished:
                    said = _last_line(self.folder / CONSOLE)  # of a launched process
                    why = f" ({said.removeprefix('shalab: ')})" if said.startswith("shalab: ") else ""
                    raise InputError(
                        f"the process that trained in {self.folder} is gone{why}: go on from the last checkpoint with "
                        f"proceed(), the dashboard's continue or {to_resume(self.folder)}"
                    )
                return
            state = StateEvent("paused" if owner and owner[2] == "paused" else "running")
            if state != told and not self._ended:
                self.listener(state)
                told = state
            self.stop.wait(LOOK_S)

    def pause(self) -> None:
        self._ask("pause")

    def proceed(self) -> None:
        """Lets a paused process go on; if there is none, starts one that resumes the run on this machine."""
        with writing(self.folder):
            (self.folder / ASK).unlink(missing_ok=True)
        if self._owner() is None and not self.finished:
            launch_again(self.folder)
            if not self.alive:
                self.start()

    def end(self) -> None:
        """Asks the process to stop after its current update, with a checkpoint."""
        self._ask("stop")

    def _ask(self, what: str) -> None:
        if self._owner() is None:
            raise InputError(f"no process trains in {self.folder}: there is nothing to {what}")
        write_text(self.folder / ASK, what)

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def result(self) -> dict:
        """The scores of the complete run, as result.json has them."""
        return read_result(self.folder)

    def _owner(self) -> tuple[int, str, str] | None:
        """Process number, machine and what it does. A dead process of this machine has lost its lock; one of another
        machine gives no sign any more."""
        path = self.folder / "owner"
        try:
            sign, (process, machine, doing) = path.stat().st_mtime_ns, Owner.read(self.folder)
        except (OSError, ValueError):
            return None
        if sign != self._sign:
            self._sign, self._sign_at = sign, time.monotonic()
        self.machine = machine
        here = machine == socket.gethostname()
        alive = Owner.is_held(self.folder) if here else time.monotonic() - self._sign_at < SILENCE_S
        return (process, machine, doing) if alive else None

    def _over(self) -> bool:
        """Whether nobody will come: between training and scoring a process owns nothing for a moment."""
        until = time.monotonic() + 10 * LOOK_S
        while time.monotonic() < until and not self.stop.is_set():
            if self._ended == "stopped" or (self._ended == "finished" and self.finished):
                return True
            if self._owner():
                return False
            self.stop.wait(LOOK_S / 5)
        return True


def seconds_left(line: dict) -> float:
    """Training time to the end, by a StepEvent's line and the run's mean speed: a run of minutes keeps to the clock."""
    return line["elapsed_s"] * (line["total_steps"] / line["step"] - 1)


def launch(
    folder: Path,
    name: str,
    preset: Preset,
    data: str = "enwik6",
    seed: int = 0,
    budget: Budget | None = None,
    device: str = "auto",
    dtype: str = "auto",
    init_from: str | None = None,
) -> Follower:
    """Begins a run like `Run.create`, in a process of its own that goes on when this one ends.

    It is `shalab train`, and what it prints is in console.txt. Returns when the run has begun; InputError with the
    process's own words if it could not.
    """
    find_preset(name)
    unit, amount = (budget or preset.budget).given
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "config.json"
        model = {} if init_from else {"model": asdict(preset.model)}  # else the trained weights decide its shape
        write_json(config, {**model, "train": asdict(preset.train)})
        origin = ["--init-from", init_from] if init_from else []
        return _start(
            folder, "--preset", name, "--config", str(config), "--data", data, "--seed", str(seed), f"--{unit}",
            str(amount), "--device", device, "--dtype", dtype, *origin,
        )  # fmt: skip


def launch_again(folder: Path) -> Follower:
    """Resumes a run in a process of its own."""
    return _start(folder, "--resume")


def _start(folder: Path, *options: str) -> Follower:
    folder = Path(folder)
    with writing(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CONSOLE).open("ab") as console:
            began = console.tell()
            command = [sys.executable, "-m", "shalab", "train", "--out", str(folder), *options]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, creationflags=_FLAGS,
                start_new_session=True,
            )  # fmt: skip
    threading.Thread(target=process.wait, daemon=True).start()  # else it would stay in the system's list when it ends
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            number, _, doing = Owner.read(folder)
            if number == process.pid and doing != Owner.STARTS:
                return Follower(folder)
        time.sleep(LOOK_S / 10)
    if process.poll() == 0:  # it was over so soon
        return Follower(folder)
    process.kill()
    said = _last_line(folder / CONSOLE, began) or "its process said nothing"
    if made:
        with contextlib.suppress(OSError):
            (folder / CONSOLE).unlink()
            folder.rmdir()
    raise InputError(f"the run did not begin: {said}")


def _last_line(path: Path, begin: int = 0) -> str:
    """Of a text file from the byte `begin` on; empty if there is none."""
    with contextlib.suppress(OSError):
        if lines := path.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines():
            return lines[-1]
    return ""
