"""LARS: the gradient with its weight decay, by a learning rate of the tensor's own.

    r = eta |param| / (|g| + wd |param|);   update <- r (g + wd param)

r = 1 where |param| or |g| is 0; r = 0 where |param| is too long to be measured.

Reads    update (g), param.   Writes  update.   State  none.   Cost  3 reads, 1 write, 2 norms a parameter.
Shapes   any; empty passes through.   Units  those of the parameter: scaling the loss changes nothing where wd = 0.
Place    first, ahead of the momentum.
Fields   trust_coefficient (eta): > 0; weight_decay (wd): >= 0.
Raises   ChainError if a field is out of range.
Source   You et al., Large Batch Training of Convolutional Networks, arXiv 1708.03888, algorithm 1.
Differs  the paper's momentum sums steps that the learning rate has scaled; ours, as in most programs, is ahead of the rate.
         timm applies neither r nor decay where weight_decay is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class LARS(Transform):
    """Layer-wise rate from the norms of weights and gradient."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"decays"})

    trust_coefficient: Annotated[float, "(0, inf)"] = 1e-3
    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        w, g = ctx.layout.norm(carry.param), ctx.layout.norm(carry.update)
        usable = (w > 0) & (g > 0)
        below = torch.where(usable, g + self.weight_decay * w, 1)
        ratio = torch.where(usable, self.trust_coefficient * w / below, 1)
        ratio = torch.where(w.isfinite(), ratio, 0)
        return carry._replace(update=ratio * (carry.update + self.weight_decay * carry.param)), state
