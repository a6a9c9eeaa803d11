"""Min-trust LAMB, and AdamW beside it."""

from collections.abc import Callable, Iterable
from inspect import unwrap

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shalab.door import door
from shalab.errors import ABOVE_0, AT_LEAST_0, FRACTION, refuse, wrong


class Lamb(Optimizer):
    """LAMB (You et al. 2019) with a floor under the trust ratio (Merity 2019).

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
        u = m / (sqrt(v) + eps) + weight_decay w
        r = min(|w|, 10) / |u|, 1 where either norm is 0;   r = max(r, min_trust)
        w = w - lr r u

    A tensor with a small norm moves by a small step under LAMB: one that was initialised near zero hardly moves unless
    the rate is high. The floor lets it move. min_trust=None is LAMB without a floor.

    You et al. correct the bias of m and v; Merity's version, this one, does not. Without a floor that correction
    cancels in r u, but for eps and weight_decay. The step is then lr min(|w|, 10) long.

    After a step, `state[p]` holds the 0-dimensional tensors weight_norm (clamped), update_norm and
    trust_ratio of each parameter p beside its moments.
    """

    def __init__(
        self,
        params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1.2e-6,
        min_trust: float | None = 0.25,
    ):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "min_trust": min_trust}
        faults = wrong(AT_LEAST_0, lr=lr, weight_decay=weight_decay) + wrong(ABOVE_0, eps=eps)
        if not (isinstance(betas, list | tuple) and len(betas) == 2) or wrong(FRACTION, b1=betas[0], b2=betas[1]):
            faults.append(f"betas must be two numbers of at least 0 and below 1, got {betas!r}")
        if min_trust is not None:
            faults += wrong(AT_LEAST_0, min_trust=min_trust)
        refuse(faults)
        super().__init__(params, options)

    # PyTorch wraps these to keep its compiler out, and to do so loads it: a second or more at the start of every run.
    add_param_group, zero_grad = unwrap(Optimizer.add_param_group), unwrap(Optimizer.zero_grad)
    state_dict, load_state_dict = unwrap(Optimizer.state_dict), unwrap(Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if params := [p for p in group["params"] if p.grad is not None]:
                self._update(group, params, [p.grad for p in params])
        return loss

    @door
    def _update(self, group: dict, params: list[Tensor], grads: list[Tensor]) -> None:
        """One tensor after the other."""
        beta1, beta2 = group["betas"]
        for w, g in zip(params, grads, strict=True):
            state = self.state[w]
            if not state:
                state["m"], state["v"] = torch.zeros_like(w), torch.zeros_like(w)
            m, v = state["m"], state["v"]
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g**2)
            u = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * w
            w_norm, u_norm = w.norm().clamp(max=10), u.norm()
            trust_ratio = torch.where((w_norm == 0) | (u_norm == 0), 1.0, w_norm / u_norm)
            if group["min_trust"] is not None:
                trust_ratio = trust_ratio.clamp(min=group["min_trust"])
            w.sub_(group["lr"] * trust_ratio * u)
            state.update(weight_norm=w_norm, update_norm=u_norm, trust_ratio=trust_ratio)


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2017), whose decay spares vectors, as nanoGPT's does: biases, gains and gates."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


OPTIMIZERS = ("lamb", "adamw")
