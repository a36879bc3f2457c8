"""Adam's moments, bias-corrected in the step size, with the second moment of the step before.

    m <- b1 m + (1 - b1) g;   w <- v;   v <- b2 v + (1 - b2) g^2
    update <- m sqrt(1 - b2^t) / (1 - b1^t);   second_moment <- w, but v at the first step

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter.   Cost  3 reads, 4 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where StepCorrectedMoments would stand.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   HinaAdamWOptimizer (hinablue/sd-scripts), which calls it ADOPT stability.
Differs  nothing known. An element whose gradients have all been 0 so far meets a second moment of 0, so its first step has no
         bound but eps. The paper's ADOPT normalizes before it averages, bounds that step, and corrects no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class LaggedState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class LaggedMoments(Transform[LaggedState]):
    """First moment corrected for both averages, second moment of the step before."""

    State = LaggedState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> LaggedState:
        return LaggedState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: LaggedState, ctx: Context) -> tuple[Carry, LaggedState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        before = torch.where((t > 1).to(v.device), state.second, v)
        return carry._replace(update=m * ((1 - b2**t) ** 0.5 / (1 - b1**t)), second_moment=before), LaggedState(m, v)
