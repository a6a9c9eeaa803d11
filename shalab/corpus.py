"""Real bytes: the embedded enwik6, verified downloads, any file or folder of your own, and what a pipe brings.

enwik8 is the first 100,000,000 bytes of the English Wikipedia dump of 3 March 2006
(Matt Mahoney, Large Text Compression Benchmark). enwik6 and enwik7 are prefixes of it.
"""

import hashlib
import lzma
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shalab.bundled import assets_dir
from shalab.errors import InputError
from shalab.files import reading

CACHE_VARIABLE = "SHALAB_CACHE"
BLOCK = 1 << 20  # bytes read at a time when downloading, unpacking or joining
SPLITS = ("train", "valid", "test")
STDIN = "-"  # the name of what standard input brings
RUN_DATA = "data"  # the file in a run's folder that keeps it

_PIPED = "standard input"  # how messages and tables call it


@dataclass(frozen=True)
class Source:
    """How to know a published corpus."""

    n_bytes: int
    sha256: str
    prefix_of: str | None = None  # a corpus that begins with this one, which then has no download of its own


SOURCES = {
    "enwik6": Source(10**6, "369b688978f649681136198fb96db14c1616756260c55fb4b65e9bc049552cad"),
    "enwik7": Source(10**7, "5985c81c39d927ae0e169625790ca4d9e7d1531270c8b09ad73176a375bb3d97", prefix_of="enwik8"),
    "enwik8": Source(10**8, "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"),
    "enwik9": Source(10**9, "159b85351e5f76e60cbe32e04c677847a9ecba3adc79addab6f4c6c7aa3744bc"),
}


@dataclass(frozen=True)
class Corpus:
    """A text as bytes, with the bounds of its three splits."""

    name: str
    data: np.ndarray = field(repr=False)  # (N,) uint8; mapped from its file, so that N may exceed the memory
    n_files: int | None = None  # how many files of a folder were joined; None if it was no folder

    def __len__(self) -> int:
        return len(self.data)

    def __str__(self) -> str:
        if self.n_files is None:
            return f"{self.name} ({len(self):,} bytes)"
        files = "1 file" if self.n_files == 1 else f"{self.n_files:,} files"
        return f"{self.name} ({len(self):,} bytes in {files})"

    @cached_property
    def bounds(self) -> dict[str, tuple[int, int]]:
        """First and one-past-last byte of train, valid and test: 90 %, 5 % and 5 % of the text."""
        n = len(self.data)
        first, second = n * 90 // 100, n * 95 // 100
        return {"train": (0, first), "valid": (first, second), "test": (second, n)}

    def split(self, name: str) -> np.ndarray:
        """The bytes of one split, a view."""
        begin, end = self.bounds[name]
        return self.data[begin:end]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data.data).hexdigest()


def cache_dir() -> Path:
    """Where downloads live: $SHALAB_CACHE, else $XDG_CACHE_HOME/shalab, else ~/.cache/shalab."""
    if cache := os.environ.get(CACHE_VARIABLE):
        return Path(cache)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shalab"
    except RuntimeError as error:  # a container's user may have no home
        raise InputError(f"no home folder to keep files in: name a folder in ${CACHE_VARIABLE}") from error


def stored_path(name: str) -> Path:
    """The file that a published corpus is read from once it is fetched; a prefix shares that of the longer corpus."""
    return cache_dir() / (SOURCES[name].prefix_of or name)


def canonical(name_or_path: str) -> str:
    """How config.json names the data: a published corpus's name, a file's absolute path, or RUN_DATA."""
    if name_or_path == STDIN:
        return RUN_DATA
    return name_or_path if name_or_path in SOURCES else str(Path(name_or_path).resolve())


def corpus_of_run(data: str, sha256: str, folder: Path, moved_to: str | None = None) -> Corpus:
    """The bytes that a run in `folder` was begun with, as its config.json names them; InputError if they are others.

    moved_to: where they are now, if not there.
    """
    try:
        if moved_to or data != RUN_DATA:
            corpus = load_corpus(moved_to or data)
        else:
            corpus = replace(load_corpus(str(folder / RUN_DATA)), name=_PIPED)
    except InputError as error:
        raise InputError(f"{error}; if the data of {folder} has moved, name it with --data") from error
    if corpus.sha256 != sha256:
        raise InputError(
            f"{moved_to or data} is not what {folder} was trained on, or has changed since it began: "
            f"its SHA-256 was {sha256}; if that is elsewhere, name it with --data"
        )
    return corpus


