"""Learning-rate schedules: functions of (step, total_steps, warmup_steps), factors on the rate. Steps count from 0."""

import math


def warmup(step: int, warmup_steps: int) -> float:
    """Linear from 1 / warmup_steps at step 0 to 1 at step warmup_steps - 1, then 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def constant_then_half(step: int, total_steps: int, warmup_steps: int) -> float:
    """The paper's: constant, then half for the last 5 of 37 parts."""
    return warmup(step, warmup_steps) * (0.5 if step >= cooldown_start(total_steps) else 1.0)


def cooldown_start(total_steps: int) -> int:
    """First step of the paper's cool-down: 32 of about 37 epochs have passed."""
    return math.ceil(total_steps * 32 / 37)


def cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Half a cosine from 1 to 0 after the warm-up (Loshchilov & Hutter 2016, without restarts)."""
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return warmup(step, warmup_steps) * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def linear(step: int, total_steps: int, warmup_steps: int) -> float:
    """Linear from 1 to 0 after the warm-up."""
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return warmup(step, warmup_steps) * (1 - min(max(progress, 0.0), 1.0))


SCHEDULES = {"constant-then-half": constant_then_half, "cosine": cosine, "linear": linear}
