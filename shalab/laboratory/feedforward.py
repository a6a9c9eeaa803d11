"""SHA-RNN with a Transformer's feed-forward layer where Boom stands: what the second matrix buys."""

from torch import Tensor, nn
from torch.nn import functional as F

from shalab.boom import gelu, plain_linear
from shalab.dropout import Dropout
from shalab.model import SHARNN

# D width, H inner width


class FeedForward(nn.Module):
    """(..., D) -> (..., D): widen to H, then a matrix back to D (Vaswani et al. 2017, section 3.3; here with gelu)."""

    def __init__(self, d_model: int, d_inner: int, dropout: float):
        super().__init__()
        self.widen = nn.Linear(d_model, d_inner)
        self.narrow = nn.Linear(d_inner, d_model)
        self.dropout = dropout

    def forward(self, x: Tensor, drop: Dropout) -> Tensor:
        if not (plain_linear(self.widen) and plain_linear(self.narrow)):
            return self.narrow(drop(gelu(self.widen(x)), self.dropout))
        # gelu's two factors stand outside the wide tensor, as in Boom: what differs in time is the second matrix alone.
        x = F.silu(F.linear(1.702 * x, self.widen.weight, 1.702 * self.widen.bias))  # (..., H)
        x = drop(x, self.dropout)
        return F.linear(x, self.narrow.weight / 1.702, self.narrow.bias)  # (..., D)


def with_feed_forward(model: SHARNN, d_inner: int) -> SHARNN:
    """Replaces every Boom layer in place by a fresh feed-forward layer of inner width H; returns the model."""
    for block in model.blocks:
        layer = FeedForward(model.config.d_model, d_inner, model.config.dropout_hidden)
        block.boom = layer.apply(model._init)
    return model
