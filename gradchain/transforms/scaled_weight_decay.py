"""Decoupled weight decay behind the learning rate: decay by the group's lr, whatever else scales the step.

    update <- update + lr wd param

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of the parameter.
Place    after LearningRate or RelativeStep.
Fields   weight_decay (wd): strength, >= 0. The learning rate is the group's.
Raises   ChainError if weight_decay is negative.
Source   torch.optim.Adafactor decays so, by the raw lr, while its step is scaled by a relative one.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ScaledWeightDecay(Transform):
    """Decoupled weight decay by the group's learning rate."""

    reads = frozenset({"update", "param"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update + ctx.lr * self.weight_decay * carry.param), state
