"""LAMB's trust ratio: a tensor's step becomes as long as the tensor itself, before the learning rate.

    r = min(max(|param|, l), h) / |update|, at most trust_limit;   update <- r update

r = 1 where |param| bounded so, or |update|, is 0; r = 0 where |param| is too long to be measured.

Reads    update, param.   Writes  update.   State  none.   Cost  3 reads, 1 write, 2 norms a parameter.
Shapes   any; empty passes through.   Units  those of the parameter: the step is lr |param| long.
Place    behind WeightDecay, which counts in the ratio, and behind whatever rescales; ahead of LearningRate.
Fields   weight_norm_range: (l, h), the bounds of |param|, each >= 0; trust_limit: largest ratio, > 0.
Raises   ChainError if a field is out of range.
Source   You et al., Large Batch Optimization for Deep Learning, arXiv 1904.00962, algorithm 2.
Differs  the paper leaves the bounds open; here they are off unless given. timm leaves r out where weight_decay is 0, clips the
         gradients of the whole model first, and calls a trust_limit of 1 trust_clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class TrustRatio(Transform):
    """Step as long as the tensor it changes."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"caps"})

    weight_norm_range: tuple[Annotated[float, "[0, inf)"], Annotated[float, "[0, inf]"]] = (0.0, torch.inf)
    trust_limit: Annotated[float, "(0, inf]"] = torch.inf

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        low, high = self.weight_norm_range
        w = ctx.layout.norm(carry.param).clamp(min=low).clamp(max=high)
        u = ctx.layout.norm(carry.update)
        ratio = torch.where((w > 0) & (u > 0), w / torch.where(u > 0, u, 1), 1).clamp(max=self.trust_limit)
        ratio = torch.where(w.isfinite(), ratio, 0)
        return carry._replace(update=ratio * carry.update), state
