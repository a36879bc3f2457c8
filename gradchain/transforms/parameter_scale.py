"""Adafactor's relative step: the update is multiplied by the scale of the parameter.

    update <- update max(eps2, rms(param))

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 norm a parameter.
Shapes   any; empty passes through; a parameter too long to be measured stands still.
Units    those of the parameter, where update is a pure number.
Place    after ClipUpdateRMS, before RelativeStep.
Fields   eps2: smallest scale, so that parameters at zero can move, >= 0.
Raises   ChainError if eps2 is negative.
Source   Shazeer and Stern, Adafactor, arXiv 1804.04235, section 8.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ParameterScale(Transform):
    """Multiplication by the root mean square of the parameter."""

    reads = frozenset({"update", "param"})

    eps2: Annotated[float, "[0, inf)"] = 1e-3

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        rms = ctx.layout.mean(carry.param * carry.param).sqrt()
        scale = torch.where(rms.isinf(), 0, rms.clamp(min=self.eps2))
        return carry._replace(update=carry.update * scale), state
