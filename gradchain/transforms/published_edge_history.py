"""Damping of elements where the update has long had edges, with an absolute threshold.

    E = |L u| where |L u| > threshold, else 0;   h <- y h + (1 - y) E;   update <- u clip(1 - p h, 0.1, 1)

L is the second difference along the last axis plus along the one before it, without the border rows and columns.

Reads    update.   Writes  update.   State  history (h): like the parameter.   Cost  9 reads, 2 writes.
Shapes   any; h stays 0 unless both of the last two axes have at least 3 entries.
Units    those of update (a rescaling); edge_history_threshold is in units of update.
Place    after the direction is formed (after Grams), before LearningRate.
Fields   edge_history_penalty (p): >= 0; edge_history_threshold: >= 0; edge_history_decay (y): of the history, in [0, 1);
         edge_history_matrices_only: tensors of more than two dimensions are left alone.
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP Improved (hinablue/sd-scripts).
Differs  nothing known. What an edge is depends on the scale of the update; EdgeSuppression is the scale-free form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._edges import edges, has_inside
from gradchain.types import Carry, Context, Transform


class PublishedEdgeHistoryState(NamedTuple):
    history: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedEdgeHistory(Transform[PublishedEdgeHistoryState]):
    """Damping at lasting edges of the update, by absolute size."""

    State = PublishedEdgeHistoryState

    edge_history_penalty: Annotated[float, "[0, inf)"] = 0.1
    edge_history_threshold: Annotated[float, "[0, inf)"] = 0.6
    edge_history_decay: Annotated[float, "[0, 1)"] = 0.9
    edge_history_matrices_only: bool = False

    @override
    def init(self, param: Tensor) -> PublishedEdgeHistoryState:
        return PublishedEdgeHistoryState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: PublishedEdgeHistoryState, ctx: Context) -> tuple[Carry, PublishedEdgeHistoryState]:
        u, y = carry.update, self.edge_history_decay
        if not has_inside(u, ctx.layout, self.edge_history_matrices_only):
            return carry, state
        h = y * state.history + (1 - y) * edges(u, ctx.layout, self.edge_history_threshold)
        return carry._replace(update=u * self._factor(h)), PublishedEdgeHistoryState(h)

    @override
    def figures(self, state: PublishedEdgeHistoryState) -> Mapping[str, Tensor]:
        factor = self._factor(state.history)
        return {"mean factor": factor.mean(), "share damped": (factor < 1).to(factor.dtype).mean()}

    def _factor(self, h: Tensor) -> Tensor:
        return (1 - self.edge_history_penalty * h).clamp(0.1, 1)
