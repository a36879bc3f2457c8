"""Adagrad's schedule: the update fades with the inverse of the step count.

    update <- update / (1 + (t - 1) rho)

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  those of update.
Place    next to LearningRate.
Fields   lr_decay (rho): decay per step, >= 0.
Raises   ChainError if lr_decay is negative.
Source   torch.optim.Adagrad.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class InverseTimeDecay(Transform):
    """Division by a linear function of the step count."""

    off = {"lr_decay": 0.0}

    lr_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update / (1 + (ctx.step - 1) * self.lr_decay)), state
