"""A finished run, made small enough to share."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from shalab.checkpoint import NEWEST, check_finite, model_config, newest, save_checkpoint
from shalab.corpus import SOURCES
from shalab.errors import InputError
from shalab.events import read_metrics
from shalab.files import as_json, write_json, write_text, writing
from shalab.run_config import RunConfig, to_resume


def export(folder: Path, out: Path) -> None:
    """Copies a finished run without what only resuming needs, its weights in float16: a few MB, for `load_model`.

    Of a data file it tells the name and the checksum, not the path. If anything fails there is no `out`.
    """
    folder, out = Path(folder), Path(out)
    if not (folder / "result.json").exists():
        raise InputError(f"{folder} holds no finished run: finish one with `{to_resume(folder)}`")
    own = RunConfig.read(folder)
    config = asdict(replace(own, data=own.data if own.data in SOURCES else Path(own.data).name))
    content, path = newest(folder)
    model_config(content, path)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'result.json'} is damaged: make it again with --resume ({error})") from error
    best = {name: tensor.half() for name, tensor in content["best"].items()}
    check_finite(best, path)
    with writing(out):
        try:
            out.mkdir(parents=True)
        except FileExistsError:
            raise InputError(f"{out} exists already: name another folder") from None
    try:
        kept = {name: content[name] for name in ("step", "best_bpc")}
        save_checkpoint(out / NEWEST, {"config": config, **kept, "best": best})
        write_json(out / "config.json", config)
        write_text(out / "metrics.jsonl", "".join(as_json(line) + "\n" for line in read_metrics(folder)))
        write_json(out / "result.json", result)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
