"""Torque damping of the update: the step is shorter where gradients have been at an angle to the momentum.

    a <- b a + (1 - b) cos(update, processed);   update <- update (1 + a) / 2

Reads    update (the momentum), processed (the gradient).   Writes  update.   State  alignment (a): 0-d, 0 at the start.
Cost     3 reads, 1 write, 3 sums a parameter.
Shapes   any; empty passes through.   Units  those of update; between 0 and 1 of it.
Place    between Moments and Normalize, where update is the momentum.
Fields   tam_beta (b): decay of the average alignment, in [0, 1).
Raises   ChainError if tam_beta is outside [0, 1).
Source   AdaptiveHinaAdamW and HinaAdamWOptimizer (hinablue/sd-scripts), which call it TAM.
Differs  nothing known, beyond running behind Normalize there, which one factor a parameter does not notice. The paper's TAM
         damps the gradient on its way into the momentum, by its angle to the momentum before; here the momentum holds the
         gradient already, so that the angle is smaller, and the average starts at 0: at b = 0.999 the first steps are half as
         long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from torch import Tensor
from typing_extensions import override

from gradchain.transforms._cosine import cosine
from gradchain.types import Carry, Context, Transform


class TorqueDampingState(NamedTuple):
    alignment: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class TorqueDamping(Transform[TorqueDampingState]):
    """Damping of the update by the average angle between momentum and gradient."""

    State = TorqueDampingState
    reads = frozenset({"update", "processed"})

    tam_beta: Annotated[float, "[0, 1)"] = 0.999

    @override
    def init(self, param: Tensor) -> TorqueDampingState:
        return TorqueDampingState(param.new_zeros(()))

    @override
    def figures(self, state: TorqueDampingState) -> Mapping[str, Tensor]:
        return {"alignment": state.alignment, "damping": (1 + state.alignment) / 2}

    @override
    def update(self, carry: Carry, state: TorqueDampingState, ctx: Context) -> tuple[Carry, TorqueDampingState]:
        m = carry.update
        a = self.tam_beta * state.alignment + (1 - self.tam_beta) * cosine(m, carry.signal, ctx.layout)
        a = a.to(m.dtype)
        return carry._replace(update=m * ((1 + a) / 2)), TorqueDampingState(a)
