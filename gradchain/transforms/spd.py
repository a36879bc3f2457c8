"""Selective projection decay: a step that moves away from the anchor against the gradient is drawn back towards it.

    n = w - update;   c = -<processed, w - a>
    r = clip((|n - a| - |w - a|) / |n - a|, 0, 1);   n <- n - l r (n - a) where c < 0 beyond rounding;   update <- w - n

Reads    update, processed (the gradient), param.   Writes  update.
State    anchor (a): the parameter before the first step; pull: 0-d, the r of the last step.   Cost  7 reads, 2 writes, 4 sums.
Shapes   any; 0-d and empty pass through.   Units  those of the parameter; l is a pure number, not scaled by the learning rate.
Place    last, on the proposed step; it replaces weight decay.
Fields   spd_lambda (l): 1 projects back onto the former distance, >= 0.
Raises   ChainError if spd_lambda is negative.
Source   Tian et al., Rethinking Weight Decay for Robust Fine-Tuning, arXiv 2411.01713,
         algorithm 1, with the authors' code AdamSPD.
Differs  there the anchor may be 0 (for LoRA); that is a matter of the start, here always the parameter's own. There a
         right angle (orthogonal gradients, an anchor at 0) fires by chance of rounding; here -c must exceed 32 eps |processed|
         |w - a|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._uphill import uphill
from gradchain.types import Carry, Context, Transform


class SPDState(NamedTuple):
    anchor: Tensor
    pull: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class SPD(Transform[SPDState]):
    """Projection towards the start, where the step leaves it against the gradient."""

    State = SPDState
    reads = frozenset({"update", "processed", "param"})
    off = {"spd_lambda": 0.0}

    spd_lambda: Annotated[float, "[0, inf)"] = 0.5

    @override
    def init(self, param: Tensor) -> SPDState:
        return SPDState(param.clone(), param.new_zeros(()))

    @override
    def figures(self, state: SPDState) -> Mapping[str, Tensor]:
        return {"active": (state.pull > 0).to(state.pull.dtype), "pull": self.spd_lambda * state.pull}

    @override
    def update(self, carry: Carry, state: SPDState, ctx: Context) -> tuple[Carry, SPDState]:
        u, away, layout = carry.update, carry.param - state.anchor, ctx.layout
        proposed = away - u
        distance, before = layout.norm(proposed), layout.norm(away)
        r = ((distance - before) / torch.where(distance > 0, distance, 1)).clamp(0, 1)
        fires = uphill(carry.signal, away, before, layout) & r.isfinite()  # distances may be too long to be measured
        r = torch.where(fires, r, 0)
        return carry._replace(update=u + self.spd_lambda * r * proposed), SPDState(state.anchor, r)
