"""Real bytes: the embedded enwik6, downloads that are verified, and any file of your own.

enwik8 is the first 100,000,000 bytes of the English Wikipedia dump of 3 March 2006
(Matt Mahoney, Large Text Compression Benchmark). enwik6 and enwik7 are prefixes of it.
"""

import hashlib
import lzma
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from shalab.errors import InputError

CACHE_VARIABLE = "SHALAB_CACHE"
BLOCK = 1 << 20  # bytes read at a time when hashing, downloading or unpacking
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Source:
    """Where a published corpus comes from and how to know it again.

    sha256 is that of the unpacked file. mirrors are tried in order. A corpus with `prefix_of` has no
    download of its own: it is the first `n_bytes` bytes of another one.
    """

    n_bytes: int
    sha256: str
    mirrors: tuple[str, ...] = ()
    prefix_of: str | None = None


SOURCES = {
    "enwik6": Source(1_000_000, "369b688978f649681136198fb96db14c1616756260c55fb4b65e9bc049552cad"),
    "enwik7": Source(
        10_000_000, "5985c81c39d927ae0e169625790ca4d9e7d1531270c8b09ad73176a375bb3d97", prefix_of="enwik8"
    ),
    "enwik8": Source(
        100_000_000,
        "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        (
            "http://mattmahoney.net/dc/enwik8.zip",
            "https://cs.fit.edu/~mmahoney/compression/enwik8.zip",
            "https://data.deepai.org/enwik8.zip",
        ),
    ),
    "enwik9": Source(
        1_000_000_000,
        "159b85351e5f76e60cbe32e04c677847a9ecba3adc79addab6f4c6c7aa3744bc",
        (
            "http://mattmahoney.net/dc/enwik9.zip",
            "https://cs.fit.edu/~mmahoney/compression/enwik9.zip",
            "https://data.deepai.org/enwik9.zip",
        ),
    ),
}


@dataclass(frozen=True)
class Corpus:
    """A file as bytes, with the bounds of its three splits.

    data: (N,) uint8, memory-mapped where it comes from a file, so N may exceed the memory.
    """

    name: str
    data: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.data)

    @cached_property
    def bounds(self) -> dict[str, tuple[int, int]]:
        """First and one-past-last byte of train, valid and test: 90 %, 5 % and 5 % of the file."""
        n = len(self.data)
        first, second = n * 90 // 100, n * 95 // 100
        return {"train": (0, first), "valid": (first, second), "test": (second, n)}

    def split(self, name: str) -> np.ndarray:
        """The bytes of one split, a view."""
        begin, end = self.bounds[name]
        return self.data[begin:end]

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for begin in range(0, len(self.data), BLOCK):
            digest.update(self.data[begin : begin + BLOCK])
        return digest.hexdigest()


def assets_dir() -> Path:
    """The folder `assets`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "assets", package.parent / "assets") if path.is_dir())


def cache_dir() -> Path:
    """Where downloads live: $SHALAB_CACHE, else $XDG_CACHE_HOME/shalab, else ~/.cache/shalab."""
    if cache := os.environ.get(CACHE_VARIABLE):
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shalab"


def load_corpus(name_or_path: str) -> Corpus:
    """Opens a published corpus by name, any file by path, or all files of a folder as one. Never downloads.

    Raises InputError if the file is missing, empty, too small to split, or not what its name promises.
    """
    if name_or_path == "enwik6":
        packed = assets_dir() / "enwik6.xz"
        corpus = Corpus("enwik6", np.frombuffer(lzma.decompress(packed.read_bytes()), np.uint8))
    elif name_or_path in SOURCES:
        stored = SOURCES[name_or_path].prefix_of or name_or_path
        path = cache_dir() / stored
        if not path.exists():
            raise InputError(f"{name_or_path} is not on this machine: fetch it with `shalab data {name_or_path}`")
        corpus = Corpus(name_or_path, _map(path)[: SOURCES[name_or_path].n_bytes])
    else:
        path = Path(name_or_path)
        corpus = Corpus(path.name, _map(_pack(path) if path.is_dir() else path))
    if name_or_path in SOURCES:
        _verify(corpus, SOURCES[name_or_path])
    if len(corpus) < 40:
        raise InputError(
            f"{name_or_path} has {len(corpus)} bytes; a file needs at least 40, of which valid and test get 5 % each"
        )
    return corpus


def canonical(name_or_path: str) -> str:
    """A published corpus's name, or the absolute path of a file: what `load_corpus` finds from any folder."""
    return name_or_path if name_or_path in SOURCES else str(Path(name_or_path).resolve())


