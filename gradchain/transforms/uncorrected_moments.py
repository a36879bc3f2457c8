"""Adam's moments as they stand, without correction for their start at zero.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   update <- m;   second_moment <- v

Reads    update.   Writes  update, second_moment.   State  first, second: like the parameter.   Cost  3 reads, 2 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand. The first step is (1 - b1) / sqrt(1 - b2) times as long: 3.2 with the defaults.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   Mishchenko and Defazio, Prodigy, arXiv 2306.06101, algorithm 4.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class UncorrectedState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class UncorrectedMoments(Transform[UncorrectedState]):
    """First and second moment of the gradient."""

    State = UncorrectedState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> UncorrectedState:
        return UncorrectedState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: UncorrectedState, ctx: Context) -> tuple[Carry, UncorrectedState]:
        b1, b2 = self.betas
        g = carry.update
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        return carry._replace(update=m, second_moment=v), UncorrectedState(m, v)
