"""CAME's second moment: an average of the squared gradient with a floor inside, whole or from its row and column means.

    s = g^2 + e
    MeanSquare           v <- b v + (1 - b) s;   second_moment <- v
    FactoredMeanSquare   r <- b r + (1 - b) rowmean(s);   c <- b c + (1 - b) colmean(s);   second_moment <- r c / mean(r)
                         fewer than two dimensions: as MeanSquare

Reads    update.   Writes  second_moment.   State  average: like the parameter; factored: row (..., R, 1), column (..., 1, C)
         and, for fewer than two dimensions, full: like the parameter.   Cost  2 reads, 1 write (factored: 1 read, 1 write).
Shapes   any; the last two dimensions are factored.   Units  the gradient's, squared.
Place    before Normalize(eps=0) and ClipUpdateRMS.
Fields   beta2 (b): decay of the averages, in [0, 1); eps1 (e): >= 0, keeps the root from 0.
Raises   ChainError if a field is out of range.
Source   Luo et al., CAME, arXiv 2307.02047, algorithm 2, and the authors' came_pytorch; Automagic (ostris/ai-toolkit) has the
         factored form, Automagic CameAMP (hinablue/sd-scripts) the whole one.
Differs  no bias correction, as there: the first update is 1 / sqrt(1 - b) times too large, which ClipUpdateRMS takes back.
         With eps1 = 1e-30 a float32 average of zeros stays positive; half precision would give NaN, so states are float32.
         CameAMP's twin in 8 bits adds 1e-12 to mean(r), with which gradients of 1e-6 and less step further.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._factored import Factors, averaged, no_factors, outer
from gradchain.types import Carry, Context, Transform


class MeanSquareState(NamedTuple):
    average: Tensor


class FactoredMeanSquareState(NamedTuple):
    row: Tensor
    column: Tensor
    full: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class MeanSquare(Transform[MeanSquareState]):
    """Average of the squared gradient, element by element."""

    State = MeanSquareState
    writes = frozenset({"second_moment"})

    beta2: Annotated[float, "[0, 1)"] = 0.999
    eps1: Annotated[float, "[0, inf)"] = 1e-30

    @override
    def init(self, param: Tensor) -> MeanSquareState:
        return MeanSquareState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: MeanSquareState, ctx: Context) -> tuple[Carry, MeanSquareState]:
        g = carry.update
        v = self.beta2 * state.average + (1 - self.beta2) * (g * g + self.eps1)
        return carry._replace(second_moment=v), MeanSquareState(v)


@dataclass(frozen=True, kw_only=True, repr=False)
class FactoredMeanSquare(Transform[FactoredMeanSquareState]):
    """Average of the squared gradient, from the averages of its rows and columns."""

    State = FactoredMeanSquareState
    writes = frozenset({"second_moment"})

    beta2: Annotated[float, "[0, 1)"] = 0.999
    eps1: Annotated[float, "[0, inf)"] = 1e-30

    @override
    def init(self, param: Tensor) -> FactoredMeanSquareState:
        full = torch.zeros_like(param) if param.dim() < 2 else param.new_zeros(0)
        return FactoredMeanSquareState(*no_factors(param), full)

    @override
    def update(self, carry: Carry, state: FactoredMeanSquareState, ctx: Context) -> tuple[Carry, FactoredMeanSquareState]:
        square = carry.update * carry.update + self.eps1
        if square.dim() < 2:
            v = self.beta2 * state.full + (1 - self.beta2) * square
            return carry._replace(second_moment=v), state._replace(full=v)
        factors = averaged(Factors(state.row, state.column), square, self.beta2, ctx.layout)
        return carry._replace(second_moment=outer(factors, ctx.layout)), FactoredMeanSquareState(*factors, state.full)
