"""Edge damping: elements of a matrix are divided by how much they stand out from their neighbours.

    E = |L g| where |L g| > threshold, else 0;   update <- g / (1 + p E)

L is the second difference along rows plus along columns, without the border rows and columns.

Reads    update.   Writes  update.   State  none.   Cost  7 reads, 1 write.
Shapes   matrices with at least 3 rows and columns; everything else passes through.
Units    those of the gradient; edge_threshold is in units of the gradient, p in their inverse.
Place    first, before the moments.
Fields   edge_penalty (p): >= 0; edge_threshold: >= 0.
Raises   ChainError if a field is out of range.
Source   HinaAdaptive (hinablue/sd-scripts), its edge suppression.
Differs  the original takes border rows, and tensors of other ranks, from memory that it has not filled. EdgeSuppression is
         scale-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.transforms._edges import edges, has_inside
from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class EdgeDamping(Transform):
    """Division by the second difference, by absolute size."""

    off = {"edge_penalty": 0.0}

    edge_penalty: Annotated[float, "[0, inf)"] = 0.1
    edge_threshold: Annotated[float, "[0, inf)"] = 0.6

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        if not has_inside(g, ctx.layout, matrices_only=True):
            return carry, state
        return carry._replace(update=g / (1 + self.edge_penalty * edges(g, ctx.layout, self.edge_threshold))), state
