"""A stand-in for enwik8, for machines that cannot fetch it: 100,000,000 bytes of English with markup.

    python -m shalab.laboratory.standin OUT

takes the texts from the packages that `assets/standin.json` names: dictionaries, plays, the Bible, manuals. Debian's
come by `apt-get download`, Python's by `pip download`; both are kept in OUT.packages, and nothing is installed. Each is
compared with its SHA-256, and so is the text that comes out. It is enwik8's stand-in in size and kind only: no score on
it may stand beside one on enwik8.

Once Debian has replaced a version, its package is found at https://snapshot.debian.org: put it into OUT.packages.
"""

import argparse
import gzip
import hashlib
import io
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from shalab.bundled import assets_dir
from shalab.errors import InputError
from shalab.files import replacing

PIECE = 100_000  # bytes: longer files are cut into such pieces, so that each split gets some of a long dictionary
SHORTEST = 1_000  # bytes of a document
WORDS = (b" the ", b" of ", b" and ", b" to ", b" a ", b" in ")  # English has one of them in less than 100 bytes


def read_sources() -> dict:
    return json.loads((assets_dir() / "standin.json").read_text(encoding="utf-8"))


def fetch(source: dict, folder: Path) -> Path:
    """The file of a package in `folder`, downloaded if it is not there, with the SHA-256 that the list has."""
    path, pinned = folder / source["file"], f"{source['package']}{'=' if source['from'] == 'debian' else '=='}"
    if not path.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        command = ["apt-get", "download", "--quiet"] if source["from"] == "debian" else pip
        done = subprocess.run([*command, pinned + source["version"]], cwd=folder, capture_output=True, text=True)
        if not path.exists():
            raise InputError(f"{' '.join(command)} {pinned}{source['version']} brought no {path.name}: {done.stderr}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != source["sha256"]:
        raise InputError(f"{path} has SHA-256 {found}, expected {source['sha256']}")
    return path


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a Debian package or a source distribution, unzipped, in its own order."""
    packed = path.read_bytes()
    if path.suffix == ".deb":
        packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            if member.isfile():
                content = archive.extractfile(member).read()
                zipped = member.name.endswith((".gz", ".dz"))
                yield member.name.removesuffix(".gz"), gzip.decompress(content) if zipped else content


def english(content: bytes) -> bytes | None:
    """The text in UTF-8; None if it is short, hardly text, or, as a rough count of small words has it, not English."""
    try:
        content.decode()
    except UnicodeDecodeError:
        content = content.decode("latin-1").encode()
    n_ascii = sum(byte < 128 and (byte > 31 or byte in b"\n\t\r") for byte in content[:PIECE])
    n_words = sum(content[:PIECE].count(word) for word in WORDS)
    length = len(content[:PIECE])
    return content if length >= SHORTEST and n_ascii > 0.9 * length and n_words > length / 150 else None


def pieces(content: bytes) -> list[bytes]:
    """The text, cut at ends of lines if it is long."""
    found, begin = [], 0
    while len(content) - begin > PIECE * 3 // 2:
        end = content.rfind(b"\n", begin, begin + PIECE) + 1
        end = end if end > begin else begin + PIECE
        found.append(content[begin:end])
        begin = end
    return [*found, content[begin:]]


def texts(source: dict, path: Path) -> list[bytes]:
    """The texts of one package in the order of their names: those that the list's patterns want and English likes."""
    wanted = sorted((name, text) for name, text in members(path) if any(fnmatch(name, p) for p in source["files"]))
    return [content for _, text in wanted if (content := english(text)) is not None]


def build(sources: list[dict], folder: Path, n_bytes: int) -> bytes:
    """All pieces of all texts, none twice, shuffled by a fixed seed and cut to n bytes.

    Of a package with a number as `most`, no more bytes than that many are taken, from anywhere in it.
    """
    shuffled, seen, documents = random.Random(0), set(), []
    for source in sources:
        of_package = []
        for text in texts(source, fetch(source, folder)):
            if (digest := hashlib.sha256(text).digest()) not in seen:
                seen.add(digest)
                of_package += pieces(text)
        shuffled.shuffle(of_package)
        while source.get("most") and sum(map(len, of_package)) > source["most"]:
            of_package.pop()
        print(f"{source['package']} {source['version']}: {sum(map(len, of_package)):,} bytes", flush=True)
        documents += of_package
    shuffled.shuffle(documents)
    joined = b"\n".join(documents)
    if len(joined) < n_bytes:
        raise InputError(f"the packages hold only {len(joined):,} bytes of English, {n_bytes:,} are wanted")
    return joined[:n_bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    folder = options.out.with_name(options.out.name + ".packages")
    folder.mkdir(parents=True, exist_ok=True)
    listed = read_sources()
    text = build(listed["sources"], folder, listed["n_bytes"])
    with replacing(options.out) as file:
        file.write(text)
    found = hashlib.sha256(text).hexdigest()
    print(f"{options.out}: {len(text):,} bytes, SHA-256 {found}")
    if found != listed["sha256"]:
        raise InputError(f"expected SHA-256 {listed['sha256']}: this is another text")


if __name__ == "__main__":
    main()
