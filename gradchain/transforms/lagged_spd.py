"""CameAMP's selective projection decay: it draws a step back towards where the parameter was a step ago, while moves go uphill.

    n = w - update;   r = clip((|n - a| - |w - a|) / (|n - a| + 1e-8), 0, 1)
    fires where g > 0:   n <- n - l r (n - a), and a <- n;   else a <- w        update <- w - n
    LaggedSPD   g = <processed, w - a>, a = 0 before the first step
    UphillSPD   g = <regularized, w>, a = w before the first step
    with rank_rate h, matrices:  l (1 + mean of exp(-h k) over k = 0 ... min(rows, columns) - 1)  instead of l

Reads    update, processed or regularized (the gradient), param.   Writes  update.
State    anchor (a): like the parameter; fired: 0-d.   Cost  6 reads, 3 writes, 3 sums.
Shapes   any; 0-d and empty pass through.   Units  those of the parameter; l is a pure number, not scaled by the learning rate.
Place    last, on the proposed step, within Phase(stop=warm-up).
Fields   spd_lambda (l): >= 0; rank_rate (h): >= 0; 0 leaves matrices like the rest.
Raises   ChainError if a field is negative.
Source   Automagic CameAMP (hinablue/sd-scripts), "improved" version (UphillSPD: with dual momentum), after arXiv 2411.01713.
Differs  the paper's anchor is where the run started (SPD); here it lags by a step, so the link brakes a move that went against
         the gradient. The published factor for matrices comes from a singular value decomposition of which only the number of
         values is used. After it fired, w - a is taken as exactly 0, as there, where a is copied from the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._rank_factor import rank_factor
from gradchain.types import Carry, Context, Layout, Transform


class LaggedSPDState(NamedTuple):
    anchor: Tensor
    fired: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Lagged(Transform[LaggedSPDState]):
    State = LaggedSPDState
    off = {"spd_lambda": 0.0}

    spd_lambda: Annotated[float, "[0, inf)"] = 5e-4
    rank_rate: Annotated[float, "[0, inf)"] = 0.0

    def gate(self, carry: Carry, away: Tensor, layout: Layout) -> Tensor:
        raise NotImplementedError

    @override
    def update(self, carry: Carry, state: LaggedSPDState, ctx: Context) -> tuple[Carry, LaggedSPDState]:
        u, w, layout = carry.update, carry.param, ctx.layout
        away = torch.where(state.fired > 0, torch.zeros_like(w), w - state.anchor)
        proposed = away - u
        distance = layout.norm(proposed)
        r = ((distance - layout.norm(away)) / (distance + 1e-8)).clamp(0, 1)
        fires = self.gate(carry, away, layout) > 0
        strength = self.spd_lambda * rank_factor(layout.shape(w), self.rank_rate)
        return carry._replace(update=u + strength * torch.where(fires, r, 0) * proposed), LaggedSPDState(w, fires.to(w.dtype))

    @override
    def figures(self, state: LaggedSPDState) -> Mapping[str, Tensor]:
        return {"fired": state.fired}


@dataclass(frozen=True, kw_only=True, repr=False)
class LaggedSPD(_Lagged):
    """Projection towards the parameter of the step before, where the last move went uphill."""

    alias = "lagged_spd"
    reads = frozenset({"update", "processed", "param"})

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(torch.zeros_like(param), param.new_zeros(()))

    @override
    def gate(self, carry: Carry, away: Tensor, layout: Layout) -> Tensor:
        return layout.dot(carry.signal, away)


@dataclass(frozen=True, kw_only=True, repr=False)
class UphillSPD(_Lagged):
    """Projection towards the parameter of the step before, where the parameter points uphill."""

    alias = "uphill_spd"
    reads = frozenset({"update", "regularized", "param"})

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(param.clone(), param.new_zeros(()))

    @override
    def gate(self, carry: Carry, away: Tensor, layout: Layout) -> Tensor:
        return layout.dot(carry.regularized, carry.param)
