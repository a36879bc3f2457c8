"""L2 regularization of matrices: their penalty's gradient joins the loss's; other tensors are left alone.

    update <- update + s param      where both extents are at least rank_penalty_min_extent

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   matrices; everything else passes through.   Units  those of the gradient.
Place    first, before the moments; after FrequencyPenalty, which must not see the penalty.
Fields   rank_penalty_strength (s): >= 0; rank_penalty_min_extent: smallest extent of a matrix that is penalized, >= 1.
Raises   ChainError if a field is out of range.
Source   the "low-rank regularization" of Automagic CameAMP (hinablue/sd-scripts): Improved with min_extent 1, its refactored
         version with 11. It takes w = U S V' apart and adds U (s S) V', which is s w.
Differs  the source pays for a singular value decomposition a step. RankPenalty penalizes the tail of the spectrum alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class MatrixL2(Transform):
    """Coupled weight decay of matrices."""

    reads = frozenset({"update", "param"})
    off = {"rank_penalty_strength": 0.0}

    rank_penalty_strength: Annotated[float, "[0, inf)"] = 0.01
    rank_penalty_min_extent: Annotated[int, "[1, inf)"] = 1

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        shape = ctx.layout.shape(carry.update)
        if len(shape) != 2 or min(shape) < self.rank_penalty_min_extent:
            return carry, state
        return carry._replace(update=carry.update + self.rank_penalty_strength * carry.param), state
