"""Adafactor's step size: the learning rate, or the inverse root of the step count where that is smaller.

    update <- min(lr, 1 / sqrt(t)) update

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  lr is relative to the scale of the parameter (see ParameterScale).
Place    in LearningRate's place.
Fields   lr: >= 0; torch's schedulers set it.
Raises   ChainError if lr is negative.
Source   Shazeer and Stern, Adafactor, arXiv 1804.04235, algorithm 5, in the form of torch.optim.Adafactor.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class RelativeStep(Transform):
    """Learning rate capped by the inverse root of the step count."""

    traits = frozenset({"learning_rate"})
    removable = False

    lr: Annotated[float, "[0, inf)"] = 1e-2

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        rho = (ctx.step**-0.5).clamp(max=self.lr)
        return carry._replace(update=rho * carry.update), state
