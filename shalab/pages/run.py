"""A trained model as one web page, to send to somebody who has no Python."""

import json
import os
from pathlib import Path
from typing import Any

from shalab.checkpoint import best_model, newest
from shalab.corpus import SOURCES
from shalab.errors import InputError
from shalab.events import read_metrics
from shalab.export import read_result
from shalab.files import replacing
from shalab.pages.course import scripts, template
from shalab.pages.states import as_json, state
from shalab.widgets import Dashboard, Playground
from shalab.widgets.playground import TEXT

SAMPLES = 3
START = 300  # bytes of the last sample that the playground begins with


def page(run: str | Path, out: str | Path) -> int:
    """Writes a model with its scores, samples and learning curve as one HTML file; returns the file's size in bytes.

    run  the folder of a run or of an export, or a checkpoint file, which has neither curve nor samples
    out  a new file. InputError if it is there already

    The page loads nothing. Of a data file it tells the name, not the path.
    """
    run, out = Path(run), Path(out)
    if os.path.lexists(out):
        raise InputError(f"{out} is there already: name a new file")
    content, path = newest(run)
    model = best_model(content, path)
    lines = read_metrics(run) if (run / "metrics.jsonl").exists() else []
    written = [(line["step"], line["text"].encode("latin-1")) for line in lines if line.get("event") == "sample"]
    some = sorted({i * (len(written) - 1) // (SAMPLES - 1) for i in range(SAMPLES)}) if written else []
    widgets = {"playground": Playground(model, written[-1][1][:START] if written else TEXT)}
    if lines:
        widgets["dashboard"] = Dashboard.from_folder(run)
    data = content["config"]["data"]
    text = template(
        "run.html", title=f"A SHA-RNN trained on {data if data in SOURCES else Path(data).name}", model=model.config,
        n_parameters=model.collapse().n_parameters, facts=_facts(run, content), curve="dashboard" in widgets,
        samples=[(written[i][0], written[i][1].decode("utf-8", "replace")) for i in some],
        scripts=scripts({name: json.loads(as_json(state(widget))) for name, widget in widgets.items()}),
    )  # fmt: skip
    with replacing(out) as file:
        file.write(text.encode())
    return len(text.encode())


def _facts(run: Path, content: dict) -> list[tuple[str, str]]:
    """What is known of its training, in words."""
    result: dict[str, Any] = {}
    if (run / "result.json").exists():
        result = read_result(run)
    scores = {"valid": result.get("valid_bpc", content.get("best_bpc")), "test": result.get("test_bpc")}
    rows = [(f"bits per byte on {split}", f"{bpc:.3f}") for split, bpc in scores.items() if bpc is not None]
    rows += [("the same without a model", "8.000")] if rows else []
    rows += [("updates", f"{content['step']:,}")] if "step" in content else []
    rows += [("bytes read", f"{result['n_bytes']:,}")] if "n_bytes" in result else []
    rows += [("minutes of training", f"{result['train_seconds'] / 60:.1f}")] if "train_seconds" in result else []
    return rows + [("recipe", str(content["config"]["preset"])), ("seed", str(content["config"]["seed"]))]
