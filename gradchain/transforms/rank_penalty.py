"""Rank penalty: what a matrix holds beyond its leading singular directions is drawn to 0 through the gradient.

    update <- g + s (w - w Q Q'),  the gradient of s/2 times the sum of the squared singular values beyond the k-th
    every K steps:  Q <- qr(w' w Q)

Q, of k orthonormal columns, follows the leading right singular vectors: its error shrinks by (sigma_(k+1) / sigma_k)^2 at each
renewal. Whatever Q is, the penalty is s w outside a k-dimensional subspace, and 0 in it.

Reads    update, param.   Writes  update.
State    basis (Q): columns of w times k; tail: 0-d, the share of |w|^2 that the last step penalized.
Cost     3 reads, 2 writes, 4 n k operations; a QR decomposition of k columns every K steps.
Shapes   matrices with more than k rows and columns; everything else passes through.   Units  those of the gradient.
Place    first, before the moments, after FrequencyPenalty.
Fields   rank_penalty_strength (s): >= 0; rank_penalty_rank (k): >= 1; rank_penalty_interval (K): >= 1.
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means; orthogonal iteration is Golub and Van Loan's.
Differs  there a full singular value decomposition a step yields s w, plain coupled L2; that form is MatrixL2.
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


class RankPenaltyState(NamedTuple):
    basis: Tensor
    tail: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class RankPenalty(Transform[RankPenaltyState]):
    """Coupled decay of a matrix outside its leading singular directions."""

    State = RankPenaltyState
    reads = frozenset({"update", "param"})
    off = {"rank_penalty_strength": 0.0}

    rank_penalty_strength: Annotated[float, "[0, inf)"] = 0.01
    rank_penalty_rank: Annotated[int, "[1, inf)"] = 10
    rank_penalty_interval: Annotated[int, "[1, inf)"] = 16

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], self.rank_penalty_interval

    @override
    def init(self, param: Tensor) -> RankPenaltyState:
        return RankPenaltyState(first_basis(param, self.rank_penalty_rank), param.new_zeros(()))

    @override
    def refresh(self, carry: Carry, state: RankPenaltyState, ctx: Context) -> RankPenaltyState:
        if not has_tail(carry.param, state.basis, ctx.layout):
            return state
        return state._replace(basis=follow(carry.param, state.basis, ctx.layout))

    @override
    def update(self, carry: Carry, state: RankPenaltyState, ctx: Context) -> tuple[Carry, RankPenaltyState]:
        w, layout = carry.param, ctx.layout
        if not has_tail(w, state.basis, layout):
            return carry, state
        rest = w - leading(w, state.basis, layout)
        whole = layout.dot(w, w)
        tail = layout.dot(rest, rest) / torch.where(whole > 0, whole, 1)
        return carry._replace(update=carry.update + self.rank_penalty_strength * rest), state._replace(tail=tail)

    @override
    def figures(self, state: RankPenaltyState) -> Mapping[str, Tensor]:
        return {"share penalized": state.tail}
