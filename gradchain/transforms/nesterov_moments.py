"""NAdam's moments: Adam's, with the first one looking a step ahead along a momentum that warms up.

    mu_t = b1 (1 - 0.96^(t d) / 2);   M_t = mu_1 ... mu_t
    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
    update <- (1 - mu_t) / (1 - M_t) g + mu_(t+1) / (1 - M_t mu_(t+1)) m;   second_moment <- v / (1 - b2^t)

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter; momentum_product: 0-d.
Cost     3 reads, 4 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of the two averages, each in [0, 1); momentum_decay (d): speed of the momentum's warm-up, >= 0.
Raises   ChainError if a field is out of range.
Source   Dozat, Incorporating Nesterov Momentum into Adam, ICLR workshop 2016, in the form of torch.optim.NAdam.
Differs  torch keeps the product of the momenta in float32 also for float64 parameters (1e-9 in the parameters).
         timm and optax give the name to other rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class NesterovState(NamedTuple):
    first: Tensor
    second: Tensor
    momentum_product: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class NesterovMoments(Transform[NesterovState]):
    """First moment with Nesterov's look-ahead, and bias-corrected second moment."""

    State = NesterovState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)
    momentum_decay: Annotated[float, "[0, inf)"] = 4e-3

    @override
    def init(self, param: Tensor) -> NesterovState:
        return NesterovState(torch.zeros_like(param), torch.zeros_like(param), param.new_ones(()))

    @override
    def update(self, carry: Carry, state: NesterovState, ctx: Context) -> tuple[Carry, NesterovState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        mu = b1 * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * self.momentum_decay))
        product = state.momentum_product * mu
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
        product = product.to(state.momentum_product.dtype)
        return carry._replace(update=ahead, second_moment=v / (1 - b2**t)), NesterovState(m, v, product)
