"""Dropout (Srivastava et al. 2014)."""

from torch import Tensor
from torch.nn import functional as F

from shalab.door import door


class Dropout:
    """The dropout of one forward pass: each element is 0 with probability p, else multiplied by 1 / (1 - p).

    training: False drops nothing.
    """

    def __init__(self, training: bool):
        self.training = training

    def __call__(self, x: Tensor, p: float) -> Tensor:
        return F.dropout(x, p, self.training)

    def prepare_recomputation(self) -> None:
        """Called before a pass that will be computed a second time, with the same random numbers.

        Nothing to do here: the recomputation restores PyTorch's generator. The trick fills its pool of random bytes.
        """


dropout = door(Dropout)
