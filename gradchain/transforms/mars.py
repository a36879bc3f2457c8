"""MARS's variance-reduced gradient: the gradient is carried on along its change since the last step, and clipped.

    c = g + gamma b / (1 - b) (g - g_before);   update <- c / max(1, |c| / limit);   g_before <- g

Reads    update.   Writes  update.   State  previous (g_before): like the parameter, 0 before the first step.
Cost     3 reads, 2 writes, 1 norm a parameter.
Shapes   any.   Units  those of the gradient.
Place    first, before the moments whose decay it is told; before Lion it is MARS-Lion.
Fields   gamma: strength of the correction, >= 0; mars_beta (b): decay of the momentum behind it, in [0, 1); mars_clip (limit):
         largest norm of a parameter's corrected gradient, > 0.
Raises   ChainError if a field is out of range.
Source   Yuan et al., MARS, arXiv 2411.10438, the approximate form, in which g_before is not computed anew on this batch.
Differs  the paper starts from x_1 = x_0, so that its first c is g, as in timm; the authors' code starts from g_before = 0, as
         here. It keeps a reference to the gradient, which then equals g wherever gradients are accumulated in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class MARSState(NamedTuple):
    previous: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class MARS(Transform[MARSState]):
    """Scaled correction of the gradient by its change."""

    State = MARSState

    gamma: Annotated[float, "[0, inf)"] = 0.025
    mars_beta: Annotated[float, "[0, 1)"] = 0.95
    mars_clip: Annotated[float, "(0, inf]"] = 1.0

    @override
    def init(self, param: Tensor) -> MARSState:
        return MARSState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: MARSState, ctx: Context) -> tuple[Carry, MARSState]:
        g, b = carry.update, self.mars_beta
        c = g + self.gamma * b / (1 - b) * (g - state.previous)
        return carry._replace(update=c / (ctx.layout.norm(c) / self.mars_clip).clamp(min=1)), MARSState(g)
