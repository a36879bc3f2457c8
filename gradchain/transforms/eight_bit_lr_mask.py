"""A learning rate per element, rounded to 8 bits after every step; it moves by the sign's constancy in warm-up.

    t < W    p = [processed > 0];   k <- clip(k + b where p is what it was, else k - b, min_lr, max_lr)
    update <- k update / lr;   then k is rounded, in blocks of 2048 with a scale each

Reads    update, processed (the gradient).   Writes  update.
State    mask (k, its values those of the 8-bit map), polarity (p as 0 or 1): like the parameter.
Cost     4 reads, 3 writes, and the rounding, which on shards costs a whole tensor.
Shapes   any; blocks run through the flattened tensor.   Units  those of update: LearningRate, which follows, cancels 1 / lr.
Place    behind the links that form the direction, before LearningRate.
Fields   mask_start: k before the first step, >= 0; min_lr, max_lr, lr_bump (b): >= 0; mask_steps (W): >= 1.
Raises   ChainError if a field is out of range, or min_lr is above max_lr.
Source   the 8-bit form of Automagic CameAMP (hinablue/sd-scripts), which stores k by bitsandbytes' blockwise quantization.
Differs  it heeds no schedule; at lr = 0, where the original moves on, nothing moves here. Where k / lr is large, a bump is lost
         in rounding. See EightBitMomentum on the rounding. LRMask is the sound form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._eight_bits import eight_bits
from gradchain.transforms._lr_mask import check_rates, spread
from gradchain.types import Carry, Context, Transform

BLOCK = 2048


class EightBitLRMaskState(NamedTuple):
    mask: Tensor
    polarity: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class EightBitLRMask(Transform[EightBitLRMaskState]):
    """Learning rate per element in blockwise 8 bits."""

    State = EightBitLRMaskState
    reads = frozenset({"update", "processed"})

    mask_start: Annotated[float, "[0, inf)"] = 1e-6
    min_lr: Annotated[float, "[0, inf)"] = 1e-7
    max_lr: Annotated[float, "[0, inf)"] = 1e-3
    lr_bump: Annotated[float, "[0, inf)"] = 3e-6
    mask_steps: Annotated[int, "[1, inf)"] = 501

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.label, self.min_lr, self.max_lr)

    @override
    def init(self, param: Tensor) -> EightBitLRMaskState:
        return EightBitLRMaskState(torch.zeros_like(param) + self.mask_start, torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: EightBitLRMaskState, ctx: Context) -> tuple[Carry, EightBitLRMaskState]:
        u, lr, warm = carry.update, ctx.lr, (ctx.step < self.mask_steps).to(carry.update.device)
        p = (carry.signal > 0).to(u.dtype)
        moved = torch.where(p == state.polarity, state.mask + self.lr_bump, state.mask - self.lr_bump)
        k = torch.where(warm, moved.clamp(self.min_lr, self.max_lr), state.mask)
        inverse = torch.where(lr > 0, 1 / torch.where(lr > 0, lr, 1), 0)
        kept = EightBitLRMaskState(eight_bits(k, BLOCK, ctx.layout), torch.where(warm, p, state.polarity))
        return carry._replace(update=u * k * inverse), kept

    @override
    def figures(self, state: EightBitLRMaskState) -> Mapping[str, Tensor]:
        return spread(state.mask)
