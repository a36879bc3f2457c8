"""Spatial awareness as published: a learning rate mask moves faster in rows whose gradient has varied more.

    bump_scale <- bump_scale clip(d q, 0.5, 1.5);   then   q <- y q + (1 - y) var(processed, last axis)

Reads    processed (the gradient), bump_scale.   Writes  bump_scale.
State    variance (q): like the parameter, with a last axis of 1; starts at 1.   Cost  2 reads, 1 variance a row.
Shapes   any; in one dimension q stays 1; a last axis of one entry counts as variance 1.
Units    q: the square of the gradient's; the factor is a pure number.
Place    before the learning rate mask, after Signal.
Fields   detail_preservation (d): >= 0; variance_decay (y): in [0, 1).
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP Improved (hinablue/sd-scripts).
Differs  nothing known. With gradients of usual size q decays to 0, the factor to 0.5; SpatialAwareness is the scale-free form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class PublishedSpatialAwarenessState(NamedTuple):
    variance: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedSpatialAwareness(Transform[PublishedSpatialAwarenessState]):
    """Bumps of a learning rate mask by the gradient's variance along rows, by absolute size."""

    State = PublishedSpatialAwarenessState
    reads = frozenset({"processed", "bump_scale"})
    writes = frozenset({"bump_scale"})

    detail_preservation: Annotated[float, "[0, inf)"] = 0.8
    variance_decay: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> PublishedSpatialAwarenessState:
        return PublishedSpatialAwarenessState(torch.ones_like(param[..., :1]))

    @override
    def update(
        self, carry: Carry, state: PublishedSpatialAwarenessState, ctx: Context
    ) -> tuple[Carry, PublishedSpatialAwarenessState]:
        g, q, y = carry.signal, state.variance, self.variance_decay
        carry = carry._replace(bump_scale=carry.bump_scale * self._factor(q).expand_as(g))
        if g.dim() < 2:
            return carry, state
        n = ctx.layout.shape(g)[-1]
        squares = ctx.layout.sum((g - ctx.layout.mean(g, dim=-1)) ** 2, dim=-1)
        variance = squares / (n - 1) if n > 1 else torch.ones_like(q)
        return carry, PublishedSpatialAwarenessState(y * q + (1 - y) * variance)

    @override
    def figures(self, state: PublishedSpatialAwarenessState) -> Mapping[str, Tensor]:
        return {"mean factor": self._factor(state.variance).mean(), "mean variance": state.variance.mean()}

    def _factor(self, q: Tensor) -> Tensor:
        return (self.detail_preservation * q).clamp(0.5, 1.5)
