"""Several processes that train one model: `torchrun --nproc-per-node N -m shalab train ...`.

Each reads its share of the streams and keeps their state. Gradients are averaged by PyTorch's DistributedDataParallel,
so that all hold the same weights; the first one writes. Alone, every method gives back what it was given.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from shalab.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """rank of this process, the number of all, and of its accelerator on this machine; launcher started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: int | None = None

    @classmethod
    def join(cls) -> "Team":
        """Meets the others where torchrun's environment says; alone without it."""
        rank, size, local_rank = (int(os.environ.get(name, n)) for name, n in _ENVIRONMENT.items())
        if size == 1:
            return ALONE
        if not distributed.is_initialized():
            store, rank, size = next(distributed.rendezvous("env://"))
            # A restarted worker on the launcher's own machine finds the store of the attempt before: without a prefix
            # it would call at the addresses of processes that are gone.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
                store = distributed.PrefixStore(f"attempt {attempt}", store)
            distributed.init_process_group(store=store, rank=rank, world_size=size)  # gloo for CPUs, NCCL for GPUs
            atexit.register(distributed.destroy_process_group)  # else its threads may outlive the interpreter
        return cls(rank, size, local_rank, os.getppid())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, n_streams: int) -> slice:
        """This process's part of n streams."""
        if n_streams % self.size:
            raise InputError(f"{n_streams} streams cannot be divided among {self.size} processes: change --batch-size")
        part = n_streams // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def model(self, model: nn.Module) -> nn.Module:
        """The model to train with: its gradients are the mean of all processes'."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)

    def sum(self, x: float) -> float:
        if self.size == 1:
            return x
        total = torch.tensor(x, dtype=torch.double)
        distributed.all_reduce(total)
        return total.item()

    def first_does(self, act: Callable[[], T]) -> T | None:
        """What the first one's act() gives back, for the first one. If it raises an InputError, all raise one."""
        result = error = None
        if self.first:
            try:
                result = act()
            except InputError as raised:
                error = raised
        if self.any(error is not None):
            raise error or InputError("the first process gave up")
        return result

    def any(self, flag: bool) -> bool:
        return self.sum(float(flag)) > 0

    def ends(self, stop: bool) -> bool:
        """Whether one of them was told to stop, or has lost its launcher: then all end together."""
        return self.any(stop or (self.launcher is not None and os.getppid() != self.launcher))

    def gather(self, x: Any) -> list:
        """Everyone's x, in order, for the first; [] for the others."""
        if self.size == 1:
            return [x]
        parts = [None] * self.size if self.first else None
        distributed.gather_object(x, parts)
        return parts or []

    def leave(self, code: int = 0) -> None:
        """Ends this process with this exit code, if it is one of several.

        At once: gloo's threads outlive the group, and an interpreter that shuts down around them aborts now and then
        ("terminate called without an active exception"), after all work was done.
        """
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def quiet(self) -> contextlib.AbstractContextManager:
        """Within, only the first one prints."""
        if self.first:
            return contextlib.nullcontext()
        stack = contextlib.ExitStack()
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        return stack


def lost(error: RuntimeError) -> bool:
    """Whether the error says that another process cannot be reached any more."""
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


ALONE = Team()
_ENVIRONMENT = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
