"""What tricks ask before they stand in."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def stock(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether module is `kind` itself and nobody watches or changes it: then it need not be called to be computed.

    A module with a hook, a parametrization or a `forward` of its own, and what somebody put in its place, is called.
    """
    watched = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return (
        type(module) is kind
        and not watched
        and "forward" not in vars(module)
        and not torch.nn.modules.module._has_any_global_hook()
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """The format in which products of x are computed here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype


_rehearsed: set[Callable] = set()


def rehearse(act: Callable[[], object]) -> None:
    """Runs `act` once per process, which tries private operators of PyTorch before anything depends on them.

    NotImplementedError, which shuts the door, if they work otherwise than they did. PyTorch itself raises a
    RuntimeError then, as it does when memory is full, which is no reason to shut a door. What torch.compile compiles
    is not rehearsed.
    """
    if torch.compiler.is_compiling() or act in _rehearsed:
        return
    try:
        act()
    except RuntimeError as error:
        raise NotImplementedError(str(error)) from error
    _rehearsed.add(act)
