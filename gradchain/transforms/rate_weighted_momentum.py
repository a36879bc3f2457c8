"""LaProp's momentum: an average of normalized gradients, each with the learning rate of its step as its weight.

    m <- b m + (1 - b) lr u;   w <- b w + (1 - b) lr;   update <- m / w

While the rate stays the same, that is FirstMoment; under a schedule, no old step counts with a rate that it did not have.

Reads    update.   Writes  update.   State  weighted (m): like the parameter; weight (w): 0-d.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  those of update.
Place    behind Normalize, before LearningRate.
Fields   momentum (b): decay of the average, in [0, 1).
Raises   ChainError if momentum is outside [0, 1).
Source   Ziyin, Wang and Ueda, LaProp, arXiv 2002.04839, as the authors' code runs it.
Differs  the paper's algorithm has the rate outside, as FirstMoment. Before the first step with a rate, update is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class RateWeightedState(NamedTuple):
    weighted: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class RateWeightedMomentum(Transform[RateWeightedState]):
    """Average of updates weighted by their learning rates."""

    State = RateWeightedState

    momentum: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> RateWeightedState:
        return RateWeightedState(torch.zeros_like(param), param.new_zeros(()))

    @override
    def update(self, carry: Carry, state: RateWeightedState, ctx: Context) -> tuple[Carry, RateWeightedState]:
        b, lr = self.momentum, ctx.lr
        m = b * state.weighted + (1 - b) * lr * carry.update
        w = b * state.weight + (1 - b) * lr
        average = m / torch.where(w > 0, w, 1)
        return carry._replace(update=average), RateWeightedState(m, w.to(state.weight.dtype))
