"""A model of shapes alone, for questions that its numbers do not answer."""

from dataclasses import replace

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from shalab.model import SHARNN, ModelConfig


class _Undrawn(TorchFunctionMode):
    """Inside, nn.init does nothing. Without memory to write to, PyTorch would load its compiler for it, for seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) != nn.init.__name__:
            return function(*args, **(kwargs or {}))


def blank(config: ModelConfig) -> SHARNN:
    """The model that SHARNN(config) would be, without its numbers; takes no memory."""
    with torch.device("meta"), _Undrawn():
        return SHARNN(replace(config, induction=False))  # which changes values, not shapes


def n_parameters(config: ModelConfig) -> int:
    return blank(config).n_parameters
