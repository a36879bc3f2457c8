"""Division by the root of the second moment, with eps in the units to which the gradient was scaled.

    update <- update / (sqrt(second_moment) + eps_scale eps)

Reads    update, second_moment, eps_scale.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  a pure number where second_moment has the units of update squared.
Place    in the place of Normalize, behind ProdigyDistance.
Fields   eps: for a gradient that nobody scaled, >= 0.
Raises   ChainError if eps is negative.
Source   Mishchenko and Defazio, Prodigy, arXiv 2306.06101, algorithm 4.
Differs  what scales eps is for ProdigyDistance to say: the distance after this step's estimate, as in prodigyopt 1.1.2; the
         paper has the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ScaledNormalize(Transform):
    """Division by the root of the second moment, eps scaled."""

    reads = frozenset({"update", "second_moment", "eps_scale"})
    traits = frozenset({"normalizes"})

    eps: Annotated[float, "[0, inf)"] = 1e-8

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        root = carry.second_moment.sqrt()
        return carry._replace(update=carry.update / (root + self.eps * carry.eps_scale).to(root.dtype)), state
