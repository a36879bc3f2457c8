"""Whether a gradient points along a way, told from a right angle that rounding has bent."""

from __future__ import annotations

import torch
from torch import Tensor

from gradchain.types import Layout

ROUNDING = 32  # a tree of 2^30 products rounds 30 times, each time by at most eps / 2 of |x| |y|, however many there are


def uphill(signal: Tensor, way: Tensor, length: Tensor, layout: Layout) -> Tensor:
    """0-d, true where <signal, way> > 32 eps |signal| |way|: below that, its sign is the rounding's; ``length`` is |way|.

    What cannot be measured (NaN, lengths that overflow) is not uphill.
    """
    return layout.dot(signal, way) > ROUNDING * torch.finfo(way.dtype).eps * layout.norm(signal) * length
