"""Training that diverges or overflows: a loss, a gradient, a weight or a score that is NaN or infinite ends it."""

import math

import torch


class NonFiniteError(ArithmeticError):
    """A loss, a gradient, a weight or a score is NaN or infinite. No checkpoint holds it."""


def check_update(trainer, loss_nats: float, grad_norm: float) -> None:
    """Called when an update is reported, before its optimizer step; and, for those not reported yet, at a checkpoint.

    float16: while the loss scale is above 1, a gradient that overflows is no fault: GradScaler skips the update, halves
    the scale, and training goes on.
    """
    if math.isfinite(loss_nats) and (math.isfinite(grad_norm) or trainer.scaler.get_scale() > 1):
        return
    what = "the loss" if not math.isfinite(loss_nats) else "a gradient"
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            what += f", the gradient of {name}"
            break
    since = " by this step, but perhaps by those before" if trainer.config.log_every > 1 else ""
    raise NonFiniteError(
        f"step {trainer.step + 1}: {what} is not finite; nothing was updated{since}. {advice(trainer)}"
    )


def check_weights(trainer) -> None:
    """Called before a checkpoint is written: nothing is saved from which training could not continue."""
    for name, parameter in trainer.model.named_parameters():
        if not parameter.isfinite().all():
            raise NonFiniteError(f"step {trainer.step}: {name} is not finite, and was not saved. {advice(trainer)}")


def check_score(trainer, bpc: float) -> None:
    if not math.isfinite(bpc):
        raise NonFiniteError(f"step {trainer.step}: the score is not finite. {advice(trainer)}")


def advice(trainer) -> str:
    half = trainer.precision.dtype != torch.float32
    begin = "Go on from the last checkpoint with --resume --dtype float32, or begin" if half else "Begin"
    return f"{begin} another run, with another --out and an --lr below {trainer.config.lr:g}"
