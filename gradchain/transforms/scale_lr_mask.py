"""The learning rate mask of AdaptiveHinaAdamW: rates that move by the constancy of the gradient's sign, as factors on the step.

    p = [processed > 0];   k <- k + b where p is what it was, else k - b,   b = lr_bump bump_scale           while T < W
    where L has grown, k <- k + its growth;   k <- clip(k, min_lr, max_lr)                                   likewise

    ElementLRMask   scale <- scale k / L
    TensorLRMask    scale <- scale mean(k / L)

L is the largest learning rate of the group's warm-up, k is L at the start, and T counts the steps of the optimizer, those
included in which the parameter had no gradient.

Reads    processed (the gradient), scale, bump_scale.   Writes  scale.
State    rate (k), polarity (p as 1 or -1): like the parameter; peak (L at its last step), settled (1 after warm-up), largest
         (L, common to the group): 0-d.
Cost     4 reads, 2 writes, and for TensorLRMask a sum, for ElementLRMask one more read and write.
Shapes   any; empty passes through.   Units  a pure number; lr_bump, min_lr and max_lr are learning rates.
Place    before ApplyScale.
Fields   lr_bump: change of a rate in one step, >= 0; min_lr, max_lr: smallest and largest rate, >= 0; warmup_steps (W): first
         step at which the mask stands still, >= 1.
Raises   ChainError if a field is out of range, or min_lr is above max_lr.
Source   hinablue/sd-scripts: AdaptiveHinaAdamW (TensorLRMask) and HinaAdaptive (ElementLRMask).
Differs  polarity starts at "not positive", and a zero gradient counts as that: so the first step raises k for all others, and
         elements without a gradient drift to max_lr. There lr is the one that the optimizer was made with, whatever a
         scheduler or a group says, and k is kept in float32; a schedule that did reach it would shrink k again at each step.
         Here LearningRate multiplies afterwards, so the step follows the schedule. LRMask is the sound form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._lr_mask import check_rates, spread
from gradchain.types import Carry, Context, Transform


class ScaleMaskState(NamedTuple):
    rate: Tensor
    polarity: Tensor
    peak: Tensor
    settled: Tensor
    largest: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _ScaleMask(Transform[ScaleMaskState]):
    State = ScaleMaskState
    reads = frozenset({"processed", "scale", "bump_scale"})
    writes = frozenset({"scale"})
    traits = frozenset({"optimizer_step"})
    common = ("largest",)
    common_to = "group"

    lr_bump: Annotated[float, "[0, inf)"] = 3e-6
    min_lr: Annotated[float, "[0, inf)"] = 1e-7
    max_lr: Annotated[float, "[0, inf)"] = 1e-3
    warmup_steps: Annotated[int, "[1, inf)"] = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.label, self.min_lr, self.max_lr)

    @override
    def init(self, param: Tensor) -> ScaleMaskState:
        nothing = [param.new_zeros(()) for _ in ("peak", "settled", "largest")]
        return ScaleMaskState(torch.zeros_like(param), -torch.ones_like(param), *nothing)

    @override
    def figures(self, state: ScaleMaskState) -> Mapping[str, Tensor]:
        return {**spread(state.rate / torch.where(state.peak > 0, state.peak, 1)), "settled": state.settled}

    def moved(self, carry: Carry, state: ScaleMaskState, ctx: Context) -> tuple[Tensor, ScaleMaskState]:
        """k / L, and the new state."""
        k, q = state.rate, state.polarity
        moving, fresh = (ctx.total < self.warmup_steps).to(k.device), state.peak == 0
        learning = moving | (state.largest == 0)
        largest = torch.where(learning, torch.maximum(state.largest, ctx.lr.to(k)), state.largest)
        p = torch.where(carry.signal > 0, 1.0, -1.0).to(k.dtype)
        grown = k + (largest - state.peak)
        bumped = (grown + p * q * (self.lr_bump * carry.bump_scale)).clamp(self.min_lr, self.max_lr)
        k = torch.where(moving, bumped, torch.where(fresh, grown, k))
        peak = torch.where(moving | fresh, largest, state.peak)
        known = peak > 0
        factor = torch.where(known, k / torch.where(known, peak, 1), 1)
        return factor, ScaleMaskState(k, p, peak, 1 - moving.to(k.dtype), largest)


@dataclass(frozen=True, kw_only=True, repr=False)
class ElementLRMask(_ScaleMask):
    """Published mask of learning rates, element by element."""

    @override
    def update(self, carry: Carry, state: ScaleMaskState, ctx: Context) -> tuple[Carry, ScaleMaskState]:
        factor, new = self.moved(carry, state, ctx)
        return carry._replace(scale=carry.scale * factor), new


@dataclass(frozen=True, kw_only=True, repr=False)
class TensorLRMask(_ScaleMask):
    """Published mask of learning rates, its mean for a parameter."""

    @override
    def update(self, carry: Carry, state: ScaleMaskState, ctx: Context) -> tuple[Carry, ScaleMaskState]:
        factor, new = self.moved(carry, state, ctx)
        return carry._replace(scale=carry.scale * ctx.layout.mean(factor)), new
