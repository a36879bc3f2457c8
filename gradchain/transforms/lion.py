"""Lion's direction: the sign of a blend of momentum and gradient.

    update <- sign(b1 m + (1 - b1) g);   m <- b2 m + (1 - b2) g

Reads    update.   Writes  update.   State  average: like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  a pure number in {-1, 0, 1}.
Place    before WeightDecay and LearningRate. It needs no Normalize.
Fields   betas: (b1, b2), each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, algorithm 2.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class LionState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Lion(Transform[LionState]):
    """Sign of the interpolated momentum."""

    State = LionState
    traits = frozenset({"normalizes"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.99)

    @override
    def init(self, param: Tensor) -> LionState:
        return LionState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: LionState, ctx: Context) -> tuple[Carry, LionState]:
        b1, b2 = self.betas
        g, m = carry.update, state.average
        direction = torch.sign(b1 * m + (1 - b1) * g)
        return carry._replace(update=direction), LionState(b2 * m + (1 - b2) * g)
