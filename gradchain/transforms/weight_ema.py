"""Exponential average of the weights, kept beside the training and put in their place for evaluation.

    a <- a + (1 - d) (param - update - a)

Reads    update, param, gate.   Writes  nothing.   State  average (a): like the parameter, its value before the first step.
Cost     3 reads, 1 write.
Shapes   any; elementwise.   Units  those of the parameter.
Place    last, behind LearningRate and whatever limits or owns the step, since it takes the step for what will be written.
         ``optimizer.eval()`` puts the average in place of the parameters, ``optimizer.train()`` brings them back.
Fields   ema_decay (d): in [0, 1).
Raises   ChainError if ema_decay is outside [0, 1).
Source   Polyak averaging, in the exponential form of Tarvainen and Valpola, arXiv 1703.01780, and of timm's ModelEmaV3.
Differs  torch.optim.swa_utils starts from the weights after the first step. Buffers (BatchNorm's statistics) are not averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

ONCE = 2**62  # an interval longer than any run


class WeightEMAState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightEMA(Transform[WeightEMAState]):
    """Average of the weights for evaluation."""

    State = WeightEMAState
    reads = frozenset({"update", "param", "gate"})
    writes = frozenset()
    traits = frozenset({"averages"})

    ema_decay: Annotated[float, "[0, 1)"] = 0.999

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> WeightEMAState:
        return WeightEMAState(param.clone())

    @override
    def refresh(self, carry: Carry, state: WeightEMAState, ctx: Context) -> WeightEMAState:
        return WeightEMAState(carry.param.clone())

    @override
    def update(self, carry: Carry, state: WeightEMAState, ctx: Context) -> tuple[Carry, WeightEMAState]:
        after = carry.param - torch.where(carry.gate != 0, carry.update, 0)
        a = state.average
        return carry, WeightEMAState(a + (1 - self.ema_decay) * (after - a))

    @override
    def weights(self, param: Tensor, state: WeightEMAState) -> Tensor:
        return state.average
