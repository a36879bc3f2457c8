"""Adaptive gradient regularization: each element is reduced by its share of the parameter's absolute gradient.

    a = |g| / sum |g|;   update <- g - a g

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 sum a parameter.
Shapes   any; empty passes through; a gradient with one non-zero element becomes 0, so one-element parameters stand still.
Units    those of the gradient (a rescaling).
Place    first, before the moments.
Fields   none.
Raises   nothing.
Source   Jiang et al., An Adaptive Gradient Regularization Method, arXiv 2407.16944, algorithm 1.
Differs  the authors' code gives NaN where the whole gradient is 0; here such a gradient stays 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class AGR(Transform):
    """Reduction of each gradient element by its share of the whole."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        total = ctx.layout.sum(g.abs())
        share = g.abs() / torch.where(total > 0, total, 1)
        return carry._replace(update=g - share * g), state
