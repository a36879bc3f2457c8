"""CameAMP's forms of selective projection decay: a step that goes uphill is drawn back, mostly to where it came from.

    n = w - update;   r = clip((|n - a| - |w - a|) / (|n - a| + 1e-8), 0, 1)
    fires where g > 0 beyond rounding:   n <- n - l r (n - a), and a <- n;   else a <- w        update <- w - n
    LaggedSPD            g = <processed, w - a>, a = 0 before the first step
    UphillSPD            g = <regularized, w>, a = w before the first step
    PublishedSPD         g = <processed, w - a>, a = w before the first step, and stays
    PublishedOriginSPD   the same with a = 0
    with rank_rate h, matrices:  l (1 + mean of exp(-h k) over k = 0 ... min(rows, columns) - 1)  instead of l

Reads    update, processed or regularized (the gradient), param.   Writes  update.
State    anchor (a): like the parameter; fired: 0-d.   Cost  7 reads, 3 writes, 4 sums.
Shapes   any; 0-d and empty pass through.   Units  those of the parameter; l is a pure number, not scaled by the learning rate.
Place    last, on the proposed step, within Phase(stop=warm-up).
Fields   spd_lambda (l): >= 0; rank_rate (h): >= 0; 0 leaves matrices like the rest.
Raises   ChainError if a field is negative.
Source   Automagic CameAMP (hinablue/sd-scripts), "improved" version (UphillSPD: with dual momentum; PublishedSPD and
         PublishedOriginSPD: the first versions), after arXiv 2411.01713.
Differs  the paper's anchor is where the run started. In the last two it is that, too, and what sets them apart from SPD and
         OriginSPD is the 1e-8; in the first two it lags by a step, so the link brakes a move against the gradient, and
         after it fired w - a is taken as exactly 0, as there, where a is copied from the parameter. The published factor for
         matrices comes from a singular value decomposition of which only the number of values is used. There the
         sign of g decides even where it is that of rounding; here g must exceed 32 eps times the product of the lengths.
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
from gradchain.types import Carry, Context, Layout, Transform


class LaggedSPDState(NamedTuple):
    anchor: Tensor
    fired: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Guarded(Transform[LaggedSPDState]):
    State = LaggedSPDState
    off = {"spd_lambda": 0.0}

    spd_lambda: Annotated[float, "[0, inf)"] = 5e-4
    rank_rate: Annotated[float, "[0, inf)"] = 0.0

    def fires(self, carry: Carry, away: Tensor, before: Tensor, layout: Layout) -> Tensor:
        return uphill(carry.signal, away, before, layout)

    def away(self, w: Tensor, state: LaggedSPDState) -> Tensor:
        """w - a. Lagging by a step, it is exactly 0 after the link fired."""
        return torch.where(state.fired > 0, torch.zeros_like(w), w - state.anchor)

    def next_anchor(self, w: Tensor, state: LaggedSPDState) -> Tensor:
        return w

    @override
    def update(self, carry: Carry, state: LaggedSPDState, ctx: Context) -> tuple[Carry, LaggedSPDState]:
        u, w, layout = carry.update, carry.param, ctx.layout
        away = self.away(w, state)
        proposed = away - u
        distance, before = layout.norm(proposed), layout.norm(away)
        r = ((distance - before) / (distance + 1e-8)).clamp(0, 1)
        fires = self.fires(carry, away, before, layout) & r.isfinite()  # distances may be too long to be measured
        strength = self.spd_lambda * rank_factor(layout.shape(w), self.rank_rate)
        new = carry._replace(update=u + strength * torch.where(fires, r, 0) * proposed)
        return new, LaggedSPDState(self.next_anchor(w, state), fires.to(w.dtype))

    @override
    def figures(self, state: LaggedSPDState) -> Mapping[str, Tensor]:
        return {"fired": state.fired}


@dataclass(frozen=True, kw_only=True, repr=False)
class LaggedSPD(_Guarded):
    """Projection towards the parameter of the step before, where the last move went uphill."""

    alias = "lagged_spd"
    reads = frozenset({"update", "processed", "param"})

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(torch.zeros_like(param), param.new_zeros(()))


@dataclass(frozen=True, kw_only=True, repr=False)
class UphillSPD(_Guarded):
    """Projection towards the parameter of the step before, where the parameter points uphill."""

    alias = "uphill_spd"
    reads = frozenset({"update", "regularized", "param"})

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(param.clone(), param.new_zeros(()))

    @override
    def fires(self, carry: Carry, away: Tensor, before: Tensor, layout: Layout) -> Tensor:
        return uphill(carry.regularized, carry.param, layout.norm(carry.param), layout)


@dataclass(frozen=True, kw_only=True, repr=False)
class _Fixed(_Guarded):
    reads = frozenset({"update", "processed", "param"})

    @override
    def away(self, w: Tensor, state: LaggedSPDState) -> Tensor:
        return w - state.anchor

    @override
    def next_anchor(self, w: Tensor, state: LaggedSPDState) -> Tensor:
        return state.anchor


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedSPD(_Fixed):
    """Projection towards the start, where the step leaves it against the gradient, with a guarded quotient."""

    alias = "published_spd"

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(param.clone(), param.new_zeros(()))


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedOriginSPD(_Fixed):
    """Projection towards zero, where the step leaves it against the gradient, with a guarded quotient."""

    alias = "published_origin_spd"

    @override
    def init(self, param: Tensor) -> LaggedSPDState:
        return LaggedSPDState(torch.zeros_like(param), param.new_zeros(()))
