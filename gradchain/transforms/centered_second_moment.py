"""Centered RMSprop: the average squared gradient less the square of the average gradient, an estimate of the variance.

    v <- a v + (1 - a) g^2;   m <- a m + (1 - a) g;   second_moment <- max(v - m^2, 0)

Reads    update.   Writes  second_moment.   State  square, mean: like the parameter.   Cost  3 reads, 2 writes.
Shapes   any; elementwise; where a square overflows, the estimate is infinite.   Units  the gradient's, squared.
Place    before what consumes second_moment.
Fields   alpha (a): decay of both averages, in [0, 1).
Raises   ChainError if alpha is outside [0, 1).
Source   Graves, Generating Sequences with Recurrent Neural Networks, arXiv 1308.0850, section 4.2.
Differs  torch takes the root of v - m^2 as it comes, which rounding can make negative (NaN); here it stops at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class CenteredState(NamedTuple):
    square: Tensor
    mean: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class CenteredSecondMoment(Transform[CenteredState]):
    """Running variance of the gradient."""

    State = CenteredState
    writes = frozenset({"second_moment"})

    alpha: Annotated[float, "[0, 1)"] = 0.99

    @override
    def init(self, param: Tensor) -> CenteredState:
        return CenteredState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: CenteredState, ctx: Context) -> tuple[Carry, CenteredState]:
        g, a = carry.update, self.alpha
        v = a * state.square + (1 - a) * g * g
        m = a * state.mean + (1 - a) * g
        variance = torch.where(v.isinf(), v, (v - m * m).clamp(min=0))  # inf - inf would be NaN
        return carry._replace(second_moment=variance), CenteredState(v, m)
