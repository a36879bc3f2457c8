"""Alignment damping: an update at too wide an angle to the gradient is shortened as a whole.

    update <- f update   where cos(update, processed) < threshold, and neither is zero

Reads    update, processed (the gradient).   Writes  update.   State  factor: 0-d, what the last update was multiplied by.
Cost     3 reads, 1 write, 3 sums a parameter.
Shapes   any; empty passes through.   Units  those of update (a rescaling).
Place    after the direction is formed, before WeightDecay and LearningRate.
Fields   alignment_threshold: a cosine, in [-1, 1]; alignment_factor (f): in [0, 1].
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts), which calls it cautious.
Differs  nothing known; threshold and factor cannot be set there. The paper's Cautious is a mask of elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._cosine import cosine
from gradchain.types import Carry, Context, Transform


class AlignmentDampingState(NamedTuple):
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class AlignmentDamping(Transform[AlignmentDampingState]):
    """Shorter updates where they hardly point along the gradient."""

    State = AlignmentDampingState
    reads = frozenset({"update", "processed"})
    traits = frozenset({"aligns"})
    off = {"alignment_factor": 1.0}

    alignment_threshold: Annotated[float, "[-1, 1]"] = 0.1
    alignment_factor: Annotated[float, "[0, 1]"] = 0.5

    @override
    def init(self, param: Tensor) -> AlignmentDampingState:
        return AlignmentDampingState(param.new_ones(()))

    @override
    def figures(self, state: AlignmentDampingState) -> Mapping[str, Tensor]:
        return {"factor": state.factor}

    @override
    def update(self, carry: Carry, state: AlignmentDampingState, ctx: Context) -> tuple[Carry, AlignmentDampingState]:
        u, g, layout = carry.update, carry.signal, ctx.layout
        wide = cosine(u, g, layout) < self.alignment_threshold
        known = (layout.norm(u) > 0) & (layout.norm(g) > 0)
        one = u.new_ones(())
        factor = torch.where(wide & known, self.alignment_factor * one, one).to(u.dtype)
        return carry._replace(update=u * factor), AlignmentDampingState(factor)
