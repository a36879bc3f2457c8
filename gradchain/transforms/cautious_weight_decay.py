"""Cautious weight decay: only weights that the update does not push away from zero decay.

    update <- update + wd [update param >= 0] param

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  weight_decay: per unit of learning rate, like that of WeightDecay.
Place    on the final direction, before LearningRate.
Fields   weight_decay (wd): >= 0.
Raises   ChainError if weight_decay is negative.
Source   Chen et al., Cautious Weight Decay, arXiv 2510.12402, algorithm 1.
Differs  torchzero and lucidrains' programs let a weight without an update decay not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class CautiousWeightDecay(Transform):
    """Decay where the update agrees with it."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"decays"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u, w = carry.update, carry.param
        return carry._replace(update=u + self.weight_decay * torch.where(u * w >= 0, w, 0)), state
