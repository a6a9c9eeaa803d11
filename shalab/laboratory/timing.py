"""Timings that can be compared: contestants take turns, since a machine's speed varies, and their memories are full."""

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from shalab.model import SHARNN, State


def seconds_in_turns(functions: dict[Hashable, Callable], rounds: int) -> dict[Hashable, list[float]]:
    """Calls all functions in turn, once to warm up and then `rounds` times: name -> seconds that each call took."""
    taken: dict[Hashable, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn:
                taken[name].append(time.perf_counter() - began)
    return taken


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as long the slow one takes as the fast one: the median over rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def full_state(model: SHARNN, n_streams: int, memory: int, dtype: torch.dtype = torch.float32) -> State:
    """A state with full memories: random rows, normalised as a LayerNorm would, of the type that products take."""
    zeros = torch.zeros(1, n_streams, model.config.d_model)
    rows = F.layer_norm(torch.randn(memory, n_streams, model.config.d_model), (model.config.d_model,)).to(dtype)
    layers = range(model.config.n_layers)
    return State(
        tuple((zeros, zeros) for _ in layers),
        tuple(rows if layer in model.config.attention_layers else None for layer in layers),
    )


def processor() -> str:
    """Its name; what Python knows of it where Linux does not say."""
    try:
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
