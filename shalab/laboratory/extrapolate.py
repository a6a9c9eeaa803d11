"""Where a run's valid curve would be after more bytes, by a power law, and how much that guess depends on the fit.

    python -m shalab.laboratory.extrapolate assets/overnight --hours 8

A run whose rate falls to zero ends lower than one of twice its length is at that byte, and its curve is steeper at its
end: so a curve's own fit may err in either direction. Ends of complete runs of the same recipe are safer:

    python -m shalab.laboratory.extrapolate assets/overnight --hours 8 --ends 480000:3.1 960000:2.6
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shalab.errors import InputError
from shalab.events import read_metrics

PARTS = (2 / 3, 1 / 2, 1 / 3)  # of a curve, counted from its end
FLOORS = 100  # candidates between 0 and the lowest score


@dataclass(frozen=True)
class PowerLaw:
    """bpc = floor + scale * n_bytes ** -exponent"""

    floor: float
    scale: float
    exponent: float

    def __call__(self, n_bytes):
        return self.floor + self.scale * np.asarray(n_bytes, float) ** -self.exponent


def fit(n_bytes, bpc, floor: float = 0.0) -> PowerLaw:
    """The law with this floor that is nearest in logarithms: a straight line through log n and log(bpc - floor)."""
    slope, height = np.polyfit(np.log(n_bytes), np.log(np.asarray(bpc, float) - floor), 1)
    return PowerLaw(float(floor), float(np.exp(height)), float(-slope))


def fit_floor(n_bytes, bpc) -> PowerLaw:
    """The law whose floor, of FLOORS, leaves the smallest squares; a short curve determines a floor badly."""
    laws = [fit(n_bytes, bpc, floor) for floor in np.linspace(0, min(bpc), FLOORS, endpoint=False)]
    return min(laws, key=lambda law: float(np.sum((law(n_bytes) - bpc) ** 2)))


def extrapolated(n_bytes, bpc, at: float) -> dict[str, float]:
    """Bits per byte after `at` bytes by the last two thirds, and the range over all parts, with a floor and without."""
    n_bytes, bpc = np.asarray(n_bytes, float), np.asarray(bpc, float)
    if len(bpc) < 3:
        raise InputError(f"a power law with a floor needs at least three points, got {len(bpc)}")
    guesses = []
    for part in PARTS:
        last = slice(len(bpc) - max(3, round(part * len(bpc))), None)
        guesses += [float(law(n_bytes[last], bpc[last])(at)) for law in (fit, fit_floor)]
    return {"no_floor": guesses[0], "floor": guesses[1], "low": min(guesses), "high": max(guesses)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--hours", type=float, default=8)
    parser.add_argument(
        "--ends", nargs="+", metavar="BYTES:BPC", help="complete runs, this one's end included, instead"
    )
    options = parser.parse_args()
    points = [line for line in read_metrics(options.run) if line["event"] == "eval"]
    n_bytes, bpc = zip(*((line["n_bytes"], line["valid_bpc"]) for line in points), strict=True)
    at = n_bytes[-1] / points[-1]["elapsed_s"] * 3600 * options.hours
    if options.ends:
        n_bytes, bpc = zip(*(map(float, end.split(":")) for end in options.ends), strict=True)
    found = {name: round(value, 3) for name, value in extrapolated(n_bytes, bpc, at).items()}
    print(json.dumps({"n_bytes": round(at), **found}))


if __name__ == "__main__":
    main()
