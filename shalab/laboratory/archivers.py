"""Archivers that predict better than those in Python's library, and the trained model, learning while it reads:

python -m shalab.laboratory.archivers --out assets/results/archivers.json

The archivers keep learning while they read a slice. The model does so only under `dynamic_evaluate`, which reads valid
and then test in one pass. Part of zpaq's archive is an index, which grows too: with `-fragment 11` valid costs 1.508
instead of 1.513, and the learning model's lead is 0.02 on valid and 0.04 on test. PPMd's variant I gives 1.691 and
2.254.

    python -m shalab.laboratory.archivers --data FILE --out assets/results/tune_book.json

measures a text of at most 15 MB by the archivers alone, here the tune book that notebook 10 writes. And

    python -m shalab.laboratory.archivers --data FILE --out assets/results/standin_archivers.json

measures a longer one, with all that the two need to keep what precedes a slice in view: 3 GB for PPMd, one block of
256 MB for zpaq, which is first priced for the beginnings of the slices, given only what is near. The compressors of
`shalab.baselines` are measured with them, the trained model is not. 100,000,000 bytes take zpaq half an hour or more.

    python -m shalab.laboratory.archivers --ladder --out assets/results/ladder_archivers.json

gives the archivers, xz and n-grams the bytes of enwik6 that the contestants of `shalab lab` read: the beginnings of
16 streams, 3 % more than windows of varying length make of them. n-grams count nothing while
they read a slice; their order is chosen on valid.

Needs `zpaq` (Debian's package of that name) and `pip install pyppmd`, and takes some minutes.
"""

import argparse
import json
import lzma
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from shalab.baselines import baselines
from shalab.batches import Streams
from shalab.corpus import Corpus, load_corpus
from shalab.course import trained_model
from shalab.device import Precision
from shalab.dynamic import dynamic_evaluate
from shalab.errors import InputError
from shalab.evaluate import evaluate
from shalab.laboratory.contestants import FULL, Size
from shalab.metrics import bits_per_byte
from shalab.tokenization.counting import NGram

ORDER, MEMORY = 16, 256 << 20  # of PPMd: contexts of up to 16 bytes, and enough memory to keep all of its counts
SHORT = 15_000_000  # bytes of text that zpaq -m5 keeps in one block
LARGE_MEMORY = 3 << 30  # of PPMd, for texts of up to 100,000,000 bytes
ORDERS = 3, 4, 5, 6  # of n-grams
BEGINNINGS = 200_000, 1_000_000  # bytes of valid and of test that PPMd is priced for as well
NEAR = 9_000_000  # bytes before a slice that zpaq is given when all of them would take too long
LARGE = ("-m58", "-t1")  # zpaq -m5 begins anew after each block, of 2^8 MB here; one thread


