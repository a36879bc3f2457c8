"""Spatial awareness: a learning rate mask moves more slowly in rows whose gradient holds more detail than the others.

    bump_scale <- bump_scale clip(q^(-d), 0.5, 1.5)
    then   v = variance of processed within each row, over its mean;   q <- y q + (1 - y) v

Reads    processed (the gradient), bump_scale.   Writes  bump_scale.
State    detail (q): like the parameter, with a last axis of 1; starts at 1.   Cost  3 reads, 1 sum a row, 1 mean.
Shapes   any; one dimension, and a last axis of one entry, pass through.   Units  pure numbers; rows lie along the last axis.
Place    before the learning rate mask, after Signal.
Fields   detail_preservation (d): 0 changes nothing, >= 0; detail_decay (y): in [0, 1).
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means: detailed regions change less.
Differs  there the factor grows with the detail, and is measured by absolute size; that form is PublishedSpatialAwareness.
         Where no variance is known the factor is 1 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class SpatialAwarenessState(NamedTuple):
    detail: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class SpatialAwareness(Transform[SpatialAwarenessState]):
    """Bumps of a learning rate mask by the detail of the gradient along rows."""

    State = SpatialAwarenessState
    reads = frozenset({"processed", "bump_scale"})
    writes = frozenset({"bump_scale"})

    detail_preservation: Annotated[float, "[0, inf)"] = 0.8
    detail_decay: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> SpatialAwarenessState:
        return SpatialAwarenessState(torch.ones_like(param[..., :1]))

    @override
    def update(self, carry: Carry, state: SpatialAwarenessState, ctx: Context) -> tuple[Carry, SpatialAwarenessState]:
        g, q, layout, y = carry.signal, state.detail, ctx.layout, self.detail_decay
        shape = layout.shape(g)
        if len(shape) < 2 or shape[-1] < 2:
            return carry, state
        carry = carry._replace(bump_scale=carry.bump_scale * self._factor(q).expand_as(g))
        size = layout.mean(g.abs())  # squares of what is measured by it neither overflow nor vanish
        g = g / torch.where(size > 0, size, 1)
        squares = (g - layout.mean(g, dim=-1)) ** 2
        usual = layout.mean(squares)
        detail = torch.where(usual > 0, layout.mean(squares, dim=-1) / torch.where(usual > 0, usual, 1), 1)
        return carry, SpatialAwarenessState(y * q + (1 - y) * detail)

    @override
    def figures(self, state: SpatialAwarenessState) -> Mapping[str, Tensor]:
        factor = self._factor(state.detail)
        return {"smallest factor": factor.min(), "mean factor": factor.mean(), "largest factor": factor.max()}

    def _factor(self, q: Tensor) -> Tensor:
        return (q**-self.detail_preservation).clamp(0.5, 1.5)
