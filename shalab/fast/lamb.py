"""LAMB's update of all tensors at once.

*Gain.* Every line is one launch for all tensors on a GPU, instead of one for each. On a CPU it takes about the same
time: the laptop preset's update took 0.96 times as long without it in bfloat16, and 1.09 times in float32.
*Conditions.* None.
"""

import torch
from torch import Tensor, nn

from shalab.door import stands_in_for
from shalab.fast.conditions import rehearse
from shalab.optim import Lamb


@stands_in_for(Lamb._update, "LAMB on all tensors at once", "few launches for a GPU; nothing on a CPU", "always")
def update(lamb: Lamb, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
    rehearse(_one_update)
    _update(lamb, group, params, grads)


def _one_update() -> None:
    """Raises what an operator that is gone or changed would raise, before it could leave moments half updated."""
    p = nn.Parameter(torch.ones(1))
    lamb = Lamb([p], weight_decay=1.0)
    _update(lamb, lamb.param_groups[0], [p.detach()], [torch.ones(1)])


def _update(lamb: Lamb, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
    """All of `params` go through each line together."""
    for p in params:
        if not lamb.state[p]:
            lamb.state[p] = {"m": torch.zeros_like(p), "v": torch.zeros_like(p)}
    m = [lamb.state[p]["m"] for p in params]
    v = [lamb.state[p]["v"] for p in params]
    beta1, beta2 = group["betas"]
    torch._foreach_lerp_(m, grads, 1 - beta1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, grads, grads, 1 - beta2)

    denominator = torch._foreach_sqrt(v)
    torch._foreach_add_(denominator, group["eps"])
    update = torch._foreach_div(m, denominator)
    if group["weight_decay"]:
        torch._foreach_add_(update, params, alpha=group["weight_decay"])

    w_norm = torch.stack(torch._foreach_norm(params)).clamp(max=10)  # (number of tensors,)
    u_norm = torch.stack(torch._foreach_norm(update))
    ratio = torch.where((w_norm == 0) | (u_norm == 0), 1.0, w_norm / u_norm)
    if group["min_trust"] is not None:
        ratio = ratio.clamp(min=group["min_trust"])
    torch._foreach_mul_(update, list((-group["lr"] * ratio).unbind()))
    torch._foreach_add_(params, update)
    for p, *values in zip(params, w_norm, u_norm, ratio, strict=True):
        lamb.state[p].update(zip(("weight_norm", "update_norm", "trust_ratio"), values, strict=True))
