"""A smallest value for the second moment, the floor that the published LAdam puts under its smoothed variance.

    second_moment <- max(second_moment, floor)      for parameters of at least floor_min_size elements

Reads    second_moment.   Writes  second_moment.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  the gradient's, squared.
Place    between the link that writes or smooths second_moment and Normalize.
Fields   floor: >= 0; floor_min_size: smaller parameters are left alone, >= 0.
Raises   ChainError if a field is negative.
Source   ladam 0.2.0 to 0.4.1 (PyPI), optimizer.py: clamp(min=eps).
Differs  there the floor comes with the Laplacian and cannot be had without it. It under-steps every coordinate whose
         gradient is below sqrt(floor), up to 100-fold at 1e-8, so our ladam() leaves it out unless published=True.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class VarianceFloor(Transform):
    """Lower bound on the second moment."""

    reads = frozenset({"second_moment"})
    writes = frozenset({"second_moment"})
    off = {"floor": 0.0}

    floor: Annotated[float, "[0, inf)"] = 1e-8
    floor_min_size: Annotated[int, "[0, inf)"] = 0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        if math.prod(ctx.layout.shape(carry.second_moment)) < self.floor_min_size:
            return carry, state
        return carry._replace(second_moment=carry.second_moment.clamp(min=self.floor)), state
