"""Automagic's learning rate per element as published: kept in 127 steps of a common scale, moved by the sign's constancy.

    p = [processed > 0];   k <- clip(k + b where p is what it was, else k - b, min_lr, max_lr);   update <- k update / lr
    k <- scale round(k / scale),   scale = max(k) / 127

Reads    update, processed (the gradient).   Writes  update.   State  mask (k), polarity (p as 0 or 1): like the parameter.
Cost     4 reads, 3 writes, and a maximum, which on shards costs a whole tensor.
Shapes   any; empty passes through.   Units  those of update: LearningRate, which follows, cancels 1 / lr.
Place    behind the links that form the direction, and behind WeightDecay, which it then scales; before LearningRate.
Fields   mask_start: k before the first step, >= 0; min_lr, max_lr: >= 0; lr_bump (b): >= 0.
Raises   ChainError if a field is out of range, or min_lr is above max_lr.
Source   Automagic (ostris/ai-toolkit, toolkit/optimizers/automagic.py), whose mask is int8 with one scale a parameter.
Differs  nothing known in the rule: what is applied is k before rounding. Once an element exceeds 254 b its bump is rounded away
         and the mask stands still. It heeds no schedule; at lr = 0, where the original moves on, nothing moves here. LRMask is
         the sound form, and storage in 8 bits is a matter of the optimizer.
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


class Int8LRMaskState(NamedTuple):
    mask: Tensor
    polarity: Tensor


def _rounded(k: Tensor) -> Tensor:
    """k in 127 equal steps up to its largest entry."""
    largest = torch.cat((k.reshape(-1), k.new_zeros(1))).amax()
    scale = torch.where(largest > 0, largest, 1) / 127
    return (k / scale).round() * scale


@dataclass(frozen=True, kw_only=True, repr=False)
class Int8LRMask(Transform[Int8LRMaskState]):
    """Learning rate per element in 8 bits, raised where the gradient keeps its sign."""

    State = Int8LRMaskState
    reads = frozenset({"update", "processed"})

    mask_start: Annotated[float, "[0, inf)"] = 1e-6
    min_lr: Annotated[float, "[0, inf)"] = 1e-7
    max_lr: Annotated[float, "[0, inf)"] = 1e-3
    lr_bump: Annotated[float, "[0, inf)"] = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.label, self.min_lr, self.max_lr)

    @override
    def init(self, param: Tensor) -> Int8LRMaskState:
        return Int8LRMaskState(torch.zeros_like(param) + self.mask_start, torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: Int8LRMaskState, ctx: Context) -> tuple[Carry, Int8LRMaskState]:
        u, lr = carry.update, ctx.lr
        p = (carry.signal > 0).to(u.dtype)
        k = torch.where(p == state.polarity, state.mask + self.lr_bump, state.mask - self.lr_bump)
        k = k.clamp(self.min_lr, self.max_lr)
        inverse = torch.where(lr > 0, 1 / torch.where(lr > 0, lr, 1), 0)
        return carry._replace(update=u * k * inverse), Int8LRMaskState(ctx.layout.on_whole(_rounded, k), p)

    @override
    def figures(self, state: Int8LRMaskState) -> Mapping[str, Tensor]:
        return spread(state.mask)
