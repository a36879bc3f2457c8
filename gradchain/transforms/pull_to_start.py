"""A constant pull towards the start, stronger where the parameter has gone far from it in proportion to its size.

    n = w - update;   update <- update + lr l (|n - a| / |n|) (n - a)

Reads    update, param.   Writes  update.   State  anchor (a): the parameter before the first step; drift: 0-d, the last |n -
         a| / |n|.
Cost     4 reads, 1 write, 2 sums.
Shapes   any; empty passes through, as does a parameter that arrives at 0 or is too long to be measured.   Units  those of the
         parameter.
Place    last, on the proposed step.
Fields   spd_lambda (l): strength, >= 0. The learning rate is the group's.
Raises   ChainError if spd_lambda is negative.
Source   AdaptiveHinaAdamW and HinaAdamWOptimizer (hinablue/sd-scripts), which call it SPD.
Differs  there the start is taken when the optimizer is made and is not saved, so a resumed run is pulled to where it resumed.
         The paper's SPD pulls only where a step leaves the start against the gradient, and is not scaled by the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class PullToStartState(NamedTuple):
    anchor: Tensor
    drift: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class PullToStart(Transform[PullToStartState]):
    """Pull towards the start, by the relative drift."""

    State = PullToStartState
    reads = frozenset({"update", "param"})
    off = {"spd_lambda": 0.0}

    spd_lambda: Annotated[float, "[0, inf)"] = 0.06

    @override
    def init(self, param: Tensor) -> PullToStartState:
        return PullToStartState(param.clone(), param.new_zeros(()))

    @override
    def figures(self, state: PullToStartState) -> Mapping[str, Tensor]:
        return {"drift": state.drift, "pull": self.spd_lambda * state.drift}

    @override
    def update(self, carry: Carry, state: PullToStartState, ctx: Context) -> tuple[Carry, PullToStartState]:
        u, n = carry.update, carry.param - carry.update
        away, size = n - state.anchor, ctx.layout.norm(n)
        drift = ctx.layout.norm(away) / torch.where(size > 0, size, 1)
        drift = torch.where((size > 0) & drift.isfinite(), drift, 0)
        return carry._replace(update=u + ctx.lr * self.spd_lambda * drift * away), PullToStartState(state.anchor, drift)
