"""Momentum as a plain average of updates, and the same looked at one step ahead.

    b <- mu b + (1 - mu) u
    AverageMomentum   update <- b
    NesterovAverage   update <- mu b + (1 - mu) u

Reads    update.   Writes  update.   State  average (b): like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  those of update.
Place    ahead of a link that heeds directions only, such as Orthogonalize.
Fields   momentum (mu): decay of the average, in [0, 1).
Raises   ChainError if momentum is outside [0, 1).
Source   torch.optim.Muon.
Differs  no bias correction, as there: the first average is 1 - mu of u. FirstMoment corrects for it. In Jordan's Muon b is a
         sum, 1 / (1 - mu) times as large, which Orthogonalize does not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class AverageMomentumState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Average(Transform[AverageMomentumState]):
    State = AverageMomentumState

    momentum: Annotated[float, "[0, 1)"] = 0.95

    @override
    def init(self, param: Tensor) -> AverageMomentumState:
        return AverageMomentumState(torch.zeros_like(param))

    def advanced(self, carry: Carry, state: AverageMomentumState) -> Tensor:
        return state.average + (1 - self.momentum) * (carry.update - state.average)


@dataclass(frozen=True, kw_only=True, repr=False)
class AverageMomentum(_Average):
    """Exponential average of the update."""

    @override
    def update(self, carry: Carry, state: AverageMomentumState, ctx: Context) -> tuple[Carry, AverageMomentumState]:
        b = self.advanced(carry, state)
        return carry._replace(update=b), AverageMomentumState(b)


@dataclass(frozen=True, kw_only=True, repr=False)
class NesterovAverage(_Average):
    """Exponential average of the update, with Nesterov's look-ahead."""

    @override
    def update(self, carry: Carry, state: AverageMomentumState, ctx: Context) -> tuple[Carry, AverageMomentumState]:
        b = self.advanced(carry, state)
        return carry._replace(update=b - (1 - self.momentum) * (b - carry.update)), AverageMomentumState(b)
