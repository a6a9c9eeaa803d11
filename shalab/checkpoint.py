"""Checkpoints: one file of plain tensors and numbers, written whole or not at all."""

import os
import pickle
from pathlib import Path

import torch

from shalab.errors import InputError
from shalab.model import SHARNN, ModelConfig

FORMAT = "shalab checkpoint"
VERSION = 2


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes `content` (tensors, numbers, strings, containers) so that `path` is always a whole file.

    A crash, a full disk or a signal leaves the previous checkpoint in place.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict:
    """Reads what `save_checkpoint` wrote, onto the CPU, without running any pickled code.

    path: a checkpoint file, or a run's folder.
    Raises InputError if the file is missing, cut short, foreign, or of a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoint.pt"
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is cut short or no checkpoint: {str(error).splitlines()[0][:80]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of shalab; weights of the original code go through import_original"
        )
    if content["version"] > VERSION:
        raise InputError(
            f"{path} has format version {content['version']}, this shalab reads up to {VERSION}: update it"
        )
    return content


def export_weights(path: Path, out: Path) -> None:
    """Writes the best weights of `path` in float16 to `out`: a twelfth of a checkpoint, enough for `load_model`."""
    content = load_checkpoint(path)
    best = {name: tensor.half() for name, tensor in content["best"].items()}
    save_checkpoint(
        out, {"config": content["config"], "step": content["step"], "best_bpc": content["best_bpc"], "best": best}
    )


def load_model(path: Path) -> SHARNN:
    """The model with the best validation score of a checkpoint, in evaluation mode; path as of `load_checkpoint`."""
    return best_model(load_checkpoint(path), path)


def best_model(content: dict, path: Path) -> SHARNN:
    """The same from a checkpoint's content; `path` is for the error if its weights are of another configuration."""
    model = SHARNN(ModelConfig(**content["config"]["model"]))
    try:
        model.load_state_dict(content["best"])
    except RuntimeError as error:
        first = " ".join(str(error).split())[:160]
        raise InputError(f"{path} holds weights of another configuration: {first}") from error
    return model.eval()
