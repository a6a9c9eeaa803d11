"""SHA-RNN with a Transformer's feed-forward layer where Boom stands: what the second matrix buys."""

from torch import Tensor, nn
from torch.nn import functional as F

from shalab.boom import gelu
from shalab.door import door, stands_in_for
from shalab.dropout import Dropout
from shalab.fast.boom import is_stock_linear, widened
from shalab.model import SHARNN

# D width, H inner width


class FeedForward(nn.Module):
    """(..., D) -> (..., D): widen to H, then a matrix back to D (Vaswani et al. 2017, section 3.3; here with gelu)."""

    def __init__(self, d_model: int, d_inner: int, dropout: float):
        super().__init__()
        self.widen = nn.Linear(d_model, d_inner)
        self.narrow = nn.Linear(d_inner, d_model)
        self.dropout = dropout

    @door
    def forward(self, x: Tensor, drop: Dropout) -> Tensor:
        return self.narrow(drop(gelu(self.widen(x)), self.dropout))


@stands_in_for(FeedForward.forward, "one pass of silu, feed-forward", "as Boom's", "nobody watches its two layers")
def feed_forward(layer: FeedForward, x: Tensor, drop: Dropout) -> Tensor:
    """As in Boom, the factors of gelu stand outside the wide tensor: the second matrix alone takes longer."""
    if not (is_stock_linear(layer.widen) and is_stock_linear(layer.narrow)):
        return NotImplemented
    x = drop(widened(layer.widen, x), layer.dropout)  # (..., H)
    return F.linear(x, layer.narrow.weight / 1.702, layer.narrow.bias)  # (..., D)


def with_feed_forward(model: SHARNN, d_inner: int) -> SHARNN:
    """Replaces every Boom layer in place by a fresh feed-forward layer of inner width H; returns the model."""
    for block in model.blocks:
        layer = FeedForward(model.config.d_model, d_inner, model.config.dropout_hidden)
        block.boom = layer.apply(model._init)
    return model
