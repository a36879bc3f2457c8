"""Orthogonal gradient: the part along the parameter is taken out, and the length restored.

    o = g - (<w, g> / <w, w>) w;   update <- o |g| / |o|      where |o| > tolerance |g|, else g

Reads    update, param.   Writes  update.   State  none.   Cost  4 reads, 2 writes, 4 sums a parameter.
Shapes   any; one-element and zero parameters keep their gradient.   Units  those of the gradient.
Place    first, before the moments: what they make of it need not be orthogonal any more.
Fields   tolerance: share of the gradient that must be left for the projection to be used, in [0, 1).
Raises   ChainError if tolerance is outside [0, 1).
Source   Prieto et al., Grokking at the Edge of Numerical Stability, arXiv 2501.04697; the authors' code restores the length.
Differs  there a gradient parallel to the parameter is replaced by rounding noise of full length, and one-element parameters
         are frozen; here both keep their gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class OrthogonalGradient(Transform):
    """Gradient without its part along the parameter, at its former length."""

    reads = frozenset({"update", "param"})

    tolerance: Annotated[float, "[0, 1)"] = 1e-6

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, w, layout = carry.update, carry.param, ctx.layout
        square = layout.dot(w, w)
        part = layout.dot(w, g) / torch.where(square > 0, square, 1)
        o = g - torch.where(part.isfinite(), part, 0) * w  # w may be too long to be measured
        before, after = layout.norm(g), layout.norm(o)
        usable = after > self.tolerance * before
        return carry._replace(update=torch.where(usable, o * (before / torch.where(usable, after, 1)), g)), state
