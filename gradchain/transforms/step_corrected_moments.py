"""Adam's moments with the bias correction in the step size: the second moment is handed on as it is.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    update <- m sqrt(1 - b2^t) / (1 - b1^t);   second_moment <- v

Divided by sqrt(v) + eps, that is Adam with an eps that counts for 1 / sqrt(1 - b2^t) as much: 32 times at the first step.

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter.   Cost  3 reads, 3 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   Kingma and Ba, Adam, arXiv 1412.6980, the remark at the end of section 2; relativistic-adam, Grams and C-Optim run it.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class StepCorrectedState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class StepCorrectedMoments(Transform[StepCorrectedState]):
    """First moment corrected for both averages, second moment uncorrected."""

    State = StepCorrectedState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> StepCorrectedState:
        return StepCorrectedState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: StepCorrectedState, ctx: Context) -> tuple[Carry, StepCorrectedState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        return carry._replace(update=m * ((1 - b2**t) ** 0.5 / (1 - b1**t)), second_moment=v), StepCorrectedState(m, v)
