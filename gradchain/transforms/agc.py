"""Adaptive gradient clipping: each output unit's gradient is limited to a share of the unit's own weights.

    g_row <- g_row min(1, clipping max(|w_row|, eps) / |g_row|)          rows: along the first dimension

Reads    update, param.   Writes  update.   State  none.   Cost  3 reads, 1 write, 2 sums a row.
Shapes   any; one dimension and none are a single row.   Units  clipping is a pure number.
Place    first, on gradients. The last layer is better left out.
Fields   clipping: > 0; agc_eps (eps): what the norm of a row counts at least, >= 0.
Raises   ChainError if a field is out of range.
Source   Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, arXiv 2102.06171, equation 3.
Differs  the authors' JAX layouts have output units last; their code floors |g_row| at 1e-6, which changes nothing unless
         clipping times the weights is smaller still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class AGC(Transform):
    """Limit on each row's gradient by the row's weights."""

    reads = frozenset({"update", "param"})
    off = {"clipping": torch.inf}

    clipping: Annotated[float, "(0, inf]"] = 0.01
    agc_eps: Annotated[float, "[0, inf)"] = 1e-3

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, w = carry.update, carry.param

        def row_norm(x: Tensor) -> Tensor:
            if len(ctx.layout.shape(x)) < 2:
                return ctx.layout.norm(x)
            return ctx.layout.sum(x.flatten(1).square(), 1).sqrt().reshape(-1, *[1] * (x.dim() - 1))

        limit, length = self.clipping * row_norm(w).clamp(min=self.agc_eps), row_norm(g)
        return carry._replace(update=g * torch.where(length > limit, limit / length, 1)), state
