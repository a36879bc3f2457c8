"""Background regularization: parameters whose gradient hardly varies, compared with their group's, move less far.

    S <- y S + (1 - y) mean over the group of processed^2
    update <- f update      where var(processed) < threshold S / (1 - y^t), else update;   t: means in S

S is a number of the group: a parameter that joins late goes by that of the others.

Reads    update, processed (the gradient).   Writes  update.
State    seen (t), scale (S): 0-d, common to the group; factor: 0-d.
Cost     3 reads, 1 write, 3 means a parameter.
Shapes   any; one-element parameters, which have no variance, and empty ones pass through.
Units    those of update (a rescaling); background_threshold is a pure number.
Place    after Cautious, before LearningRate.
Fields   background_threshold: >= 0; background_factor (f): in [0, 1]; background_decay (y): in [0, 1).
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means.
Differs  there the threshold is absolute, so that with gradients of usual size every parameter counts as background; that form
         is PublishedBackgroundRegularization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, ParamInfo, SharedTransform


class BackgroundRegularizationState(NamedTuple):
    seen: Tensor
    scale: Tensor
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class BackgroundRegularization(SharedTransform[BackgroundRegularizationState]):
    """Smaller steps where the gradient is small and even, beside the rest of the group."""

    State = BackgroundRegularizationState
    reads = frozenset({"update", "processed"})
    common = ("seen", "scale")
    common_to = "group"
    off = {"background_factor": 1.0}

    background_threshold: Annotated[float, "[0, inf)"] = 1e-6
    background_factor: Annotated[float, "[0, 1]"] = 0.5
    background_decay: Annotated[float, "[0, 1)"] = 0.99

    @override
    def init(self, param: Tensor) -> BackgroundRegularizationState:
        seen = torch.zeros((), dtype=torch.int64, device=param.device)
        return BackgroundRegularizationState(seen, param.new_zeros(()), param.new_ones(()))

    @override
    def measure(self, carry: Carry, state: BackgroundRegularizationState, ctx: Context) -> Tensor:
        return ctx.layout.mean(carry.signal**2)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        squares: dict[int, list[Tensor]] = {}
        counts: dict[int, int] = {}
        for one, info in zip(measured, infos, strict=True):
            n, group = info.param.numel(), id(info.group)
            squares.setdefault(group, []).append(n * one.to(measured[0].device, torch.float64))
            counts[group] = counts.get(group, 0) + n
        means = {group: torch.stack(sums).sum() / max(1, counts[group]) for group, sums in squares.items()}
        return [means[id(info.group)].to(one.device) for one, info in zip(measured, infos, strict=True)]

    @override
    def update(
        self, carry: Carry, state: BackgroundRegularizationState, ctx: Context
    ) -> tuple[Carry, BackgroundRegularizationState]:
        g, layout, y = carry.signal, ctx.layout, self.background_decay
        scale = (y * state.scale + (1 - y) * ctx.shared).to(g.dtype)
        elements = math.prod(layout.shape(g))
        variance = layout.sum((g - layout.mean(g)) ** 2) / max(1, elements - 1)
        seen = state.seen + 1
        even = variance < self.background_threshold * scale / (1 - y**seen)
        factor = torch.where(even, self.background_factor, 1) if elements > 1 else torch.ones_like(scale)
        factor = factor.to(g.dtype)
        return carry._replace(update=carry.update * factor), BackgroundRegularizationState(seen, scale, factor)

    @override
    def figures(self, state: BackgroundRegularizationState) -> Mapping[str, Tensor]:
        return {"factor": state.factor}
