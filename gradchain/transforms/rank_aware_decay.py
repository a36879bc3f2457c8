"""Rank-aware weight decay: what a matrix holds beyond its leading singular directions decays faster than the rest.

    update <- u + wd (w + x (w - w Q Q'));   every K steps:  Q <- qr(w' w Q)

Reads    update, param.   Writes  update.
State    basis (Q): columns of w times k; tail: 0-d, the share of |w|^2 that decayed faster at the last step.
Cost     3 reads, 2 writes, 4 n k operations; a QR decomposition of k columns every K steps.
Shapes   matrices with more than k rows and columns; everything else decays by wd alone.
Units    wd is per unit of learning rate.
Place    in WeightDecay's stead: after the normalizing link, before LearningRate.
Fields   weight_decay (wd): >= 0; rank_decay_excess (x): >= 0, or None for the mean of exp(-0.1 i) over i below the smaller
         extent; rank_decay_rank (k): >= 1; rank_decay_interval (K): >= 1.
Raises   ChainError if a field is out of range.
Source   what the comments of Automagic CameAMP (hinablue/sd-scripts) say: less decay for low-rank
         components, more for the rest.
Differs  there one number made from the shape multiplies the decay of the whole matrix; x = None is that number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._subspace import first_basis, follow, has_tail, leading, mean_rank_decay
from gradchain.types import Carry, Context, Transform


class RankAwareDecayState(NamedTuple):
    basis: Tensor
    tail: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class RankAwareDecay(Transform[RankAwareDecayState]):
    """Decoupled weight decay, stronger outside the leading singular directions."""

    State = RankAwareDecayState
    reads = frozenset({"update", "param"})
    traits = frozenset({"decays"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0
    rank_decay_excess: Annotated[float, "[0, inf)"] | None = None
    rank_decay_rank: Annotated[int, "[1, inf)"] = 10
    rank_decay_interval: Annotated[int, "[1, inf)"] = 16

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], self.rank_decay_interval

    @override
    def init(self, param: Tensor) -> RankAwareDecayState:
        return RankAwareDecayState(first_basis(param, self.rank_decay_rank), param.new_zeros(()))

    @override
    def refresh(self, carry: Carry, state: RankAwareDecayState, ctx: Context) -> RankAwareDecayState:
        if not has_tail(carry.param, state.basis, ctx.layout):
            return state
        return state._replace(basis=follow(carry.param, state.basis, ctx.layout))

    @override
    def update(self, carry: Carry, state: RankAwareDecayState, ctx: Context) -> tuple[Carry, RankAwareDecayState]:
        w, layout, wd = carry.param, ctx.layout, self.weight_decay
        if not has_tail(w, state.basis, layout):
            return carry._replace(update=carry.update + wd * w), state
        rest, whole = w - leading(w, state.basis, layout), layout.dot(w, w)
        tail = layout.dot(rest, rest) / torch.where(whole > 0, whole, 1)
        x = mean_rank_decay(layout.shape(w)) if self.rank_decay_excess is None else self.rank_decay_excess
        return carry._replace(update=carry.update + wd * (w + x * rest)), state._replace(tail=tail)

    @override
    def figures(self, state: RankAwareDecayState) -> Mapping[str, Tensor]:
        return {"share decaying faster": state.tail}
