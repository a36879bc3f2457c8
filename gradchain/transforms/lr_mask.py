"""Learning rate mask: a factor per element that grows while the gradient keeps its sign, and shrinks when the sign turns.

    p = sign(processed);   r <- clip(r + p q b / L, min_lr / L, max_lr / L), q <- p where p != 0      while t < W
    scale <- scale r

L is the largest learning rate that the parameter has seen, b = lr_bump bump_scale. LearningRate multiplies afterwards, so that
the step follows whatever a scheduler does, in warm-up and after it; where the learning rate is L, the rates are within the
bounds.

Reads    processed (the gradient), scale, bump_scale.   Writes  scale, like the parameter from here on.
State    mask (r, 1 at the start), polarity (q, 0 at the start): like the parameter; peak (L), settled (1 after warm-up): 0-d.
Cost     5 reads, 3 writes.
Shapes   any; elementwise.   Units  a pure number; lr_bump, min_lr and max_lr are learning rates.
Place    before ApplyScale; behind Signal, where the gradient is to be compared as processed.
Fields   lr_bump: change of the rate in one step, >= 0; min_lr, max_lr: smallest and largest rate, >= 0; warmup_steps (W):
         first step at which the mask stands still, >= 1.
Raises   ChainError if a field is out of range, or min_lr is above max_lr.
Source   AdaptiveHinaAdamW and Automagic CameAMP (hinablue/sd-scripts), after Automagic (ostris/ai-toolkit).
Differs  there the sign starts as negative, so that the first step already raises some elements and lowers the others, and a
         gradient of 0 counts as negative, so that dead elements drift to max_lr; here both leave the mask as it is.
         AdaptiveHinaAdamW uses the mean of the mask for all elements (TensorLRMask) and no scheduler reaches it; Automagic
         never stops moving its mask and keeps it in 8 bits, where it freezes (Int8LRMask); Automagic CameAMP starts L at 1e-6,
         so that the mask starts near 2 lr (PublishedLRMask).
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


class LRMaskState(NamedTuple):
    mask: Tensor
    polarity: Tensor
    peak: Tensor
    settled: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class LRMask(Transform[LRMaskState]):
    """Factor per element, by the constancy of the gradient's sign."""

    State = LRMaskState
    reads = frozenset({"processed", "scale", "bump_scale"})
    writes = frozenset({"scale"})

    lr_bump: Annotated[float, "[0, inf)"] = 3e-6
    min_lr: Annotated[float, "[0, inf)"] = 1e-7
    max_lr: Annotated[float, "[0, inf)"] = 1e-3
    warmup_steps: Annotated[int, "[1, inf)"] = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.label, self.min_lr, self.max_lr)

    @override
    def init(self, param: Tensor) -> LRMaskState:
        return LRMaskState(torch.ones_like(param), torch.zeros_like(param), param.new_zeros(()), param.new_zeros(()))

    @override
    def figures(self, state: LRMaskState) -> Mapping[str, Tensor]:
        return {**spread(state.mask), "settled": state.settled}

    @override
    def update(self, carry: Carry, state: LRMaskState, ctx: Context) -> tuple[Carry, LRMaskState]:
        g, r, q = carry.signal, state.mask, state.polarity
        peak = torch.maximum(state.peak, ctx.lr.to(r))
        moving, known = (ctx.step < self.warmup_steps).to(r.device), peak > 0
        unit = torch.where(known, peak, 1)
        p = (g > 0).to(r.dtype) - (g < 0).to(r.dtype)
        moved = r + p * q * (self.lr_bump * carry.bump_scale / unit)
        r = torch.where(moving & known, moved.clamp(self.min_lr / unit, self.max_lr / unit), r)
        new = LRMaskState(r, torch.where(p != 0, p, q), peak, 1 - moving.to(r.dtype))
        return carry._replace(scale=carry.scale * r), new
