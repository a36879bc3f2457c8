"""How much of a difference is rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from gradchain.types import Layout

SLACK = 32  # a tree of 2^30 sums rounds 30 times, each time by at most eps / 2


def remainder(g: Tensor, w: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """g without its part along w, and the length of that, which is 0 where it is at the level of rounding.

    Where w is too short or too long to be measured, g has no part along it.
    """
    limits, square = torch.finfo(g.dtype), layout.dot(w, w)
    known = square > limits.tiny / limits.eps
    part = layout.dot(w, g) / torch.where(known, square, 1)
    part = torch.where(known & part.isfinite(), part, 0)
    o = g - part * w
    left = layout.norm(o)
    return o, torch.where(left <= SLACK * limits.eps * part.abs() * square.sqrt(), 0, left)
