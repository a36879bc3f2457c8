"""Edge suppression: elements where the update has long had edges, relative to its own size, are damped.

    x = u / rms(u);   E = |L x| where |L x| > threshold, else 0
    h <- y h + (1 - y) E;   update <- u clip(1 - p h, 0.1, 1)

L is the second difference along the last axis plus along the one before it, each without its two ends.

Reads    update.   Writes  update.   State  history (h): like the parameter.   Cost  10 reads, 2 writes, 1 norm a parameter.
Shapes   any; one dimension passes through, and so does whatever has less than 3 entries along both of its last two axes.
Units    those of update (a rescaling); penalty and threshold are pure numbers.
Place    after the direction is formed, before LearningRate; before Signal it damps the gradient itself.
Fields   edge_penalty (p): >= 0; edge_threshold: in root mean squares of the update, >= 0; edge_decay (y): in [0, 1).
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means.
Differs  there the threshold is absolute, so that it never acts on gradients and always on normalized updates; that form is
         PublishedEdgeHistory. For a purely random x, |L x| is about 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._edges import edges
from gradchain.types import Carry, Context, Transform


class EdgeSuppressionState(NamedTuple):
    history: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class EdgeSuppression(Transform[EdgeSuppressionState]):
    """Damping at lasting edges of the update."""

    State = EdgeSuppressionState
    off = {"edge_penalty": 0.0}

    edge_penalty: Annotated[float, "[0, inf)"] = 0.1
    edge_threshold: Annotated[float, "[0, inf)"] = 0.6
    edge_decay: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> EdgeSuppressionState:
        return EdgeSuppressionState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: EdgeSuppressionState, ctx: Context) -> tuple[Carry, EdgeSuppressionState]:
        u, y, shape = carry.update, self.edge_decay, ctx.layout.shape(carry.update)
        if len(shape) < 2 or math.prod(shape) == 0:
            return carry, state
        rms = ctx.layout.norm(u) / math.prod(shape) ** 0.5
        x = u / torch.where(rms > 0, rms, 1)
        h = y * state.history + (1 - y) * edges(x, ctx.layout, self.edge_threshold)
        return carry._replace(update=u * self._factor(h)), EdgeSuppressionState(h)

    @override
    def figures(self, state: EdgeSuppressionState) -> Mapping[str, Tensor]:
        factor = self._factor(state.history)
        return {"mean factor": factor.mean(), "share damped": (factor < 1).to(factor.dtype).mean()}

    def _factor(self, h: Tensor) -> Tensor:
        return (1 - self.edge_penalty * h).clamp(0.1, 1)
