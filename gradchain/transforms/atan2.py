"""Adam-atan2's normalization: the arc tangent in the place of a division, with no eps to choose.

    update <- a atan2(update, b sqrt(second_moment))

Reads    update, second_moment.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  a pure number, at most a pi / 2; 0 where both are 0.
Place    in the place of Normalize.
Fields   a, b: > 0. With a = 1.27, near 4 / pi, a ratio of 1 stays about 1.
Raises   ChainError if a field is not positive.
Source   Everett et al., Scaling Exponents Across Parameterizations and Optimizers, arXiv 2407.05872, section 4.3, with the
         default a of adam-atan2-pytorch.
Differs  nothing known. HeavyBall, which offers it in the place of any division, stretches the arc tangent 16 times, so that it
         is a plain quotient up to ratios of about 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class Atan2(Transform):
    """Arc tangent of the update over the root of the second moment."""

    reads = frozenset({"update", "second_moment"})
    traits = frozenset({"normalizes"})

    a: Annotated[float, "(0, inf)"] = 1.27
    b: Annotated[float, "(0, inf)"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=self.a * torch.atan2(carry.update, self.b * carry.second_moment.sqrt())), state
