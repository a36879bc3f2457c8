"""Decoupled weight decay of the parameter that the step arrives at.

    update <- update + lr wd (param - update)          that is, w <- (1 - lr wd) w after the step

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of the parameter.
Place    after LearningRate and after what limits the step, which the decay then escapes.
Fields   weight_decay (wd): strength, >= 0. The learning rate is the group's.
Raises   ChainError if weight_decay is negative.
Source   relativistic-adam 1.0.0 (PyPI), RelativisticAdamW; bitsandbytes decays so too.
Differs  nothing known. WeightDecay shrinks the parameter before the step; the two differ by lr wd times the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightDecayAfterStep(Transform):
    """Decoupled weight decay, applied after the step."""

    reads = frozenset({"update", "param"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u = carry.update
        return carry._replace(update=u + ctx.lr * self.weight_decay * (carry.param - u)), state