def fetch(name: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Path | None:
    """Downloads, unpacks and verifies a published corpus; does nothing if a verified copy is there.

    progress(done, total) is called in bytes as the archive arrives. A broken download is kept and
    continued by the next call. Returns the unpacked file's path, None for the embedded enwik6.
    Raises InputError if no mirror answers, the archive is cut short, or size or SHA-256 are wrong.
    """
    if name not in SOURCES:
        raise InputError(f"no corpus is called {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    if source.prefix_of:
        path = fetch(source.prefix_of, progress)
    elif not source.mirrors:
        path = None
    else:
        path = cache_dir() / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            archive = path.with_name(name + ".zip.part")
            _download(source.mirrors, archive, progress)
            _unpack(archive, path, source)
    load_corpus(name)  # verifies
    return path


def _pack(folder: Path) -> Path:
    """All files below `folder`, in the order of their paths, as one file in the cache; new as soon as one changes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    packed = cache_dir() / "folders" / hashlib.sha256(repr(facts).encode()).hexdigest()
    if not packed.exists():
        packed.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=packed.parent, delete=False) as out:
            for path in files:
                with path.open("rb") as file:
                    shutil.copyfileobj(file, out, BLOCK)
        os.replace(out.name, packed)
    return packed


def _map(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"no file at {path}; give a path, or one of {', '.join(SOURCES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; a corpus needs at least 40 bytes")
    return np.memmap(path, np.uint8, mode="r")


def _verify(corpus: Corpus, source: Source) -> None:
    if len(corpus) != source.n_bytes:
        raise InputError(
            f"{corpus.name} has {len(corpus):,} bytes, expected {source.n_bytes:,}: remove it and fetch it again"
        )
    if corpus.sha256 != source.sha256:
        raise InputError(
            f"{corpus.name} has SHA-256 {corpus.sha256}, expected {source.sha256}: remove it and fetch it again"
        )


def _download(mirrors: tuple[str, ...], archive: Path, progress: Callable[[int, int], None]) -> None:
    """Appends to `archive` what it still lacks, from the first mirror that delivers all of it."""
    faults = []
    for url in mirrors:
        done = archive.stat().st_size if archive.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                resumed = reply.status == 206
                done = done if resumed else 0
                total = done + int(reply.headers["Content-Length"])
                with archive.open("ab" if resumed else "wb") as file:
                    while block := reply.read(BLOCK):
                        file.write(block)
                        done += len(block)
                        progress(done, total)
            if done == total:
                return
            faults.append(f"{url}: ended after {done:,} of {total:,} bytes")
        except urllib.error.HTTPError as error:
            if error.code == 416 and done:  # nothing is left to send: the archive is complete
                return
            faults.append(f"{url}: {error}")
        except (OSError, TypeError) as error:  # TypeError: no Content-Length, so completeness could not be known
            faults.append(f"{url}: {error}")
    raise InputError(
        f"no mirror delivered {archive.name.removesuffix('.part')} ({'; '.join(faults)}); "
        "what arrived is kept: run the command again to go on"
    )


def _unpack(archive: Path, path: Path, source: Source) -> None:
    """Unpacks the archive's only file to `path`, which appears only if size and SHA-256 are right."""
    part = path.with_name(path.name + ".part")
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(archive) as packed, packed.open(path.name) as member, part.open("wb") as file:
            while block := member.read(BLOCK):
                file.write(block)
                digest.update(block)
                n_bytes += len(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        archive.unlink()
        part.unlink(missing_ok=True)
        raise InputError(f"the downloaded {path.name}.zip is damaged and was removed: run the command again") from error
    if n_bytes != source.n_bytes or digest.hexdigest() != source.sha256:
        archive.unlink()
        part.unlink()
        raise InputError(
            f"the downloaded {path.name} has {n_bytes:,} bytes and SHA-256 {digest.hexdigest()}, expected "
            f"{source.n_bytes:,} and {source.sha256}; it was removed: run the command again or use another network"
        )
    os.replace(part, path)
    archive.unlink()
