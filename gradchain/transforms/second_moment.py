"""RMSprop's exponential average of the squared gradient, without bias correction.

    v <- a v + (1 - a) g^2;   second_moment <- v

Reads    update.   Writes  second_moment.   State  average: like the parameter.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  the gradient's, squared.
Place    before what consumes second_moment.
Fields   alpha (a): decay of the average, in [0, 1).
Raises   ChainError if alpha is outside [0, 1).
Source   Hinton, Neural Networks for Machine Learning, lecture 6, 2012.
Differs  nothing known; with Normalize it is torch.optim.RMSprop to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class SecondMomentState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class SecondMoment(Transform[SecondMomentState]):
    """Average of the squared gradient."""

    State = SecondMomentState
    writes = frozenset({"second_moment"})

    alpha: Annotated[float, "[0, 1)"] = 0.99

    @override
    def init(self, param: Tensor) -> SecondMomentState:
        return SecondMomentState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: SecondMomentState, ctx: Context) -> tuple[Carry, SecondMomentState]:
        g = carry.update
        v = self.alpha * state.average + (1 - self.alpha) * g * g
        return carry._replace(second_moment=v), SecondMomentState(v)
