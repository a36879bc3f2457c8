"""Adam's moments: exponential averages of the gradient and of its square, corrected for their start at zero.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    update <- m / (1 - b1^t);   second_moment <- v / (1 - b2^t)

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter.   Cost  3 reads, 4 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    after what changes the gradient (L2, clipping), before what shapes or consumes second_moment.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   Kingma and Ba, Adam, arXiv 1412.6980, algorithm 1.
Differs  nothing known; with Normalize it is torch.optim.Adam to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class MomentsState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Moments(Transform[MomentsState]):
    """Bias-corrected first and second moment of the gradient."""

    State = MomentsState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> MomentsState:
        return MomentsState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: MomentsState, ctx: Context) -> tuple[Carry, MomentsState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        return carry._replace(update=m / (1 - b1**t), second_moment=v / (1 - b2**t)), MomentsState(m, v)
