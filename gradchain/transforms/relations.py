"""Relations between matrices: each has its step scaled by how well it fits its best partner, and by how large their product is.

At the first step and every N steps after it, for all matrices of all groups with a side in common,

    c = 0.7 (number of equal sides, of four) / 4 + 0.3 |correlation of the elements|;  the partner has the largest c > threshold
    f = (1 + 0.2 c) / (1 + 0.1 |X|),   X = A B, B A, A B' or A' B, the first that the shapes admit;   f = 1 without a partner

    scale <- scale f                                                                               at every step

Reads    param, scale.   Writes  scale.   State  partner (its place among the parameters, -1 for none), compatibility, factor:
         0-d.
Cost     none, but every N steps, of n matrices: a copy of all, a read of n for each, a product for each.
Shapes   matrices; all others pass through. Of two sizes, the correlation is that of as many elements as the smaller has.
         Units  a pure number, though |X| depends on the weights' units and sizes.
Place    before ApplyScale, with a ClipScale behind it.
Fields   compatibility_threshold: in [0, 1]; relationship_discovery_interval (N): >= 1.
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts) and its documents, which liken it to the pairs of LoRA.
Differs  the shipped program finds no relation at all. Before that was so, not the best but the last partner in the list was
         taken, of the same group only and for the earlier parameter of the two only, and never let go (LastPartnerRelations).
         There the factor follows the weights at every step; here it stands from one discovery to the next. The rule is the
         program's: two matrices of equal shape have c >= 0.35, whatever they hold, and a LoRA pair has c = 0.175 + 0.3
         |correlation|.
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
    seen,
)
from gradchain.types import Carry, Context, ParamInfo, SharedTransform


@dataclass(frozen=True, kw_only=True, repr=False)
class Relations(SharedTransform[RelationState]):
    """Factor per matrix, by the partner that fits it best."""

    State = RelationState
    reads = frozenset({"param", "scale"})
    writes = frozenset({"scale"})

    compatibility_threshold: Annotated[float, "[0, 1]"] = 0.3
    relationship_discovery_interval: Annotated[int, "[1, inf)"] = 100

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return 1, self.relationship_discovery_interval

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
        return meetings(measured, infos)

    @override
    def refresh(self, carry: Carry, state: RelationState, ctx: Context) -> RelationState:
        meeting: Meeting = ctx.shared
        own, nobody = meeting.own, fresh(carry.param)
        best, partner, size = nobody.compatibility, nobody.partner, nobody.compatibility
        for peers in fitting(meeting):
            c = torch.where(peers.places == meeting.place, -1, compatibility(own, peers))
            value, row = c.max(0)
            chosen = row.reshape(1)
            better = value > best
            best = torch.where(better, value, best)
            partner = torch.where(better, peers.places.index_select(0, chosen)[0], partner)
            size = torch.where(better, product_norm(own, peers.matrices.index_select(0, chosen)[0]), size)
        found = best > self.compatibility_threshold
        known = RelationState(partner, best, factor(best, size))
        return RelationState(*(torch.where(found, new, old) for new, old in zip(known, nobody, strict=True)))

    @override
    def update(self, carry: Carry, state: RelationState, ctx: Context) -> tuple[Carry, RelationState]:
        return carry._replace(scale=carry.scale * state.factor), state
