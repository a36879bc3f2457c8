"""A ceiling on the length of each parameter's gradient.

    update <- update min(1, c / |update|)

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 norm a parameter.
Shapes   any; empty passes through.   Units  those of the gradient (a rescaling).
Place    first, before the moments.
Fields   norm_ceiling (c): > 0.
Raises   ChainError if norm_ceiling is not positive.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts), which calls it AGR, with c = 1.
Differs  nothing known. Where all parameters together are clipped to a norm of 1 beforehand, as trainers do, it does nothing.
         The paper's AGR is another rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class NormCeiling(Transform):
    """Each parameter's gradient, no longer than a ceiling."""

    off = {"norm_ceiling": torch.inf}

    norm_ceiling: Annotated[float, "(0, inf]"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        excess = ctx.layout.norm(g) / self.norm_ceiling
        return carry._replace(update=g / excess.clamp(min=1)), state
