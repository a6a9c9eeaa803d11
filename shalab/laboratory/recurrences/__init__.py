"""Recurrences that can stand in a block where the LSTM stands, one file each.

All have its signature: x (T, B, D) and the state of the step before, a pair of (1, B, D) or None for zeros, give the
outputs of all steps (T, B, D) and the last state. None of their gates looks at the step before, so that all steps of a
window are computed at once, by `scan`.
"""

from collections.abc import Callable

from torch import nn

from shalab.laboratory.recurrences.min_gru import MinGRU
from shalab.laboratory.recurrences.quasi_recurrent import QuasiRecurrent
from shalab.laboratory.recurrences.scan import scan
from shalab.laboratory.recurrences.sru import SRU
from shalab.model import SHARNN

__all__ = ["SRU", "MinGRU", "QuasiRecurrent", "scan", "with_recurrence"]


def with_recurrence(model: SHARNN, kind: Callable[[int], nn.Module]) -> SHARNN:
    """Replaces the LSTM of every block in place by kind(D), its linear layers drawn as the model draws all others.

    Returns the model.

    >>> from shalab.model import ModelConfig
    >>> model = with_recurrence(SHARNN(ModelConfig(d_model=12, d_boom=24, n_layers=2, attention_layers=(0,))), MinGRU)
    >>> type(model.blocks[1].lstm).__name__
    'MinGRU'
    """
    for block in model.blocks:
        block.lstm = kind(model.config.d_model).apply(model._init)
    return model
