"""A finished run, made small enough to share."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from shalab.checkpoint import NEWEST, check_finite, model_config, newest, save_checkpoint
from shalab.corpus import SOURCES
from shalab.errors import AT_LEAST_0, InputError, refuse, wrong
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
    result = read_result(folder)
    content, path = newest(folder)
    model_config(content, path)
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


def read_result(folder: Path) -> dict:
    """The scores of a complete run, as its result.json has them."""
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        refuse(wrong(AT_LEAST_0, valid_bpc=result["valid_bpc"], test_bpc=result["test_bpc"]))
        return result
    except OSError as error:
        raise InputError(f"{folder} has no scores yet ({error.strerror}): its run writes them at its end") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: make it again with {to_resume(folder)}") from error
