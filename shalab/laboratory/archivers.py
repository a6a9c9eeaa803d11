"""Archivers that predict better than those in Python's library, and the trained model, learning while it reads:

python -m shalab.laboratory.archivers --out assets/results/archivers.json

The archivers keep learning while they read a slice. The model does so only under `dynamic_evaluate`, which reads valid
and then test in one pass. Part of zpaq's archive is an index, which grows too: with `-fragment 11` valid costs 1.508
instead of 1.513, and the learning model's lead is 0.02 on valid and 0.04 on test. PPMd's variant I gives 1.691 and
2.254.

Needs `zpaq` (Debian's package of that name) and `pip install pyppmd`, and takes some minutes.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from shalab.corpus import Corpus, load_corpus
from shalab.course import trained_model
from shalab.device import Precision
from shalab.errors import InputError
from shalab.evaluate import dynamic_evaluate, evaluate

ORDER, MEMORY = 16, 256 << 20  # of PPMd: contexts of up to 16 bytes, and enough memory to keep all of its counts


def zpaq_size(data: bytes) -> int:
    """Bytes of an archive with one file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(data)
        subprocess.run(["zpaq", "add", "a.zpaq", "data", "-m5"], cwd=folder, check=True, capture_output=True)
        return (Path(folder) / "a.zpaq").stat().st_size


def zpaq_version() -> str:
    said = subprocess.run(["zpaq"], capture_output=True, text=True)
    return (said.stdout + said.stderr).split()[1]


def ppmd_size(data: bytes) -> int:
    from pyppmd import compress

    return len(compress(data, max_order=ORDER, mem_size=MEMORY, variant="H"))


ARCHIVERS = {
    "PPMd": (ppmd_size, lambda: f"variant H, order {ORDER}, {MEMORY >> 20} MB, pyppmd {version('pyppmd')}"),
    "zpaq -m5": (zpaq_size, lambda: f"zpaq {zpaq_version()}"),
}


def measured(corpus: Corpus, size: Callable[[bytes], int], version: str) -> dict:
    """Sizes of train, of train and valid, and of all; and what each slice adds, in bits per byte."""
    ends = [end for _, end in corpus.bounds.values()]
    sizes = [size(corpus.data[:end].tobytes()) for end in ends]
    bpc = [8 * (sizes[i + 1] - sizes[i]) / (ends[i + 1] - ends[i]) for i in (0, 1)]
    return {"version": version, "ends": ends, "sizes": sizes, "bpc": [round(value, 4) for value in bpc]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    corpus, found = load_corpus("enwik6"), {}
    for name, (size, described) in ARCHIVERS.items():
        try:
            found[name] = measured(corpus, size, described())
        except (FileNotFoundError, ImportError) as error:
            raise InputError(f"{name} is not installed ({error}): apt-get install zpaq, pip install pyppmd") from error
        print(name, found[name], flush=True)
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
