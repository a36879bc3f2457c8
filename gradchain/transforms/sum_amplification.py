"""Amplification by the sum: a gradient counts more, the more its elements have one sign.

    update <- (1 + |sum g| / |g|) g

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 2 sums a parameter.
Shapes   any; empty and zero pass through; one element is doubled.
Units    those of the gradient (a rescaling); between 1 and 1 + sqrt(n) times it.
Place    before the moments. Behind it, Adam undoes what is the same in all steps.
Fields   none.
Raises   nothing.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), which calls it AGR.
Differs  there 0-d parameters are left out; an optimizer here shows links those as one element. The paper's AGR (AGR) shrinks
         each element by its share of the whole, and by its sign does the opposite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class SumAmplification(Transform):
    """Gradient enlarged by the share of its sum in its length."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, length = carry.update, ctx.layout.norm(carry.update)
        share = ctx.layout.sum(g).abs() / torch.where(length > 0, length, 1)
        return carry._replace(update=g * (1 + share)), state
