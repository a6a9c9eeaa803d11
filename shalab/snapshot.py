"""The state of a training, for a checkpoint.

Continued from it on the same device, in the same format and with as many threads and processes, a run has the same bits
as one that never stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shalab.device import to_host
from shalab.model import State

if TYPE_CHECKING:  # the loop imports this module
    from shalab.train import Trainer


def take(trainer: Trainer) -> dict:
    """What a new Trainer with the same arguments needs in order to go on.

    Several processes call it together; the first one gets the state of all streams, the others {}.
    """
    hidden, memory = trainer.state or State((), ())
    parts = trainer.team.gather(
        {
            "hidden": [[to_host(part) for part in pair or ()] for pair in hidden],
            "memory": [None if rows is None else to_host(rows) for rows in memory],
            "random": trainer.precision.random_state(),
            "unreported": [(to_host(loss), to_host(norm)) for loss, norm in trainer.unreported],
        }
    )
    if not parts:
        return {}
    hiddens, memories = (zip(*(part[name] for part in parts), strict=True) for name in ("hidden", "memory"))
    return {
        "model": trainer.model.state_dict(),
        "best": trainer.best,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "hidden": [[torch.cat(part, 1) for part in zip(*pairs, strict=True)] for pairs in hiddens],  # (1, B, D)
        "memory": [None if rows[0] is None else torch.cat(rows, 1) for rows in memories],  # (M, B, D)
        "random": [part["random"] for part in parts],
        "unreported": [part["unreported"] for part in parts],
        "window_random": trainer.windows.random_state(),
        **{name: getattr(owner, name) for name, owner in _counters(trainer).items()},
    }


def restore(trainer: Trainer, content: dict) -> None:
    """Continues from what `take` returned; raises ValueError or another exception if that does not fit this trainer.

    If another number of processes wrote it, dropout masks are drawn anew, and of what waits for a report each process
    has the mean; if another number format did, the loss scale begins anew.
    """
    trainer.model.load_state_dict(content["model"])
    trainer.optimizer.load_state_dict(content["optimizer"])
    for parameter, moments in trainer.optimizer.state.items():
        if any(moment.ndim and moment.shape != parameter.shape for moment in moments.values()):
            raise ValueError("moments of other tensors")
    if content["scaler"]:
        trainer.scaler.load_state_dict(content["scaler"])
    trainer.best = content["best"]
    trainer.state = _own_streams(trainer, content["hidden"], content["memory"])
    trainer.windows.set_random_state(content["window_random"])
    for name, owner in _counters(trainer).items():
        if type(content[name]) is not type(getattr(owner, name)):
            raise ValueError(f"{name} is {content[name]!r}")
        setattr(owner, name, content[name])
    unreported = content.get("unreported", [])  # older ones have none
    if len(content["random"]) == trainer.team.size:
        trainer.precision.set_random_state(content["random"][trainer.team.rank])
        own = unreported[trainer.team.rank] if unreported else []
    else:
        trainer.seed_dropout()
        own = [torch.stack([torch.stack(pair) for pair in pairs]).mean(0) for pairs in zip(*unreported, strict=True)]
    trainer.unreported = [(trainer.precision.place(loss), trainer.precision.place(norm)) for loss, norm in own]


def _counters(trainer: Trainer) -> dict[str, Any]:
    """Name -> the object that has it."""
    names = "step", "total_steps", "scored", "cooled", "n_bytes", "best_bpc"
    return {**dict.fromkeys(names, trainer), "cursor": trainer.windows, "elapsed_s": trainer.stopwatch}


def _own_streams(trainer: Trainer, hidden: list, memory: list) -> State | None:
    """This process's part of the state, in float32, from which every number format is made without loss."""
    if len(hidden) != len(memory) or len(hidden) not in (0, len(trainer.model.blocks)):
        raise ValueError("a state of other blocks")

    def own(x: Tensor) -> Tensor:  # (., B, D)
        if x.shape[1:] != (trainer.config.batch_size, trainer.model.config.d_model):
            raise ValueError("a state of other streams")
        return trainer.precision.place(x[:, trainer.own_streams].float().contiguous())

    if not hidden:
        return None
    return State(
        tuple((own(h), own(c)) for h, c in hidden), tuple(None if rows is None else own(rows) for rows in memory)
    )
