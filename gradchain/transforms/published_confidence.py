"""CameAMP's confidence: CAME's, element by element, with a longer memory at first and without bias correction.

    b = b_early while t < T, else b3;   r <- b r + (1 - b) (residual^2 + e);   update <- update / sqrt(r)
    RaisedConfidence   the same, with update <- update (1 / sqrt(r) + e)

Reads    update, residual.   Writes  update.   State  average: like the parameter.   Cost  3 reads, 2 writes.
Shapes   any; elementwise.   Units  a pure number, enlarged: see Differs.
Place    directly behind the momentum link that writes residual.
Fields   beta3 (b3), early_beta3 (b_early): decay, in [0, 1); early_beta3_steps (T): first step of b3, >= 1; eps2 (e): > 0.
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP (hinablue/sd-scripts), flat versions: 0.9999 is hard-coded until half of the warm-up;
         RaisedConfidence: 1bba43e.
Differs  the average starts at 0, so the update is 1 / sqrt(1 - b^t) times too large: 100 times at the first step with 0.9999.
         The program's default learning rate of 1e-6 is made for that. Confidence corrects the bias. The e that
         RaisedConfidence adds to the reciprocal root looks like a slip: with the default of 1e-16 it is below rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class PublishedConfidenceState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Published(Transform[PublishedConfidenceState]):
    State = PublishedConfidenceState
    reads = frozenset({"update", "residual"})

    beta3: Annotated[float, "[0, 1)"] = 0.999
    early_beta3: Annotated[float, "[0, 1)"] = 0.9999
    early_beta3_steps: Annotated[int, "[1, inf)"] = 250
    eps2: Annotated[float, "(0, inf)"] = 1e-16

    @override
    def init(self, param: Tensor) -> PublishedConfidenceState:
        return PublishedConfidenceState(torch.zeros_like(param))

    def factor(self, r: Tensor) -> Tensor:
        return 1 / r.sqrt()

    @override
    def update(self, carry: Carry, state: PublishedConfidenceState, ctx: Context) -> tuple[Carry, PublishedConfidenceState]:
        early = (ctx.step < self.early_beta3_steps).to(ctx.step.dtype)
        b = self.beta3 + (self.early_beta3 - self.beta3) * early
        r = b * state.average + (1 - b) * (carry.residual * carry.residual + self.eps2)
        return carry._replace(update=carry.update * self.factor(r)), PublishedConfidenceState(r)

    @override
    def figures(self, state: PublishedConfidenceState) -> dict[str, Tensor]:
        return {"residual": (state.average.sum() / max(1, state.average.numel())).sqrt()}


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedConfidence(_Published):
    """Division by the root of an uncorrected average of the squared residual."""


@dataclass(frozen=True, kw_only=True, repr=False)
class RaisedConfidence(_Published):
    """Division by the root of an uncorrected average of the squared residual, and a little more."""

    @override
    def factor(self, r: Tensor) -> Tensor:
        return 1 / r.sqrt() + self.eps2
