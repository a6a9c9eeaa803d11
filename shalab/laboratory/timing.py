"""Timings that can be compared: contestants take turns, since one machine's speed varies."""

import statistics
import time
from collections.abc import Callable


def seconds(functions: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Calls all functions in turn, once to warm up and then `rounds` times: name -> seconds of each round."""
    taken = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn:
                taken[name].append(time.perf_counter() - began)
    return taken


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
