"""Several processes that train one model: `torchrun --nproc-per-node N -m shalab train ...`.

Each process reads its own part of the streams and keeps their state. PyTorch's DistributedDataParallel averages the
gradients, so that all have the same weights; the first process writes. With one process, nothing is communicated.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from shalab.errors import InputError


@dataclass(frozen=True)
class Team:
    """rank of this process, number of processes, rank on this machine, process id of the launcher."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: int | None = None

    @classmethod
    def join(cls) -> "Team":
        """Joins the other processes at the address in torchrun's environment; without one, this process is alone."""
        try:
            alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
            rank, size, local_rank = (int(os.environ.get(name, value)) for name, value in alone.items())
            if size == 1:
                return ALONE
            if not distributed.is_initialized():
                from torch.distributed.distributed_c10d import PrefixStore  # not in every build of PyTorch
                from torch.distributed.rendezvous import rendezvous

                store, rank, size = next(rendezvous("env://"))
                # A restarted worker finds the store of the attempt before, with addresses of processes that are gone.
                if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
                    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
                distributed.init_process_group(store=store, rank=rank, world_size=size)  # gloo for CPUs, NCCL for GPUs
                atexit.register(distributed.destroy_process_group)  # else its threads may outlive the interpreter
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"cannot join the other processes that WORLD_SIZE promises ({reason}): "
                "start them with torchrun, or unset WORLD_SIZE and RANK to train in one"
            ) from error
        return cls(rank, size, local_rank, os.getppid())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def own_streams(self, n_streams: int) -> slice:
        """Which of n streams this process reads."""
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

    def first_does(self, act: Callable[[], Any]) -> Any:
        """act(), in the first process only, which gets its result. If it raises an InputError, all processes do."""
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
        """Whether any process was told to stop or lost its launcher, so that all end together."""
        return self.any(stop or (self.launcher is not None and os.getppid() != self.launcher))

    def gather(self, x: Any) -> list:
        """Everyone's x, in order, for the first; [] for the others."""
        if self.size == 1:
            return [x]
        parts = [None] * self.size if self.first else None
        distributed.gather_object(x, parts)
        return parts or []

    def leave(self, code: int = 0) -> None:
        """Ends this process at once, if it is one of several: gloo's threads sometimes abort a normal exit."""
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, only the first one prints."""
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            out, err = (sys.stdout, sys.stderr) if self.first else (nowhere, nowhere)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield


def lost(error: RuntimeError) -> bool:
    """Whether the error says that another process cannot be reached any more."""
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


ALONE = Team()
