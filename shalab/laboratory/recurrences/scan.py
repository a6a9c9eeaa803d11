"""What the recurrences have in common: h_t = a_t h_t-1 + b_t, for all steps at once."""

import torch
from torch import Tensor

# T window, B streams, D width


def scan(a: Tensor, b: Tensor, before: Tensor | None = None) -> Tensor:
    """a, b (T, ...), before (1, ...), the h of the step before, or None for zeros -> h of all steps (T, ...).

    Two steps in a row are one step of the same form: a' (a h + b) + b' = (a' a) h + (a' b + b'). So every step takes in
    the one before it, then the pair before that, then the four before those: log2(T) rounds instead of T (Hillis &
    Steele 1986). It needs no division, so that an a near 0 does no harm.

    >>> scan(torch.full((4,), 0.5), torch.tensor([1.0, 0.0, 0.0, 1.0])).tolist()
    [1.0, 0.5, 0.25, 1.125]
    """
    if before is not None:
        b = torch.cat([b[:1] + a[:1] * before, b[1:]])
    reach = 1
    while reach < len(b):
        b = torch.cat([b[:reach], b[reach:] + a[reach:] * b[:-reach]])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return b
