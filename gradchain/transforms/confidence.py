"""CAME's confidence: an update counts less where it keeps missing its own average.

    s = residual^2 + e
    Confidence           r <- b r + (1 - b) s;   update <- update / sqrt(r / (1 - b^t))
    FactoredConfidence   the root of r c / mean(r), with r and c averages of the rows' and columns' means of s, uncorrected;
                         fewer than two dimensions: update stays as it is

Reads    update, residual.   Writes  update.
State    average: like the parameter; factored: row (..., R, 1), column (..., 1, C).
Cost     3 reads, 2 writes (factored: 2 reads, 1 write).
Shapes   any; the last two dimensions are factored.   Units  a pure number where update and residual have the same units.
Place    directly behind the momentum link that writes residual.
Fields   beta3 (b): decay of the averages, in [0, 1); eps2 (e): > 0.
Raises   ChainError if a field is out of range.
Source   Luo et al., CAME, arXiv 2307.02047, algorithm 2, and the authors' came_pytorch.
Differs  CAME knows the factored form alone, and corrects no bias: with its defaults the first update has a root mean square of
         11, so it needs a warm-up. FactoredConfidence is that form; Confidence corrects the bias. With a gradient that never
         changes the residual vanishes and the update grows without bound, in either form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._factored import Factors, averaged, no_factors, outer
from gradchain.types import Carry, Context, Transform


class ConfidenceState(NamedTuple):
    average: Tensor


def _figures(squares: Tensor) -> dict[str, Tensor]:
    return {"residual": (squares.sum() / max(1, squares.numel())).sqrt()}


@dataclass(frozen=True, kw_only=True, repr=False)
class Confidence(Transform[ConfidenceState]):
    """Division by the root of the mean squared residual, element by element."""

    State = ConfidenceState
    reads = frozenset({"update", "residual"})

    beta3: Annotated[float, "[0, 1)"] = 0.999
    eps2: Annotated[float, "(0, inf)"] = 1e-16

    @override
    def init(self, param: Tensor) -> ConfidenceState:
        return ConfidenceState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: ConfidenceState, ctx: Context) -> tuple[Carry, ConfidenceState]:
        r = self.beta3 * state.average + (1 - self.beta3) * (carry.residual * carry.residual + self.eps2)
        return carry._replace(update=carry.update / (r / (1 - self.beta3**ctx.step)).sqrt()), ConfidenceState(r)

    @override
    def figures(self, state: ConfidenceState) -> Mapping[str, Tensor]:
        return _figures(state.average)


@dataclass(frozen=True, kw_only=True, repr=False)
class FactoredConfidence(Transform[Factors]):
    """Division by the root of the mean squared residual, from its rows and columns."""

    State = Factors
    reads = frozenset({"update", "residual"})

    beta3: Annotated[float, "[0, 1)"] = 0.9999
    eps2: Annotated[float, "(0, inf)"] = 1e-16

    @override
    def init(self, param: Tensor) -> Factors:
        return no_factors(param)

    @override
    def update(self, carry: Carry, state: Factors, ctx: Context) -> tuple[Carry, Factors]:
        if carry.update.dim() < 2:
            return carry, state
        state = averaged(state, carry.residual * carry.residual + self.eps2, self.beta3, ctx.layout)
        return carry._replace(update=carry.update / outer(state, ctx.layout).sqrt()), state

    @override
    def figures(self, state: Factors) -> Mapping[str, Tensor]:
        return _figures(state.row)
