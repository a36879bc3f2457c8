"""Adam's second moment alone: an exponential average of squares, corrected for its start at zero.

    v <- b2 v + (1 - b2) u^2;   second_moment <- v / (1 - b2^t)

Reads    update.   Writes  second_moment.   State  square (v): like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  the square of those of update.
Place    before Normalize, in the place of Moments where the momentum stands elsewhere (ScheduleFree) or is none.
Fields   beta2 (b2): decay of the average, in [0, 1).
Raises   ChainError if beta2 is outside [0, 1).
Source   Kingma and Ba, Adam, arXiv 1412.6980, the second half of algorithm 1.
Differs  nothing known; SecondMoment is the same without the correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class CorrectedSecondMomentState(NamedTuple):
    square: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class CorrectedSecondMoment(Transform[CorrectedSecondMomentState]):
    """Bias-corrected average of squares."""

    State = CorrectedSecondMomentState
    writes = frozenset({"second_moment"})

    beta2: Annotated[float, "[0, 1)"] = 0.999

    @override
    def init(self, param: Tensor) -> CorrectedSecondMomentState:
        return CorrectedSecondMomentState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: CorrectedSecondMomentState, ctx: Context) -> tuple[Carry, CorrectedSecondMomentState]:
        v = self.beta2 * state.square + (1 - self.beta2) * carry.update * carry.update
        return carry._replace(second_moment=v / (1 - self.beta2**ctx.step)), CorrectedSecondMomentState(v)
