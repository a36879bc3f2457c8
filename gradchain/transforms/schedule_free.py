"""Schedule-free learning: gradients are taken between a fast point and the average of its way; the average is the result.

    w = t^r c_max^p,   c = w / sum(w),   c_max the largest learning rate so far
    z <- z - u;   x <- (1 - c) x + c z;   y <- (1 - b) z + b x

y is the parameter while training. x is not stored: it is (y - (1 - b) z) / b, what ``optimizer.eval()`` puts in place of y.

Reads    update, param, gate.   Writes  update.   State  z: like the parameter; weight_sum (sum of w), lr_max (c_max): 0-d.
Cost     3 reads, 2 writes.
Shapes   any; elementwise.   Units  u and z: those of the parameter.
Place    last, behind LearningRate: it owns the write. What forms u should have no momentum of its own, since b takes its part;
         weight decay stands before LearningRate and decays y. A step behind a closed gate counts for nothing.
Fields   momentum (b): place of y between z and x, in (0, 1); r, weight_lr_power (p): powers of the weights, >= 0;
         warmup_steps: steps over which the step and its weight rise to full size, 0 for none.
Raises   ChainError if a field is out of range.
Source   Defazio et al., The Road Less Scheduled, arXiv 2405.15682, algorithm 1, as schedulefree 1.4.1 runs it.
Differs  that code keeps sum(w) and c_max by group, so that a parameter that joins late hardly enters its own average; here
         each averages its own way. That code counts steps of rate 0 into the average; here such a step changes nothing. Its
         optimizers fix what forms u; here any chain does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

ONCE = 2**62  # an interval longer than any run


class ScheduleFreeState(NamedTuple):
    z: Tensor
    weight_sum: Tensor
    lr_max: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class ScheduleFree(Transform[ScheduleFreeState]):
    """Interpolation and averaging in place of a schedule."""

    State = ScheduleFreeState
    reads = frozenset({"update", "param", "gate"})
    traits = frozenset({"owns", "averages"})

    momentum: Annotated[float, "(0, 1)"] = 0.9
    r: Annotated[float, "[0, inf)"] = 0.0
    weight_lr_power: Annotated[float, "[0, inf)"] = 2.0
    warmup_steps: Annotated[int, "[0, inf)"] = 0

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> ScheduleFreeState:
        return ScheduleFreeState(param.clone(), param.new_zeros(()), param.new_zeros(()))

    @override
    def refresh(self, carry: Carry, state: ScheduleFreeState, ctx: Context) -> ScheduleFreeState:
        return state._replace(z=carry.param.clone())

    @override
    def update(self, carry: Carry, state: ScheduleFreeState, ctx: Context) -> tuple[Carry, ScheduleFreeState]:
        y, z, b, t = carry.param, state.z, self.momentum, ctx.step
        warm = (t / self.warmup_steps).clamp(max=1) if self.warmup_steps > 0 else torch.ones_like(t)
        open_ = carry.gate != 0
        u, rate = torch.where(open_, warm * carry.update, 0), torch.where(open_, warm * ctx.lr, 0)
        lr_max = torch.maximum(state.lr_max, rate.to(state.lr_max))
        w = torch.where(rate > 0, t**self.r * lr_max**self.weight_lr_power, 0).to(state.weight_sum)
        total = state.weight_sum + w
        c = torch.where(w > 0, w / torch.where(w > 0, total, 1), 0)
        step = c * (y - z) + (1 - b * (1 - c)) * u
        return carry._replace(update=step), ScheduleFreeState(z - u, total, lr_max)

    @override
    def weights(self, param: Tensor, state: ScheduleFreeState) -> Tensor:
        return (param - (1 - self.momentum) * state.z) / self.momentum
