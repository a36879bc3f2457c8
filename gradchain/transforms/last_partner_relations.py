"""Relations between the matrices of a group, by the last partner that fits.

Every N steps of the optimizer, from step N on, each matrix, with and without a gradient, looks among the later ones of its
group with a side in common:

    c = 0.7 (number of equal sides, of four) / 4 + 0.3 |correlation of the elements|
    the last one with c > threshold is the partner from now on; without one, the partner stays who it was

    scale <- scale (1 + 0.2 c) / (1 + 0.1 |X|)                              at every step, with X of the weights before the step

X = A B, B A, A B' or A' B, the first that the shapes admit; c is of the day the partner was found.

Reads    param, scale.   Writes  scale.   State  partner (its place among the parameters, -1 for none), compatibility, factor:
         0-d.
Cost     a copy of all matrices, and for each a product with one of each shape that fits; every N steps also a read of all
         others.
Shapes   matrices; all others pass through.   Units  a pure number, though |X| depends on the weights' units and sizes.
Place    before ApplyScale, with a ClipScale behind it.
Fields   compatibility_threshold: in [0, 1]; relationship_discovery_interval (N): >= 1.
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts) up to revision c8493e2, and later ones with their discovery repaired.
Differs  in later revisions a misplaced block keeps discovery from ever finding anything. There relations are not saved, and
         frozen matrices look for partners too. Relations is the form with the best partner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._relations import (
    Meeting,
    RelationState,
    compatibility,
    factor,
    findings,
    fitting,
    fresh,
    meetings,
    product_norm,
    resting,
    seen,
    values,
)
from gradchain.types import Carry, Context, ParamInfo, SharedTransform


@dataclass(frozen=True, kw_only=True, repr=False)
class LastPartnerRelations(SharedTransform[RelationState]):
    """Factor per matrix, by the last partner that fits it."""

    State = RelationState
    reads = frozenset({"param", "scale"})
    writes = frozenset({"scale"})
    traits = frozenset({"optimizer_step"})
    refreshes_by = "optimizer_step"
    every_step = True

    compatibility_threshold: Annotated[float, "[0, 1]"] = 0.3
    relationship_discovery_interval: Annotated[int, "[1, inf)"] = 100

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.relationship_discovery_interval, self.relationship_discovery_interval

    @override
    def init(self, param: Tensor) -> RelationState:
        return fresh(param)

    @override
    def figures(self, state: RelationState) -> Mapping[str, Tensor]:
        return {"compatibility": state.compatibility, "factor": state.factor}

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        return findings(self.label, infos)

    @override
    def measure(self, carry: Carry, state: RelationState, ctx: Context) -> Tensor:
        return seen(carry.param, ctx.layout)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Meeting]:
        groups: dict[int, list[int]] = {}
        for i, info in enumerate(infos):
            groups.setdefault(id(info.group), []).append(i)
        told: dict[int, Meeting] = {}
        for members in groups.values():
            here, rest = [infos[i] for i in members], resting([infos[i] for i in members])
            all_ = meetings(values([measured[i] for i in members], rest), [*here, *rest])
            told.update(zip(members, all_, strict=False))
        return [told[i] for i in range(len(infos))]

    @override
    def refresh(self, carry: Carry, state: RelationState, ctx: Context) -> RelationState:
        meeting: Meeting = ctx.shared
        last, fit = fresh(carry.param).partner, state.compatibility
        for peers in fitting(meeting):
            c = compatibility(meeting.own, peers)
            fits = (c > self.compatibility_threshold) & (peers.places > meeting.place)
            place, row = torch.where(fits, peers.places, -1).max(0)
            fit = torch.where(place > last, c.index_select(0, row.reshape(1))[0], fit)
            last = torch.maximum(place, last)
        return state._replace(partner=torch.where(last >= 0, last, state.partner), compatibility=fit)

    @override
    def update(self, carry: Carry, state: RelationState, ctx: Context) -> tuple[Carry, RelationState]:
        meeting: Meeting = ctx.shared
        worth = torch.ones_like(state.factor)
        for peers in fitting(meeting):
            here = peers.places == state.partner
            partner = peers.matrices.index_select(0, here.to(torch.int64).argmax().reshape(1))[0]
            worth = torch.where(here.any(), factor(state.compatibility, product_norm(meeting.own, partner)), worth)
        return carry._replace(scale=carry.scale * worth), state._replace(factor=worth)
