"""Selective projection decay towards zero, for parameters that start there or should stay small (LoRA).

    n = w - update;   r = clip((|n| - |w|) / |n|, 0, 1)
    n <- n - l r n   where <processed, w> > 0 beyond rounding;   update <- w - n
    with rank_rate h, matrices:  l (1 + mean of exp(-h k) over k = 0 ... min(rows, columns) - 1)  instead of l

Reads    update, processed (the gradient), param.   Writes  update.   State  pull (r): 0-d.   Cost  6 reads, 1 write, 4 sums.
Shapes   any; 0-d and empty pass through.   Units  those of the parameter; l is a pure number, not scaled by the learning rate.
Place    last, on the proposed step; it replaces weight decay.
Fields   spd_lambda (l): 1 projects back onto the former norm, >= 0; rank_rate (h): >= 0; 0 leaves matrices like the rest.
Raises   ChainError if a field is negative.
Source   Tian et al., Rethinking Weight Decay for Robust Fine-Tuning, arXiv 2411.01713, algorithm 1, with 0 for an anchor;
         Automagic CameAMP (hinablue/sd-scripts) for the factor on matrices, with rate 0.1.
Differs  the paper's anchor is the start of the run: that is SPD. As there, the product must exceed 32 eps |processed| |w|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._rank_factor import rank_factor
from gradchain.transforms._uphill import uphill
from gradchain.types import Carry, Context, Transform


class OriginSPDState(NamedTuple):
    pull: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class OriginSPD(Transform[OriginSPDState]):
    """Projection towards zero, where the step leaves it against the gradient."""

    State = OriginSPDState
    reads = frozenset({"update", "processed", "param"})
    off = {"spd_lambda": 0.0}

    spd_lambda: Annotated[float, "[0, inf)"] = 0.5
    rank_rate: Annotated[float, "[0, inf)"] = 0.0

    @override
    def init(self, param: Tensor) -> OriginSPDState:
        return OriginSPDState(param.new_zeros(()))

    @override
    def update(self, carry: Carry, state: OriginSPDState, ctx: Context) -> tuple[Carry, OriginSPDState]:
        u, w, layout = carry.update, carry.param, ctx.layout
        proposed = w - u
        distance, before = layout.norm(proposed), layout.norm(w)
        r = ((distance - before) / torch.where(distance > 0, distance, 1)).clamp(0, 1)
        fires = uphill(carry.signal, w, before, layout) & r.isfinite()  # distances may be too long to be measured
        r = torch.where(fires, r, 0)
        strength = self.spd_lambda * rank_factor(layout.shape(w), self.rank_rate)
        return carry._replace(update=u + strength * r * proposed), OriginSPDState(r)

    @override
    def figures(self, state: OriginSPDState) -> Mapping[str, Tensor]:
        return {"active": (state.pull > 0).to(state.pull.dtype), "pull": self.spd_lambda * state.pull}
