"""L2 regularization of matrices, as strong as the matrix is large in its leading directions.

    update <- g + s (the sum of the squares of the 10 largest singular values of w) w

Reads    update, param.   Writes  update.   State  none.
Cost     2 reads, 1 write, 1 sum; eigenvalues of a matrix of the smaller extent, where that is above 10.
Shapes   matrices; everything else passes through.   Units  those of the gradient; s is per square of the parameter's units.
Place    first, before the moments.
Fields   rank_penalty_strength (s): >= 0.
Raises   ChainError if rank_penalty_strength is negative.
Source   HinaAdaptive (hinablue/sd-scripts), its LoRA rank penalty.
Differs  nothing known. Up to 10 rows or columns the sum is |w|^2, and no rank is penalized; RankPenalty penalizes the tail. As
         published it grows with the cube of w: float32 parameters beyond 1e12 overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform

LEADING = 10


def _leading_squares(w: Tensor) -> Tensor:
    gram = w @ w.mT if w.shape[0] <= w.shape[1] else w.mT @ w
    usable = gram.isfinite().all()  # the decomposition refuses anything else
    values = torch.linalg.eigvalsh(torch.where(usable, gram, 0))
    return torch.where(usable, values[-LEADING:].sum(), torch.nan)


@dataclass(frozen=True, kw_only=True, repr=False)
class TopEigenvalueL2(Transform):
    """Coupled decay of a matrix, scaled by its leading singular values."""

    reads = frozenset({"update", "param"})
    off = {"rank_penalty_strength": 0.0}

    rank_penalty_strength: Annotated[float, "[0, inf)"] = 0.01

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        w, layout = carry.param, ctx.layout
        shape = layout.shape(w)
        if len(shape) != 2:
            return carry, state
        squares = layout.dot(w, w) if min(shape) <= LEADING else layout.on_whole(_leading_squares, w, like=0)
        return carry._replace(update=carry.update + self.rank_penalty_strength * squares * w), state
