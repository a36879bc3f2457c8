"""Orthogonal gradient: the part along the parameter is taken out, and the length restored.

    o = g - (<w, g> / <w, w>) w;   update <- o |g| / |o|      where |o| > tolerance |g| and is not rounding, else g

Reads    update, param.   Writes  update.   State  none.   Cost  4 reads, 2 writes, 4 sums a parameter.
Shapes   any; one-element and zero parameters keep their gradient.   Units  those of the gradient.
Place    first, before the moments: what they make of it need not be orthogonal any more.
Fields   tolerance: share of the gradient that must be left for the projection to be used, in [0, 1).
Raises   ChainError if tolerance is outside [0, 1).
Source   Prieto et al., Grokking at the Edge of Numerical Stability, arXiv 2501.04697; the authors' code restores the length.
Differs  there a gradient parallel to the parameter is replaced by rounding noise of full length, and one-element parameters
         are frozen, or moved by such noise; here both keep their gradient. An o of at most 32 eps times the length of what was
         subtracted counts as rounding, whatever the tolerance, with the eps of the dtype in which links compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.transforms._rounding import remainder
from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class OrthogonalGradient(Transform):
    """Gradient without its part along the parameter, at its former length."""

    reads = frozenset({"update", "param"})

    tolerance: Annotated[float, "[0, 1)"] = 1e-6

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, w = carry.update, carry.param
        if math.prod(ctx.layout.shape(w)) < 2:
            return carry, state
        (o, left), length = remainder(g, w, ctx.layout), ctx.layout.norm(g)
        usable = left > self.tolerance * length
        return carry._replace(update=torch.where(usable, o * (length / torch.where(usable, left, 1)), g)), state
