"""The residual against a second, newer average: the momentum averaged once more with the newest update.

    m' = b m + (1 - b) u, so that u - m' = b (u - m);   residual <- b residual

Reads    residual.   Writes  residual.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  those of update.
Place    between a momentum link and PublishedConfidence.
Fields   second_beta (b): in [0, 1].
Raises   ChainError if second_beta is outside [0, 1].
Source   Automagic CameAMP (hinablue/sd-scripts), last version, after half of the warm-up; there b is the momentum's decay.
Differs  nothing known; the second average itself is never needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class SecondAverage(Transform):
    """Residual measured from the average of momentum and update."""

    reads = frozenset({"residual"})
    writes = frozenset({"residual"})
    off = {"second_beta": 1.0}

    second_beta: Annotated[float, "[0, 1]"] = 0.8

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(residual=self.second_beta * carry.residual), state
