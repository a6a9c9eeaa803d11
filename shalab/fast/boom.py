"""Boom in fewer passes over its widest tensor.

*Gain.* gelu(u) = silu(1.702 u) / 1.702: with the inner factor before the matrix and the outer one behind the fold, silu
passes over the widest tensor once, where gelu's three operations do so three times. The backward pass then keeps one
wide tensor instead of two. On an AMD EPYC that brings memory and no time: 0.98 times in bfloat16, 1.03 in float32.
*Conditions.* `widen` is PyTorch's linear layer with a bias, and nobody watches it.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from shalab.boom import Boom, fold
from shalab.door import stands_in_for
from shalab.dropout import Dropout
from shalab.fast.conditions import stock


@stands_in_for(
    Boom.forward,
    "one pass of silu",
    "one wide tensor instead of two to keep; no time on a CPU",
    "nobody watches `widen`",
)
def boom(layer: Boom, x: Tensor, drop: Dropout) -> Tensor:
    if not is_stock_linear(layer.widen):
        return NotImplemented
    return fold(drop(widened(layer.widen, x), layer.dropout), x.shape[-1]) / 1.702


def is_stock_linear(layer: nn.Module) -> bool:
    """Whether it is PyTorch's own linear layer, unwatched, with a bias."""
    return stock(layer, nn.Linear) and layer.bias is not None


def widened(layer: nn.Linear, x: Tensor) -> Tensor:
    """1.702 gelu(layer(x))"""
    return F.silu(F.linear(1.702 * x, layer.weight, 1.702 * layer.bias))
