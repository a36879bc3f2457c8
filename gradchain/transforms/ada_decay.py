"""Adaptive weight decay: what has a large gradient for its company decays up to twice as fast, what has a small one hardly.

    z = (|g| - mean) / deviation;   update <- update + wd 2 / (1 + exp(-alpha z)) param
    AdaDecay        g of each element; mean and deviation of |g| over the parameter
    GroupAdaDecay   the mean of |g| over the parameter for |g|; mean and deviation of |g| over the parameter group

Reads    update, grad, param.   Writes  update.   State  none.   Cost  3 reads, 1 write, 2 sums a parameter.
Shapes   any; where all |g| are equal, z = 0 and this is WeightDecay.   Units  wd is per unit of learning rate.
Place    after the normalizing link, before LearningRate (and before masks and row scales, which then scale the decay too).
Fields   weight_decay (wd): >= 0; decay_slope (alpha): >= 0, 0 is WeightDecay; ada_decay_steps: step of a parameter from which
         GroupAdaDecay leaves it alone, >= 1, None for never; it stays in the group's mean and deviation.
Raises   ChainError if a field is out of range.
Source   Nakamura and Hong, Adaptive Weight Decay for Deep Neural Networks, arXiv 1907.08931; GroupAdaDecay: Automagic CameAMP
         (hinablue/sd-scripts), last version.
Differs  where all |g| are equal the sources divide 0, or what rounding makes of it, by the like. Here z is 0 where the
         deviation is at most 32 eps times the mean; in the group, whose variance is a difference of squares, where that
         is at most 32 eps times the square of the mean; eps is that of the dtype in which links compute. CameAMP decays in the
         first half of its warm-up only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._rounding import SLACK
from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class _Decay(Transform):
    reads = frozenset({"update", "grad", "param"})
    traits = frozenset({"decays"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 5e-4
    decay_slope: Annotated[float, "[0, inf)"] = 4.0

    def decayed(self, carry: Carry, size: Tensor, mean: Tensor, deviation: Tensor) -> Carry:
        varied = deviation > SLACK * torch.finfo(carry.param.dtype).eps * mean
        z = torch.where(varied, size - mean, 0) / torch.where(varied, deviation, 1)
        strength = self.weight_decay * 2 * torch.sigmoid(self.decay_slope * z)
        return carry._replace(update=carry.update + strength.to(carry.param.dtype) * carry.param)


@dataclass(frozen=True, kw_only=True, repr=False)
class AdaDecay(_Decay):
    """Weight decay by the size of each gradient element within its parameter."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        size = carry.grad.abs()
        mean = ctx.layout.mean(size)
        return self.decayed(carry, size, mean, ctx.layout.mean((size - mean).square()).sqrt()), state


@dataclass(frozen=True, kw_only=True, repr=False)
class GroupAdaDecay(_Decay, SharedTransform):
    """Weight decay by the mean size of a parameter's gradient within the parameter group."""

    ada_decay_steps: Annotated[int, "[1, inf)"] | None = None

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        size, layout = carry.grad.abs(), ctx.layout
        total = layout.sum(size)
        return torch.stack((total, layout.dot(size, size), torch.full_like(total, math.prod(layout.shape(size)))))

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        totals: dict[int, Tensor] = {}
        for one, info in zip(measured, infos, strict=True):
            value, group = one.to(measured[0].device, torch.float64), id(info.group)
            totals[group] = totals[group] + value if group in totals else value
        shared: list[Tensor] = []
        for one, info in zip(measured, infos, strict=True):
            total, square, count = totals[id(info.group)]
            mean = total / count.clamp(min=1)
            variance = square / count.clamp(min=1) - mean * mean
            varied = variance > SLACK * torch.finfo(one.dtype).eps * mean * mean
            deviation = torch.where(varied, variance, 0).sqrt()
            shared.append(torch.stack((mean, deviation)).to(one.device))
        return shared

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        mean, deviation = ctx.shared
        decayed = self.decayed(carry, ctx.layout.mean(carry.grad.abs()), mean, deviation)
        if self.ada_decay_steps is None:
            return decayed, state
        early = (ctx.step < self.ada_decay_steps).to(carry.update.device)
        return carry._replace(update=torch.where(early, decayed.update, carry.update)), state
