"""Adafactor's second moment: row and column averages of the squared gradient, whose outer product stands for the whole.

    w = t^d;   r <- (1 - w) r + w rowmean(g^2);   c <- (1 - w) c + w colmean(g^2)
    second_moment <- max(r c / max(mean(r), e), e^2)                 fewer than two dimensions: an ordinary average v

Reads    update.   Writes  second_moment.
State    row (..., R, 1), column (..., 1, C); or full: like the parameter. The others are empty.   Cost  2 reads, 1 write.
Shapes   any; the last two dimensions are factored.   Units  the gradient's, squared.
Place    before Normalize(eps=0).
Fields   beta2_decay (d): exponent of the weight of the newest gradient, <= 0; eps1 (e): floor, None for the dtype's epsilon.
Raises   ChainError if a field is out of range.
Source   Shazeer and Stern, Adafactor, arXiv 1804.04235, algorithm 4, in the form of torch.optim.Adafactor.
Differs  the paper adds e to g^2; torch, and this link, floor the estimate instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class FactoredState(NamedTuple):
    row: Tensor
    column: Tensor
    full: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class FactoredSecondMoment(Transform[FactoredState]):
    """Rank-one estimate of the second moment of a matrix."""

    State = FactoredState
    writes = frozenset({"second_moment"})

    beta2_decay: Annotated[float, "(-inf, 0]"] = -0.8
    eps1: Annotated[float, "[0, inf)"] | None = None

    @override
    def init(self, param: Tensor) -> FactoredState:
        if param.dim() < 2:
            return FactoredState(param.new_zeros(0), param.new_zeros(0), torch.zeros_like(param))
        return FactoredState(torch.zeros_like(param[..., :1]), torch.zeros_like(param[..., :1, :]), param.new_zeros(0))

    @override
    def update(self, carry: Carry, state: FactoredState, ctx: Context) -> tuple[Carry, FactoredState]:
        g = carry.update
        e = torch.finfo(g.dtype).eps if self.eps1 is None else self.eps1
        w = ctx.step**self.beta2_decay
        if g.dim() < 2:
            v = (1 - w) * state.full + w * g * g
            state = state._replace(full=v)
        else:
            square = (g * g).clamp(max=torch.finfo(g.dtype).max / max(1, math.prod(ctx.layout.shape(g))))  # sums stay finite
            row = (1 - w) * state.row + w * ctx.layout.mean(square, dim=-1)
            column = (1 - w) * state.column + w * ctx.layout.mean(square, dim=-2)
            v = row * column / ctx.layout.mean(row, dim=-2).clamp(min=e)
            state = state._replace(row=row, column=column)
        return carry._replace(second_moment=v.clamp(min=e * e)), state