def xz_size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def zpaq_size(data: bytes, options: tuple[str, ...] = ("-m5",)) -> int:
    """Bytes of an archive with one file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(data)
        subprocess.run(["zpaq", "add", "a.zpaq", "data", *options], cwd=folder, check=True, capture_output=True)
        return (Path(folder) / "a.zpaq").stat().st_size


def zpaq_version() -> str:
    said = subprocess.run(["zpaq"], capture_output=True, text=True)
    return (said.stdout + said.stderr).split()[1]


def ppmd_size(data: bytes) -> int:
    from pyppmd import compress

    return len(compress(data, max_order=ORDER, mem_size=MEMORY, variant="H"))


def ppmd_sizes(data: bytes, ends: list[int], memory: int = LARGE_MEMORY) -> list[int]:
    """What has been written when so many bytes are read, in one pass: some bytes less than archives of their own."""
    from pyppmd import Ppmd7Encoder

    encoder, sizes = Ppmd7Encoder(ORDER, memory), []
    for begin, end in pairwise([0, *ends]):
        sizes.append((sizes[-1] if sizes else 0) + len(encoder.encode(data[begin:end])))
    return sizes


def ppmd_version(memory: int = MEMORY) -> str:
    return f"variant H, order {ORDER}, {memory >> 20} MB, pyppmd {version('pyppmd')}"


ARCHIVERS = {
    "PPMd": (ppmd_size, ppmd_version),
    "zpaq -m5": (zpaq_size, lambda: f"zpaq {zpaq_version()}"),
}


def measured(corpus: Corpus, size: Callable[[bytes], int], version: str) -> dict:
    """Sizes of train, of train and valid, and of all; and what each slice adds, in bits per byte."""
    sizes = []
    for _, end in corpus.bounds.values():
        sizes.append(size(corpus.data[:end].tobytes()))
        print(f"{end:,} bytes take {sizes[-1]:,}", flush=True)
    return priced(corpus, sizes, version)


def priced(corpus: Corpus, sizes: list[int], version: str) -> dict:
    ends = [end for _, end in corpus.bounds.values()]
    bpc = [8 * (sizes[i + 1] - sizes[i]) / (ends[i + 1] - ends[i]) for i in (0, 1)]
    return {"version": version, "ends": ends, "sizes": sizes, "bpc": [round(value, 4) for value in bpc]}


def near(corpus: Corpus, size: Callable[[bytes], int]) -> list[float]:
    """Bits per byte of the beginnings of valid and test given the NEAR bytes before them: of all it would pay less."""
    n, found = BEGINNINGS[-1], []
    for split in ("valid", "test"):
        begin, _ = corpus.bounds[split]
        text = corpus.data[max(0, begin - NEAR) : begin + n].tobytes()
        found.append(round(8 * (size(text) - size(text[: min(NEAR, begin)])) / n, 4))
    return found


@contextmanager
def installed() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ImportError) as error:
        raise InputError(f"not all is installed ({error}): apt-get install zpaq, pip install pyppmd") from error


def measure_large(corpus: Corpus, out: Path) -> None:
    """Adds to the result file after each archiver what it measured; what stands there of the same text is kept."""
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if found.get("data_sha256") != corpus.sha256:
        found = {"data_sha256": corpus.sha256, "archivers": {}, "compressors": {}}
    if "PPMd" not in found["archivers"]:
        ends = [end for _, end in corpus.bounds.values()]
        after = {n: [begin + n for begin in ends[:2] if begin + n <= len(corpus)] for n in BEGINNINGS}
        at = sorted({*ends, *sum(after.values(), [])})
        size = dict(zip(at, ppmd_sizes(corpus.data.tobytes(), at), strict=True))
        row = priced(corpus, [size[end] for end in ends], ppmd_version(LARGE_MEMORY))
        row["beginnings"] = {n: [round(8 * (size[end] - size[end - n]) / n, 4) for end in after[n]] for n in after}
        found["archivers"]["PPMd"] = row
        write(out, found)
    if not found["compressors"]:
        scores = baselines(corpus.data, corpus.bounds)
        found["compressors"] = {name: [round(value, 4) for value in pair] for name, pair in scores.items()}
        write(out, found)
    if "zpaq -m5 near" not in found["archivers"]:
        row = {
            "version": f"zpaq {zpaq_version()}",
            "given": NEAR,
            "beginnings": {BEGINNINGS[-1]: near(corpus, zpaq_size)},
        }
        found["archivers"]["zpaq -m5 near"] = row
        write(out, found)
    if "zpaq -m58" not in found["archivers"]:
        size = partial(zpaq_size, options=LARGE)
        found["archivers"]["zpaq -m58"] = measured(corpus, size, f"zpaq {zpaq_version()}")
        write(out, found)


def by_archivers(corpus: Corpus) -> dict[str, dict]:
    found = {}
    for name, (size, described) in ARCHIVERS.items():
        found[name] = measured(corpus, size, described())
        print(name, found[name], flush=True)
    return found


def measure_short(corpus: Corpus, out: Path) -> None:
    command = "python -m shalab.laboratory.archivers --data FILE --out OUT"
    write(out, {"command": command, "data_sha256": corpus.sha256, "archivers": by_archivers(corpus)})


def beginnings(train: np.ndarray, size: Size = FULL) -> bytes:
    """What a contestant of the ladder reads, stream by stream."""
    x, _ = Streams(train, size.batch_size).window(0, size.n_bytes // size.batch_size)  # (T, B)
    return x.T.numpy().astype(np.uint8).tobytes()


def measure_ladder(corpus: Corpus, out: Path, size: Size = FULL) -> None:
    """Each slice right after the bytes that were read, not after one another: those of a network do not change."""
    given = beginnings(corpus.split("train"), size)
    slices = {name: corpus.split(name).tobytes() for name in ("valid", "test")}
    found: dict[str, dict] = {}
    for name, (packed, described) in ({"xz -9e": (xz_size, lambda: "liblzma")} | ARCHIVERS).items():
        bpc = [round(8 * (packed(given + text) - packed(given)) / len(text), 4) for text in slices.values()]
        found[name] = {"version": described(), "bpc": bpc}
        print(name, found[name], flush=True)
    tried = {}
    for order in ORDERS:
        counted = NGram(given, 256, order)
        tried[order] = [round(bits_per_byte(float(counted.nats(text).sum()), len(text)), 4) for text in slices.values()]
        print(f"{order}-gram", tried[order], flush=True)
    best = min(tried, key=lambda order: tried[order][0])
    found[f"{best}-gram"] = {"version": f"Witten-Bell, the best of {ORDERS} on valid", "bpc": tried[best]}
    command = "python -m shalab.laboratory.archivers --ladder --out OUT"
    write(out, {"command": command, "data_sha256": corpus.sha256, "given": len(given), "archivers": found})


def measure_enwik6(corpus: Corpus, out: Path) -> None:
    found = by_archivers(corpus)
    model, precision = trained_model(), Precision.pick("cpu", "float32")
    bounds = [end for _, end in corpus.bounds.values()]
    scores = {
        "static": [evaluate(model, corpus.data, *corpus.bounds[split], precision) for split in ("valid", "test")],
        "dynamic": dynamic_evaluate(model, corpus.data, bounds, precision),
    }
    scores = {name: [round(value, 4) for value in pair] for name, pair in scores.items()}
    print(scores, flush=True)
    content = {
        "data_sha256": corpus.sha256, "archivers": found, "trained model": scores,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip
    write(out, content)


def write(out: Path, content: dict) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--data", default="enwik6", metavar="NAME_OR_PATH")
    text.add_argument("--ladder", action="store_true", help="given what the contestants of `shalab lab` read")
    options = parser.parse_args()
    corpus = load_corpus(options.data)
    measure = measure_large if len(corpus) > SHORT else measure_short
    if options.data == "enwik6":
        measure = measure_ladder if options.ladder else measure_enwik6
    with installed():
        measure(corpus, options.out)


if __name__ == "__main__":
    main()
