"""Proximal weight decay: the parameter goes to where the step and the pull to zero at its end are in balance.

    w <- (w - update) / (1 + lr wd)

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of the parameter.
Place    after LearningRate and after what limits the step, which the decay then escapes.
Fields   weight_decay (wd): strength, >= 0. The learning rate is the group's.
Raises   ChainError if weight_decay is negative.
Source   Xie et al., Adan, arXiv 2208.06677, algorithm 1.
Differs  nothing known. WeightDecayAfterStep multiplies by 1 - lr wd instead; the two differ by (lr wd)^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ProximalWeightDecay(Transform):
    """Decoupled weight decay, implicit in the step."""

    reads = frozenset({"update", "param"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        rate = ctx.lr * self.weight_decay
        return carry._replace(update=(carry.update + rate * carry.param) / (1 + rate)), state
