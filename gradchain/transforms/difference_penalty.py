"""Difference penalty: each element is lowered by how much it differs from its left and upper neighbour.

    update <- g - c (|g[i, j] - g[i, j-1]| + |g[i, j] - g[i-1, j]|)

Reads    update.   Writes  update.   State  none.   Cost  5 reads, 1 write.
Shapes   matrices with at least 2 rows and columns; everything else passes through.   Units  those of the gradient.
Place    first, after GroupAGR, before the moments.
Fields   frequency_penalty (c): >= 0.
Raises   ChainError if frequency_penalty is negative.
Source   the frequency penalty of Automagic CameAMP with dual momentum, and of HinaAdaptive (hinablue/sd-scripts).
Differs  nothing known. It is offered to replay runs of the originals: what is subtracted is never negative, so parameters drift
         upward. FrequencyPenalty is the filter meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.transforms._edges import steps_between_neighbours
from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class DifferencePenalty(Transform):
    """Subtraction of the absolute differences to the neighbours before."""

    off = {"frequency_penalty": 0.0}

    frequency_penalty: Annotated[float, "[0, inf)"] = 0.05

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, shape = carry.update, ctx.layout.shape(carry.update)
        if len(shape) != 2 or any(size < 2 for size in shape):
            return carry, state
        steps = ctx.layout.on_whole(steps_between_neighbours, g)
        return carry._replace(update=g - self.frequency_penalty * steps), state
