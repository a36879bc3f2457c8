"""Automagic's learning rate per element as CameAMP has it: it moves by the sign's constancy in warm-up, and then stands.

    t < W    p = [processed > 0];   k <- k + b where p is what it was, else k - b,   b = lr_bump bump_scale
             if lr > lr_max: k <- k + lr - lr_max, lr_max <- lr;   k <- clip(k, min_lr, max_lr);   update <- k update / lr
    t >= W   lr_max <- max(lr_max, lr);   update <- k max(lr / lr_max, floor) update / lr
    DirectedLRMask: while t < D, b is d_coef times as large for rises where <regularized, param> < 0, for falls where > 0

Reads    update, processed (the gradient), bump_scale (DirectedLRMask: regularized, param).   Writes  update.
State    mask (k), polarity (p as 0 or 1): like the parameter; lr_max: 0-d.   Cost  4 reads, 3 writes.
Shapes   any; elementwise.   Units  those of update: LearningRate, which follows, cancels 1 / lr.
Place    behind the links that form the direction, before LearningRate.
Fields   mask_start: k before the first step, >= 0; min_lr, max_lr: >= 0; lr_bump: >= 0; lr_max_start: lr_max before the first
         step, >= 0; mask_steps (W): >= 1; mask_floor (floor): smallest part of k that a schedule can leave, in [0, 1];
         d_coef: >= 0; directed_steps (D): >= 1.
Raises   ChainError if a field is out of range, or min_lr is above max_lr.
Source   Automagic CameAMP (hinablue/sd-scripts): floor 0 in the "improved" version, 0.1 in the last one.
Differs  polarity starts at "not positive", and a zero gradient counts as that: so the first step raises k for all others, and
         elements without a gradient drift to max_lr. lr_max starts at 1e-6 whatever lr is, so k starts near 2 lr. There k alone
         is the step, whatever the schedule says in warm-up; at lr = 0 it moves the parameter, which here it does not. The dual
         version stores the shrunken k, so that a schedule compounds; the first one overwrites the group's lr: neither is kept.
         LRMask is the sound form.
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


class PublishedLRMaskState(NamedTuple):
    mask: Tensor
    polarity: Tensor
    lr_max: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Mask(Transform[PublishedLRMaskState]):
    State = PublishedLRMaskState
    reads = frozenset({"update", "processed", "bump_scale"})

    mask_start: Annotated[float, "[0, inf)"] = 1e-6
    min_lr: Annotated[float, "[0, inf)"] = 1e-7
    max_lr: Annotated[float, "[0, inf)"] = 1e-3
    lr_bump: Annotated[float, "[0, inf)"] = 3e-6
    lr_max_start: Annotated[float, "[0, inf)"] = 1e-6
    mask_steps: Annotated[int, "[1, inf)"] = 500
    mask_floor: Annotated[float, "[0, 1]"] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.label, self.min_lr, self.max_lr)

    @override
    def init(self, param: Tensor) -> PublishedLRMaskState:
        zeros = torch.zeros_like(param)
        return PublishedLRMaskState(
            zeros + self.mask_start, zeros.clone(), (param.new_zeros(()) + self.lr_max_start).to(param.dtype)
        )

    def bumps(self, carry: Carry, ctx: Context) -> tuple[Tensor, Tensor]:
        """What k rises by, and what it falls by."""
        bump = (self.lr_bump * carry.bump_scale).to(carry.update.dtype)
        return bump, bump

    @override
    def update(self, carry: Carry, state: PublishedLRMaskState, ctx: Context) -> tuple[Carry, PublishedLRMaskState]:
        u, k = carry.update, state.mask
        lr, warm = ctx.lr.to(u.device, u.dtype), (ctx.step < self.mask_steps).to(u.device)
        p = (carry.signal > 0).to(u.dtype)
        rise, fall = self.bumps(carry, ctx)
        raised = torch.where(p == state.polarity, k + rise, k - fall) + (lr - state.lr_max).clamp(min=0)
        k = torch.where(warm, raised.clamp(self.min_lr, self.max_lr), k)
        lr_max = torch.maximum(state.lr_max, lr)
        settled = torch.where(warm, 1, (lr / torch.where(lr_max > 0, lr_max, 1)).clamp(min=self.mask_floor))
        factor = settled * torch.where(lr > 0, 1 / torch.where(lr > 0, lr, 1), 0)
        return carry._replace(update=u * (k * factor)), PublishedLRMaskState(k, torch.where(warm, p, state.polarity), lr_max)

    @override
    def figures(self, state: PublishedLRMaskState) -> Mapping[str, Tensor]:
        return spread(state.mask)


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedLRMask(_Mask):
    """Learning rate per element, raised where the gradient keeps its sign."""


@dataclass(frozen=True, kw_only=True, repr=False)
class DirectedLRMask(_Mask):
    """Learning rate per element, quicker to rise where the parameter points downhill, and to fall where uphill."""

    reads = frozenset({"update", "processed", "bump_scale", "regularized", "param"})

    d_coef: Annotated[float, "[0, inf)"] = 2.0
    directed_steps: Annotated[int, "[1, inf)"] = 250

    @override
    def bumps(self, carry: Carry, ctx: Context) -> tuple[Tensor, Tensor]:
        bump, _ = super().bumps(carry, ctx)
        slope = ctx.layout.dot(carry.regularized, carry.param)
        directed = (ctx.step < self.directed_steps).to(slope.device)
        rise, fall = (torch.where(directed & side, self.d_coef * bump, bump) for side in (slope < 0, slope > 0))
        return rise, fall
