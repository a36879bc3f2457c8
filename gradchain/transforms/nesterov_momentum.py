"""Nesterov's momentum: the heavy ball, looked at one step ahead.

    b <- mu b + u;   update <- u + mu b

Reads    update.   Writes  update.   State  buffer: like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  those of update; the steady gain is 1 / (1 - mu).
Place    before LearningRate.
Fields   momentum (mu): decay of the sum, >= 0. While it is the number 0 the link is left out and keeps no buffer.
Raises   ChainError if momentum is negative.
Source   Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013,
         in the form of torch.optim.SGD.
Differs  nothing known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class NesterovMomentumState(NamedTuple):
    buffer: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class NesterovMomentum(Transform[NesterovMomentumState]):
    """Momentum with Nesterov's look-ahead."""

    State = NesterovMomentumState
    idle: ClassVar[Mapping[str, float]] = {"momentum": 0.0}
    off: ClassVar[Mapping[str, float]] = {"momentum": 0.0}

    momentum: Annotated[float, "[0, inf)"] = 0.9

    @override
    def init(self, param: Tensor) -> NesterovMomentumState:
        return NesterovMomentumState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: NesterovMomentumState, ctx: Context) -> tuple[Carry, NesterovMomentumState]:
        b = self.momentum * state.buffer + carry.update
        return carry._replace(update=carry.update + self.momentum * b), NesterovMomentumState(b)
