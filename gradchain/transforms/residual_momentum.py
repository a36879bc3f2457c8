"""Momentum that leaves the residual behind: how far the newest update lies from its average.

    m <- b m + (1 - b) u;   update <- m;   residual <- u - m
    ResidualMomentum   b = momentum
    FallingMomentum    b = max(momentum decay^t, floor)

Reads    update.   Writes  update, residual.   State  average: like the parameter.   Cost  2 reads, 3 writes.
Shapes   any; elementwise.   Units  those of update.
Place    after Normalize and ClipUpdateRMS, before Confidence.
Fields   momentum: decay of the average, in [0, 1); beta1_decay (decay): in (0, 1]; momentum_floor (floor): in [0, 1).
Raises   ChainError if a field is out of range.
Source   Luo et al., CAME, arXiv 2307.02047, algorithm 2; the falling decay is that of Automagic CameAMP
         (hinablue/sd-scripts), after Xu et al., Towards Faster Training of Diffusion Models, arXiv 2404.07946.
Differs  no bias correction, as there: the first update is 1 - b of u. A momentum below the floor is raised to it, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class ResidualMomentumState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Average(Transform[ResidualMomentumState]):
    State = ResidualMomentumState
    writes = frozenset({"update", "residual"})

    momentum: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> ResidualMomentumState:
        return ResidualMomentumState(torch.zeros_like(param))

    def advance(self, carry: Carry, state: ResidualMomentumState, b: Tensor | float) -> tuple[Carry, ResidualMomentumState]:
        m = b * state.average + (1 - b) * carry.update
        return carry._replace(update=m, residual=carry.update - m), ResidualMomentumState(m)


@dataclass(frozen=True, kw_only=True, repr=False)
class ResidualMomentum(_Average):
    """Average of the update, and what is left of the newest one."""

    @override
    def update(self, carry: Carry, state: ResidualMomentumState, ctx: Context) -> tuple[Carry, ResidualMomentumState]:
        return self.advance(carry, state, self.momentum)


@dataclass(frozen=True, kw_only=True, repr=False)
class FallingMomentum(_Average):
    """Average of the update with a memory that becomes shorter during the run."""

    beta1_decay: Annotated[float, "(0, 1]"] = 0.9995
    momentum_floor: Annotated[float, "[0, 1)"] = 0.4

    @override
    def update(self, carry: Carry, state: ResidualMomentumState, ctx: Context) -> tuple[Carry, ResidualMomentumState]:
        return self.advance(carry, state, (self.momentum * self.beta1_decay**ctx.step).clamp(min=self.momentum_floor))
