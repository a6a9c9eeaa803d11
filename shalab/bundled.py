"""What comes with the package: enwik6, a trained model, and the results of longer runs."""

import json
from pathlib import Path


def assets_dir() -> Path:
    """The folder `assets`: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(path for path in (package / "assets", package.parent / "assets") if path.is_dir())


def stored_result(name: str) -> dict:
    """What an experiment of `shalab.laboratory` found when the course was written: `assets/results/{name}.json`."""
    return json.loads((assets_dir() / "results" / f"{name}.json").read_text(encoding="utf-8"))
