"""Grams that fades: the gradient's signs count less and less during the run.

    a = decay^t;   update <- a |update| sign(processed) + (1 - a) update

Reads    update, processed (the gradient).   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of update.
Place    after the direction is formed, before LearningRate.
Fields   grams_decay (decay): in [0, 1]; 1 is Grams throughout.
Raises   ChainError if grams_decay is outside [0, 1].
Source   Automagic CameAMP (hinablue/sd-scripts), last version, after Cao et al., Grams, arXiv 2412.17107.
Differs  there decay is that of the momentum (beta1_decay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class BlendedGrams(Transform):
    """Between the update with the gradient's signs and the update itself."""

    reads = frozenset({"update", "processed"})
    traits = frozenset({"aligns"})

    grams_decay: Annotated[float, "[0, 1]"] = 0.9995

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u, a = carry.update, self.grams_decay**ctx.step
        return carry._replace(update=a * (u.abs() * torch.sign(carry.signal)) + (1 - a) * u), state