def load_corpus(name_or_path: str) -> Corpus:
    """Opens a published corpus by name, any file by path, or all files below a folder as one. Never downloads.

    STDIN is read from standard input to its end. In a folder, names that begin with a dot are left out and links to
    folders are not followed. Standard input and the files of a folder are copied into an unnamed file in the cache
    folder, which is deleted with the array.
    Raises InputError if anything is missing, unreadable, too small to split, or not what its name promises.
    """
    with reading(name_or_path):
        if name_or_path in SOURCES:
            corpus = _published(name_or_path)
        elif name_or_path == STDIN:
            corpus = Corpus(_PIPED, _spooled(standard_input(), _PIPED))
        else:
            corpus = _own(name_or_path)
    if len(corpus) < 40:
        what = _PIPED if name_or_path == STDIN else name_or_path
        raise InputError(f"{what} has {len(corpus)} bytes; a corpus needs at least 40: valid and test get 5 % each")
    return corpus


# Where the cache is written.
caching = partial(reading, verb="write", remedy=f": make room, or name another folder in ${CACHE_VARIABLE}")


def _published(name: str) -> Corpus:
    source = SOURCES[name]
    if name == "enwik6":
        path = assets_dir() / "enwik6.xz"
        try:
            data = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)
        except lzma.LZMAError as error:
            raise InputError(f"{path} is damaged ({error}): install shalab again") from error
    elif (path := stored_path(name)).exists():
        with path.open("rb") as file:
            data = _map(file, path)[: source.n_bytes]
    else:
        raise InputError(f"{name} is not on this machine: fetch it with `shalab data {name}`")
    corpus = Corpus(name, data)
    if (len(corpus), corpus.sha256) != (source.n_bytes, source.sha256):
        raise InputError(
            f"{name} is damaged: {len(corpus):,} bytes with SHA-256 {corpus.sha256}, "
            f"expected {source.n_bytes:,} with {source.sha256}; fetch it again with `shalab data {name}`"
        )
    return corpus


def _own(path: str) -> Corpus:
    name = os.path.basename(os.path.abspath(path)) or path
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"no file at {path}; give a path, or one of {', '.join(SOURCES)}") from None
    if stat.S_ISDIR(mode):
        files = _files_below(path)
        return Corpus(name, _spooled(_blocks(files), path), len(files))
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a device or a pipe; give a file or a folder")
    with open(path, "rb") as file:
        return Corpus(name, _map(file, path))


def _files_below(folder: str) -> list[Path]:
    """All files that are not hidden, in the order of their paths, which is the same on every system."""

    def refuse(error: OSError):  # os.walk would skip what it cannot open
        raise error

    files = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files = [path for path in files if stat.S_ISREG(path.stat().st_mode)]  # reading a pipe would wait forever
    if not files:
        raise InputError(f"{folder} holds no file to read; hidden ones are left out")
    return sorted(files, key=lambda path: path.parts)


def _blocks(files: Iterable[Path]) -> Iterator[bytes]:
    """The files' bytes one after the other."""
    for path in files:
        with reading(path), path.open("rb") as file:
            yield from iter(partial(file.read, BLOCK), b"")


def standard_input() -> Iterator[bytes]:
    """Its bytes, block by block, to its end."""
    if sys.stdin is None:
        raise InputError("there is no standard input to read: give a file")
    with reading(_PIPED):
        yield from iter(partial(sys.stdin.buffer.read, BLOCK), b"")


def _spooled(blocks: Iterable[bytes], name: str) -> np.ndarray:
    """The blocks' bytes, mapped from an unnamed file that is deleted with the array, also after a crash."""
    with caching(cache_dir()):
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()) as joined:
            joined.writelines(blocks)
            joined.flush()
            return _map(joined, name)


def _map(file: BinaryIO, path: str | Path) -> np.ndarray:
    if os.fstat(file.fileno()).st_size == 0:
        raise InputError(f"{path} is empty; a corpus needs at least 40 bytes")
    return np.memmap(file, np.uint8, mode="r")
