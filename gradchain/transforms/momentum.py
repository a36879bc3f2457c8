"""Heavy-ball momentum: a decaying sum of updates.

    b <- mu b + (1 - d) u, and b <- u on the first step;   update <- b

Reads    update.   Writes  update.   State  buffer: like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  those of update; the steady gain is (1 - d) / (1 - mu).
Place    before LearningRate, so that the buffer holds updates that no schedule has scaled.
Fields   momentum (mu): decay of the sum, >= 0; dampening (d): share of the new update that is held back, >= 0. While mu is the
         number 0 the link is left out and keeps no buffer; "the first step" is the first with a buffer.
Raises   ChainError if a field is negative.
Source   Polyak, USSR Computational Mathematics and Mathematical Physics 4, 1964, in the form of torch.optim.SGD.
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


class MomentumState(NamedTuple):
    buffer: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Momentum(Transform[MomentumState]):
    """Heavy-ball momentum."""

    State = MomentumState
    idle: ClassVar[Mapping[str, float]] = {"momentum": 0.0}
    off: ClassVar[Mapping[str, float]] = {"momentum": 0.0}

    momentum: Annotated[float, "[0, inf)"] = 0.9
    dampening: Annotated[float, "[0, inf)"] = 0.0

    @override
    def init(self, param: Tensor) -> MomentumState:
        return MomentumState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: MomentumState, ctx: Context) -> tuple[Carry, MomentumState]:
        u = carry.update
        b = torch.where(ctx.step == 1, u, self.momentum * state.buffer + (1 - self.dampening) * u)
        return carry._replace(update=b), MomentumState(b)
