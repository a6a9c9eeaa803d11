"""Fetches published corpora. Whatever a mirror answers, only what has been verified becomes a corpus."""

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from shalab.corpus import BLOCK, SOURCES, Source, caching, load_corpus, stored_path
from shalab.errors import InputError
from shalab.files import replacing

TIMEOUT_S = 30  # without a byte; then the next mirror is asked
OVERLAP = 4096  # bytes at the end of a kept part that are asked for again, to see that the answer continues it
ZIP = b"PK\3\4"  # how an archive begins

HOSTS = (
    "https://mattmahoney.net/dc",
    "https://cs.fit.edu/~mmahoney/compression",
    "https://data.deepai.org",
    "http://mattmahoney.net/dc",
)
# The addresses of a corpus's zip archive, in the order in which they are asked.
MIRRORS = {name: tuple(f"{host}/{name}.zip" for host in HOSTS) for name in ("enwik8", "enwik9")}

Progress = Callable[[int, int], None]  # bytes so far, bytes in all


class MirrorError(Exception):
    """Why a mirror was of no use; the next one is asked."""


def fetch(name: str, progress: Progress = lambda done, total: None) -> Path | None:
    """Downloads, unpacks and verifies a published corpus; does nothing if a verified copy is there.

    A download that breaks off is kept, and the next call continues it. Returns the unpacked file's path, None for the
    embedded enwik6. Raises InputError if no mirror delivers, the disk refuses, or another process is fetching it.
    """
    if name not in SOURCES:
        raise InputError(f"no corpus is called {name!r}; there are {', '.join(SOURCES)}")
    path = stored_path(name)
    source = SOURCES[path.name]
    archive = path.with_name(f"{path.name}.zip.part")
    try:
        load_corpus(name)
    except InputError:
        if path.name not in MIRRORS:
            raise
        with caching(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(path.with_name(f"{path.name}.lock"), timeout=0):
                    _ask_mirrors(source, archive, path, progress)
            except Timeout:
                raise InputError(
                    f"another process is fetching {path.name} into {path.parent}: wait until it is done"
                ) from None
    with contextlib.suppress(OSError):  # there is none, or it stays, which does no harm
        archive.unlink()
    return path if path.name in MIRRORS else None


def _ask_mirrors(source: Source, archive: Path, path: Path, progress: Progress) -> None:
    faults = []
    for url in MIRRORS[path.name]:
        try:
            _download(url, archive, source.n_bytes + BLOCK, progress)
            return _unpack(archive, path, source)
        except MirrorError as error:
            faults.append(f"{url}: {error}")
    advice = "what arrived is kept: run the command again to go on"
    if not archive.exists() or archive.stat().st_size == 0:
        archive.unlink(missing_ok=True)
        advice = "run the command again later"
    raise InputError(f"no mirror delivered {path.name}.zip ({'; '.join(faults)}); {advice}")


def _download(url: str, archive: Path, most: int, progress: Progress) -> None:
    """Completes `archive` from one mirror. What is kept of it changes only where a real archive differs from it."""
    archive.touch()
    with caching(archive), archive.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for begin in (size - OVERLAP, 0) if size > OVERLAP else (0,):
            total = 0
            file.seek(begin)
            expected = file.read(OVERLAP) if begin else ZIP
            for place, total, block in _answer(url, begin, expected, most):
                file.seek(place)
                if file.read(len(block)) != block:
                    file.seek(place)
                    file.truncate()
                    file.write(block)
                    file.flush()
                progress(place + len(block), total)
            if total:
                file.truncate(total)
                return


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection without reading what comes with it, which may have no end."""

    def http_error_302(self, request, reply, *others):
        reply.close()
        return super().http_error_302(request, reply, *others)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


OPENER = urllib.request.build_opener(Redirects)


def _answer(url: str, begin: int, expected: bytes, most: int) -> Iterator[tuple[int, int, bytes]]:
    """What a mirror sends of its archive from byte `begin` on: blocks, each after its place and the archive's length.

    It has to start with the bytes `expected`. If a mirror cannot go on at `begin` > 0, or has another archive, nothing
    is yielded, and the caller asks for the whole archive instead.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as reply:
            place, length = 0, reply.headers.get("Content-Length", "")
            if reply.status == 206:
                extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
                place, length = (int(extent[1]), extent[2]) if extent else (-1, "")
            block = reply.read(OVERLAP)
            if place != begin or not block.startswith(expected):
                if begin:
                    return
                page = reply.headers.get_content_type() == "text/html"
                raise MirrorError(f"sent {'a web page' if page else 'something else'} instead of a zip archive")
            total = int(length) if length.isdecimal() else 0
            if not place < total <= most:
                raise MirrorError(f"gives {length[:20] or 'nothing'} as its archive's length, expected up to {most:,}")
            block = block[: total - place]
            while block:
                yield place, total, block
                place += len(block)
                block = reply.read1(min(BLOCK, total - place))
    except urllib.error.HTTPError as error:
        if error.code == 416 and begin:  # it has nothing from there on
            return
        raise MirrorError(f"answered with HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = f"{type(reason).__name__}: {reason}"[:200]
        raise MirrorError(repr(text)[1:-1]) from error  # repr: a mirror's words must not move the terminal's cursor
    if place < total:
        raise MirrorError(f"ended after {place:,} of {total:,} bytes")


def _unpack(archive: Path, path: Path, source: Source) -> None:
    """Unpacks to `path`, which appears only if size and SHA-256 are right. A wrong archive is removed."""
    digest = hashlib.sha256()
    try:
        with replacing(path) as file, caching(path.with_name(f"{path.name}.part")):
            for block in _content(archive, path.name, source.n_bytes):
                file.write(block)
                digest.update(block)
            file.flush()
            if digest.hexdigest() != source.sha256:
                raise MirrorError(f"SHA-256 {digest.hexdigest()}, expected {source.sha256}")
    except MirrorError as error:
        archive.unlink(missing_ok=True)
        raise MirrorError(f"sent a damaged archive, which was removed ({error})") from error


def _content(archive: Path, name: str, n_bytes: int) -> Iterator[bytes]:
    """The one file in an archive that is asked for, in blocks: never more than `n_bytes` bytes."""
    try:
        with zipfile.ZipFile(archive) as packed:
            info = packed.getinfo(name)
            if info.file_size != n_bytes:  # zipfile ends there, however much there is
                raise MirrorError(f"{info.file_size:,} bytes, expected {n_bytes:,}")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise MirrorError("packed in a way that can take any amount of memory")
            with packed.open(info) as member:
                while block := member.read(BLOCK):
                    yield block
    except Exception as error:  # zipfile raises many kinds for what is no archive
        raise MirrorError(str(error)) from error
