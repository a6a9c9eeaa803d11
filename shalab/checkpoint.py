"""Checkpoints: one file of plain tensors and numbers, written whole or not at all, and the one before it."""

import errno
import hashlib
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from shalab.errors import InputError
from shalab.files import notice, replacing
from shalab.model import SHARNN, ModelConfig
from shalab.shapes import blank

FORMAT = "shalab checkpoint"
VERSION = 2
NEWEST, BEFORE = "checkpoint.pt", "checkpoint-before.pt"  # in a run's folder


class Damaged(InputError):
    """A checkpoint that is missing, or not as it was written."""


def save_checkpoint(path: Path, content: dict, before: Path | None = None) -> None:
    """Writes `content`: tensors, numbers, strings, containers. Whatever happens, `path` or `before` is a whole file."""
    buffer = io.BytesIO()  # writing to a file, torch.save would hide the system's errors
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    with replacing(path, before) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Reads what `save_checkpoint` wrote, onto the CPU, without running any pickled code.

    path: a checkpoint file, one in safetensors by `shalab export`, or a run's folder; if its newest checkpoint is
    damaged, the one before is read instead, with a notice. InputError if there is none, or it is damaged, foreign, or
    of a newer version.
    """
    return newest(path)[0]


def newest(path: Path) -> tuple[dict, Path]:
    """`load_checkpoint`, and the file that was read."""
    path = Path(path)
    if path.suffix == ".safetensors":
        from shalab.portable import read_safetensors

        return read_safetensors(path), path
    if not path.is_dir():
        return _load(path), path
    try:
        return _load(path / NEWEST), path / NEWEST
    except Damaged as error:
        if not (path / BEFORE).exists():
            raise
        content = _load(path / BEFORE)
        notice(f"{error}; {path / BEFORE}, of step {content.get('step')}, is taken instead")
        return content, path / BEFORE


def _load(path: Path) -> dict:
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load would take what does not match the archive's checksums
            whole = archive.testzip() is None
            # PyTorch reads nothing of a record that is marked as a folder, and checks nothing.
            whole = whole and not any(record.external_attr & 0x10 for record in archive.infolist())
        content = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except FileNotFoundError:
        raise Damaged(f"no checkpoint at {path}: name the folder of a run or an export, or a checkpoint file") from None
    except Exception as error:  # a damaged archive, and a damaged pickle inside, fail in many ways
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a damaged place inside the archive
            raise InputError(f"cannot read {path} ({error.strerror or error})") from error
        raise Damaged(f"{path} is damaged, cut short, or not a checkpoint") from error
    if not whole:
        raise Damaged(f"{path} is damaged: its content does not match its checksum")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a checkpoint of shalab; weights of the original code go through import_original"
        )
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"{path} has format version {version}, this shalab reads up to {VERSION}: update it")
    return content


def load_model(path: Path) -> SHARNN:
    """The model with the best validation score of a checkpoint, in evaluation mode; path as of `load_checkpoint`."""
    return best_model(load_checkpoint(path), path)


def best_model(content: dict, path: Path) -> SHARNN:
    """The same from a checkpoint's content; `path` is for the error if its weights are not those of a model."""
    model = SHARNN(model_config(content, path))
    model.load_state_dict(content["best"])
    return model.eval()


def model_config(content: dict, path: Path) -> ModelConfig:
    """The configuration that the best weights are of. InputError if they are of another one, or not finite."""
    try:
        best = dict(content["best"])
        config = ModelConfig(**content["config"]["model"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} holds no model ({error})") from error
    shapes = None
    if config.n_layers <= len(best):
        shapes = {name: tensor.shape for name, tensor in blank(config).state_dict().items()}
    if shapes != {name: getattr(tensor, "shape", None) for name, tensor in best.items()}:
        raise InputError(f"{path} holds weights of another configuration than its own")
    check_finite(best, path)
    return config


def weights_sha256(model: SHARNN) -> str:
    """The SHA-256 of a model's weights in float32, which unrounded copies share."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_finite(weights: dict[str, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} holds weights that are not finite numbers: {name}")
