"""Orthogonal component: the part of a matrix's gradient along the parameter is taken out.

    update <- g - (<w, g> / <w, w>) w      where the parameter has two or more extents and is not zero

Reads    update, param.   Writes  update.   State  none.   Cost  4 reads, 1 write, 2 sums a parameter.
Shapes   tensors of two or more extents; others keep their gradient.   Units  those of the gradient; at most as long as it.
Place    first, before the moments: what they make of it need not be orthogonal any more.
Fields   none.
Raises   nothing.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), use_orthogonal_grad.
Differs  OrthogonalGradient, the form of the paper it names, gives the rest the length of the whole. Here a gradient parallel to
         the parameter vanishes: there its rounding is left, which a normalizing link takes for a direction. What is at most 32
         eps times as long as what was subtracted counts as rounding, with the eps of the dtype in which links compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from typing_extensions import override

from gradchain.transforms._rounding import remainder
from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class OrthogonalComponent(Transform):
    """Gradient without its part along the parameter."""

    reads = frozenset({"update", "param"})

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, w, layout = carry.update, carry.param, ctx.layout
        if w.dim() < 2:
            return carry._replace(update=g.clone()), state
        o, left = remainder(g, w, layout)
        return carry._replace(update=torch.where(left == 0, torch.zeros_like(o), o)), state
