"""The second moment of the steps before: a gradient is not measured by itself. The first step only measures.

    t = 1   v <- g^2 + e;   update <- 0, and the parameter is left alone
    t > 1   second_moment <- v;   v <- b v + (1 - b) (g^2 + e)

Reads    update, gate.   Writes  update, second_moment, gate.   State  average: like the parameter.   Cost  2 reads, 3 writes.
Shapes   any; elementwise.   Units  the gradient's, squared.
Place    before Normalize; a VarianceFloor between them bounds the quotient.
Fields   beta2 (b): decay of the average, in [0, 1); eps1 (e): >= 0.
Raises   ChainError if a field is out of range.
Source   Taniguchi et al., ADOPT, arXiv 2411.02853, algorithm 1, as Automagic CameAMP (hinablue/sd-scripts) has it.
Differs  there the first call leaves all state alone. Here links behind this one see an update of 0, which leaves averages at 0;
         give those that count gradients a Phase(start=2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class PreviousMeanSquareState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class PreviousMeanSquare(Transform[PreviousMeanSquareState]):
    """Average of the squared gradient without the newest one."""

    State = PreviousMeanSquareState
    reads = frozenset({"update", "gate"})
    writes = frozenset({"update", "second_moment", "gate"})

    beta2: Annotated[float, "[0, 1)"] = 0.99
    eps1: Annotated[float, "[0, inf)"] = 1e-30

    @override
    def init(self, param: Tensor) -> PreviousMeanSquareState:
        return PreviousMeanSquareState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: PreviousMeanSquareState, ctx: Context) -> tuple[Carry, PreviousMeanSquareState]:
        g, later = carry.update, (ctx.step > 1).to(carry.update.device)
        square = g * g + self.eps1
        v = torch.where(later, self.beta2 * state.average + (1 - self.beta2) * square, square)
        known = torch.where(later, state.average, torch.ones_like(v))
        moved = carry._replace(update=torch.where(later, g, 0), second_moment=known, gate=carry.gate * later)
        return moved, PreviousMeanSquareState(v)
