"""Files that are written completely or not at all, and folders that one process at a time may write to."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from shalab.errors import InputError


class WriteError(InputError):
    """The disk is full, or the folder is gone, read-only or another user's."""


@contextlib.contextmanager
def reading(path: str | Path, verb: str = "read", remedy: str = "") -> Iterator[None]:
    """Inside, whatever the file system refuses becomes one sentence, an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot {verb} {error.filename or path} ({error.strerror or error}){remedy}") from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The same where a run's folder or a result is written: a WriteError."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write to {folder} ({error.strerror or error})") from error


def check_file(path: Path) -> None:
    """InputError for a path that ends in no name, as "" and "." do."""
    if not path.name:
        raise InputError(f"{path} names a folder, not a file in it")


@contextlib.contextmanager
def replacing(path: Path, before: Path | None = None) -> Iterator[BinaryIO]:
    """A file that replaces `path` once all of it is on the disk. After an error it is removed, and `path` is as before.

    before: a name under which to keep the file that was at `path`.
    """
    check_file(path)
    part = path.with_name(path.name + ".part")
    with writing(path.parent):
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if before and path.exists():
                os.replace(path, before)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    with contextlib.suppress(OSError):  # the new name, too, is on the disk; Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a file, unless it holds this text already."""
    content = text.encode()
    with writing(path.parent):
        if path.exists() and path.read_bytes() == content:
            return
    with replacing(path) as file:
        file.write(content)


def json_safe(x):
    """x as JSON gives it back, with None in place of numbers that JSON does not have."""
    return json.loads(json.dumps(x), parse_constant=lambda _: None)


def as_json(content: dict, indent: int | None = None) -> str:
    return json.dumps(json_safe(content), indent=indent, allow_nan=False)


def write_json(path: Path, content: dict) -> None:
    write_text(path, as_json(content, indent=2) + "\n")


class Owner:
    """Makes this process the only one that writes to an existing folder, until `close()`.

    The operating system holds the lock: whatever ends the process ends it. InputError names who has it.
    """

    STARTS = "starting"  # what an owner is doing until it signs for something else

    def __init__(self, folder: Path):
        # Wait a moment: a follower that tests the lock holds it for an instant.
        self._lock = FileLock(folder / "owner.lock", timeout=0.2, thread_local=False)
        self._name = folder / "owner"
        with writing(folder):
            try:
                self._lock.acquire()
            except Timeout:
                owner = "another process"
                with contextlib.suppress(OSError, ValueError):
                    owner = "process {} on {}".format(*self.read(folder))
                raise InputError(f"{folder} is in use by {owner}: wait for its end, or stop it") from None
            self._doing = ""
            self.sign(self.STARTS)

    def sign(self, doing: str) -> None:
        """Writes into `owner` what this process is doing. The file's time shows that it is alive."""
        if doing == self._doing:
            os.utime(self._name)
        else:
            part = self._name.with_name("owner.part")  # who looks meanwhile finds a whole file
            try:
                part.write_text(f"process {os.getpid()} on {socket.gethostname()}\n{doing}\n", encoding="utf-8")
                os.replace(part, self._name)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            self._doing = doing

    @staticmethod
    def read(folder: Path) -> tuple[int, str, str]:
        """Process number, machine and what it is doing; OSError or ValueError if the file is missing or damaged."""
        who, doing = (folder / "owner").read_text(encoding="utf-8").splitlines()
        process, machine = who.removeprefix("process ").split(" on ", 1)
        return int(process), machine, doing

    @staticmethod
    def is_held(folder: Path) -> bool:
        """Whether a process of this machine owns the folder."""
        path = folder / "owner.lock"
        try:
            if path.exists():
                with FileLock(path, timeout=0, thread_local=False, is_singleton=False):
                    pass
        except Timeout:
            return True
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a folder that is gone, or Windows, which removes no open file
            self._name.unlink()
            os.unlink(self._lock.lock_file)
        self._lock.release()


def notice(sentence: str) -> None:
    """Prints a decision that the user did not ask for."""
    print(f"shalab: {sentence}", file=sys.stderr)
