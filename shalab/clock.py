"""When things happen in a run: training time, the length of a run of minutes, what is due at a step."""

import contextlib
import math
import time
from collections.abc import Iterator

N_TRUST_EVENTS = 100  # in a run, about, evenly spread
CHECKPOINT_S = 300.0  # of training, at most, that a power failure costs, besides what checkpoint_every allows


class Stopwatch:
    """Measures training time. An update that was held up, by Ctrl-Z for example, counts as ten usual ones at most.

    log_every: only one update in so many waits for the GPU, and is charged with the time of all of them.
    """

    def __init__(self, log_every: int):
        self.elapsed_s, self._log_every = 0.0, log_every
        self._updates, self._updates_s = 0, 0.0  # of this process; a resumed run has more elapsed_s

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        if self._updates:
            took = min(took, 10 * self._log_every * self._updates_s / self._updates)
        self._updates += 1
        self._updates_s += took
        self.elapsed_s += took


def steps_by_clock(step: int, elapsed_s: float, minutes: float) -> int:
    """How many steps fit into `minutes` at the mean speed so far; `step` itself when the time is over.

    1 before the first step, when the speed is not known.

    As this is asked again and again, step / total_steps is always the part of the time that has passed, and the
    learning-rate schedule, apart from the warm-up, follows the clock even if the machine's speed changes.
    """
    return max(step, math.ceil(step * 60 * minutes / elapsed_s)) if step else 1


def evaluations_by(step: int, total_steps: int, evaluations: int) -> int:
    """How many of the run's evaluations belong to the steps up to this one."""
    return step * evaluations // total_steps


def trust_due(step: int, total_steps: int) -> bool:
    return step % math.ceil(total_steps / N_TRUST_EVENTS) == 0


def report_due(step: int, total_steps: int, config) -> bool:
    """Whether the update that leads to `step` reports its loss, for which it has to wait for a GPU."""
    evaluations = [evaluations_by(n, total_steps, config.evaluations) for n in (step - 1, step)]
    every = step % config.log_every == 0 or step % config.checkpoint_every == 0
    return every or trust_due(step, total_steps) or evaluations[0] < evaluations[1]
