"""Grams: the size of the update with the signs of the gradient.

    update <- |update| sign(processed)

Reads    update, processed (the gradient).   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of update.
Place    after the direction is formed, before WeightDecay and LearningRate; never together with Cautious, which it makes idle.
Fields   none.
Raises   nothing.
Source   Cao et al., Grams: Gradient Descent with Adaptive Momentum Scaling, arXiv 2412.17107, algorithm 1.
Differs  the authors' code overwrites the gradient; the rule is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class Grams(Transform):
    """Magnitude of the update, direction of the gradient."""

    reads = frozenset({"update", "processed"})
    traits = frozenset({"aligns"})

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update.abs() * torch.sign(carry.signal)), state
