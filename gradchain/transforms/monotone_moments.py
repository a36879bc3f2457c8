"""Adam's moments with a second moment that is taken no smaller than at the step before.

    m <- b1 m + (1 - b1) g;   w <- v;   v <- b2 v + (1 - b2) g^2
    update <- m / (1 - b1^t);   second_moment <- max(v, w) / (1 - b2^t)

Since v >= b2 w, a step is shortened to sqrt(b2) of Adam's at the least.

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter.   Cost  3 reads, 4 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   AdaptiveHinaAdamW (hinablue/sd-scripts), which calls it ADOPT stability.
Differs  nothing known; there the former v is kept in a state of its own. The paper's ADOPT is another rule. AMSGradMoments
         takes the largest of all v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class MonotoneState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class MonotoneMoments(Transform[MonotoneState]):
    """Bias-corrected first moment, and the larger of the newest two second moments."""

    State = MonotoneState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> MonotoneState:
        return MonotoneState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: MonotoneState, ctx: Context) -> tuple[Carry, MonotoneState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        larger = torch.maximum(v, state.second)
        return carry._replace(update=m / (1 - b1**t), second_moment=larger / (1 - b2**t)), MonotoneState(m, v)
