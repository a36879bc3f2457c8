"""Adan's moments: averages of the gradient, of its change, and of the square of the gradient carried on along its change.

    d = g - g_before (0 on the first step);   m <- b1 m + (1 - b1) g;   e <- b2 e + (1 - b2) d
    v <- b3 v + (1 - b3) (g + b2 d)^2
    update <- m / (1 - b1^t) + b2 e / (1 - b2^t);   second_moment <- v / (1 - b3^t)

Reads    update.   Writes  update, second_moment.   State  first, change, second, previous: like the parameter.
Cost     5 reads, 6 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of m, e and v, each in [0, 1): 1 less the paper's.
Raises   ChainError if a beta is outside [0, 1).
Source   Xie et al., Adan, arXiv 2208.06677, algorithm 1, in the authors' form.
Differs  nothing known. optax takes 1 - b2 for b2 in both of its places as a factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class AdanState(NamedTuple):
    first: Tensor
    change: Tensor
    second: Tensor
    previous: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class AdanMoments(Transform[AdanState]):
    """First moment with Nesterov's look-ahead by differences of gradients, and its second moment."""

    State = AdanState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.98, 0.92, 0.99)

    @override
    def init(self, param: Tensor) -> AdanState:
        return AdanState(*(torch.zeros_like(param) for _ in range(4)))

    @override
    def update(self, carry: Carry, state: AdanState, ctx: Context) -> tuple[Carry, AdanState]:
        b1, b2, b3 = self.betas
        g, t = carry.update, ctx.step
        d = torch.where(t > 1, g - state.previous, 0)
        m = b1 * state.first + (1 - b1) * g
        e = b2 * state.change + (1 - b2) * d
        v = b3 * state.second + (1 - b3) * (g + b2 * d) ** 2
        update = m / (1 - b1**t) + b2 * e / (1 - b2**t)
        return carry._replace(update=update, second_moment=v / (1 - b3**t)), AdanState(m, e, v, g)
