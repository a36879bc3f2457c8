"""The learning rate.

    update <- lr update

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  lr times those of update: from here on, those of the parameter.
Place    near the end; behind it stand only links that work on the proposed step.
Fields   lr: >= 0; torch's schedulers set it.
Raises   ChainError if lr is negative.
Source   every optimizer.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class LearningRate(Transform):
    """Multiplication by the learning rate."""

    traits = frozenset({"learning_rate"})
    removable = False

    lr: Annotated[float, "[0, inf)"] = 1e-3

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=self.lr * carry.update), state
