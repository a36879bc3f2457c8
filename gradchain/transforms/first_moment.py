"""Bias-corrected exponential average of the gradient, alone.

    m <- mu m + (1 - mu) u;   update <- m / (1 - mu^t)

Reads    update.   Writes  update.   State  average: like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  those of update.
Place    anywhere before LearningRate; with SecondMoment or WaveVariance in front of it, it completes an Adam of another kind.
Fields   momentum (mu): decay of the average, in [0, 1).
Raises   ChainError if momentum is outside [0, 1).
Source   Kingma and Ba, Adam, arXiv 1412.6980, the first half of algorithm 1.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class FirstMomentState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class FirstMoment(Transform[FirstMomentState]):
    """Bias-corrected average of the update."""

    State = FirstMomentState

    momentum: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> FirstMomentState:
        return FirstMomentState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: FirstMomentState, ctx: Context) -> tuple[Carry, FirstMomentState]:
        mu = self.momentum
        m = mu * state.average + (1 - mu) * carry.update
        return carry._replace(update=m / (1 - mu**ctx.step)), FirstMomentState(m)
