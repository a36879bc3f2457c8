"""Adagrad's sum of all squared gradients.

    s <- s + g^2;   second_moment <- s

Reads    update.   Writes  second_moment.   State  total: like the parameter.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  the gradient's, squared.
Place    before what consumes second_moment.
Fields   initial_accumulator_value: the sum before the first step, >= 0.
Raises   ChainError if initial_accumulator_value is negative.
Source   Duchi, Hazan and Singer, JMLR 12, 2011, the diagonal case.
Differs  nothing known; with Normalize it is torch.optim.Adagrad to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class SumState(NamedTuple):
    total: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class SumOfSquares(Transform[SumState]):
    """Sum of the squared gradients."""

    State = SumState
    writes = frozenset({"second_moment"})

    initial_accumulator_value: Annotated[float, "[0, inf)"] = 0.0

    @override
    def init(self, param: Tensor) -> SumState:
        return SumState(torch.zeros_like(param) + self.initial_accumulator_value)

    @override
    def update(self, carry: Carry, state: SumState, ctx: Context) -> tuple[Carry, SumState]:
        s = state.total + carry.update * carry.update
        return carry._replace(second_moment=s), SumState(s)
