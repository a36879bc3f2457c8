"""RAdam's direction: Adam's, shortened while few squares have been seen, and plain momentum while too few for that.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   R = 2 / (1 - b2) - 1;   r = R - 2 t b2^t / (1 - b2^t)
    r > 5    update <- m / (1 - b1^t) sqrt(1 - b2^t) / (sqrt(v) + eps) sqrt((r - 4)(r - 2) R / ((R - 4)(R - 2) r))
    else     update <- m / (1 - b1^t)

Reads    update.   Writes  update.   State  first, second: like the parameter.   Cost  3 reads, 3 writes.
Shapes   any; elementwise.   Units  a pure number, but the gradient's in the first steps (5 of them with b2 = 0.999).
Place    in the place of Moments and Normalize.
Fields   betas: decay of m and v, each in [0, 1); radam_eps (eps): >= 0.
Raises   ChainError if a field is out of range.
Source   Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, arXiv 1908.03265, algorithm 2, with eps where
         torch.optim.RAdam has it: before the bias correction.
Differs  nothing known; it is torch.optim.RAdam to rounding. Relativistic Adam goes by the same short name and is unrelated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class RAdamState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class RAdam(Transform[RAdamState]):
    """Adam's direction with the variance of its step rectified."""

    State = RAdamState
    traits = frozenset({"normalizes"})
    alias = "radam"

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)
    radam_eps: Annotated[float, "[0, inf)"] = 1e-8

    @override
    def init(self, param: Tensor) -> RAdamState:
        return RAdamState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: RAdamState, ctx: Context) -> tuple[Carry, RAdamState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        most = 2 / (1 - b2) - 1
        r = most - 2 * t * b2**t / (1 - b2**t)
        share = (r - 4) * (r - 2) * most / ((most - 4) * (most - 2) * r)
        root = torch.where(v > 0, v, 1).sqrt() + self.radam_eps
        adaptive = (1 - b2**t) ** 0.5 * torch.where(r > 5, share, 0).sqrt() / root
        mean = m / (1 - b1**t)
        return carry._replace(update=torch.where(r > 5, mean * adaptive, mean)), RAdamState(m, v)
