"""Low-rank emphasis: the part of the update in its own leading singular directions is enlarged.

    update <- u + (e - 1) u Q Q';   every K steps:  Q <- qr(u' u Q)

Q, of k orthonormal columns, follows the leading right singular vectors of what stands at this place of the chain.

Reads    update.   Writes  update.
State    basis (Q): columns of the matrix times k; leading: 0-d, the share of |u|^2 that the last step enlarged.
Cost     3 reads, 2 writes, 4 n k operations; a QR decomposition of k columns every K steps.
Shapes   matrices with more than k rows and columns; everything else passes through.   Units  those of update.
Place    after the momentum, whose directions last; on raw gradients Q finds those of the last renewal.
Fields   low_rank_emphasis (e): 1 changes nothing, >= 0; low_rank_emphasis_rank (k): >= 1; low_rank_emphasis_interval (K): >= 1.
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means.
Differs  there every matrix is multiplied by e in whole; no direction is singled out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._subspace import first_basis, follow, has_tail, leading
from gradchain.types import Carry, Context, Transform


class LowRankEmphasisState(NamedTuple):
    basis: Tensor
    leading: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class LowRankEmphasis(Transform[LowRankEmphasisState]):
    """Enlargement of a matrix's update in its leading singular directions."""

    State = LowRankEmphasisState
    off = {"low_rank_emphasis": 1.0}

    low_rank_emphasis: Annotated[float, "[0, inf)"] = 1.2
    low_rank_emphasis_rank: Annotated[int, "[1, inf)"] = 10
    low_rank_emphasis_interval: Annotated[int, "[1, inf)"] = 16

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], self.low_rank_emphasis_interval

    @override
    def init(self, param: Tensor) -> LowRankEmphasisState:
        return LowRankEmphasisState(first_basis(param, self.low_rank_emphasis_rank), param.new_zeros(()))

    @override
    def refresh(self, carry: Carry, state: LowRankEmphasisState, ctx: Context) -> LowRankEmphasisState:
        if not has_tail(carry.update, state.basis, ctx.layout):
            return state
        return state._replace(basis=follow(carry.update, state.basis, ctx.layout))

    @override
    def update(self, carry: Carry, state: LowRankEmphasisState, ctx: Context) -> tuple[Carry, LowRankEmphasisState]:
        u, layout = carry.update, ctx.layout
        if not has_tail(u, state.basis, layout):
            return carry, state
        first = leading(u, state.basis, layout)
        whole = layout.dot(u, u)
        share = layout.dot(first, first) / torch.where(whole > 0, whole, 1)
        return carry._replace(update=u + (self.low_rank_emphasis - 1) * first), state._replace(leading=share)

    @override
    def figures(self, state: LowRankEmphasisState) -> Mapping[str, Tensor]:
        return {"share emphasized": state.leading}
