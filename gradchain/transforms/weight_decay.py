"""Decoupled weight decay: the parameter shrinks by its own rate, past the moments.

    update <- update + wd param

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  wd is per unit of learning rate.
Place    after the normalizing link, before LearningRate: the parameter is then multiplied by 1 - lr wd, as in AdamW.
Fields   weight_decay (wd): strength, >= 0.
Raises   ChainError if weight_decay is negative.
Source   Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv 1711.05101.
Differs  nothing known; the formula is L2's, the place makes the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightDecay(Transform):
    """Decoupled weight decay."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"decays"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update + self.weight_decay * carry.param), state
