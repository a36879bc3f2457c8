"""Clipping by value: no element of the gradient is larger than a limit.

    update <- max(-c, min(update, c))

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise, a NaN stays one.   Units  clip_value (c): those of update.
Place    before the moments, before what looks at the size of the gradient.
Fields   clip_value (c): > 0.
Raises   ChainError if clip_value is not positive.
Source   torch.nn.utils.clip_grad_value_.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipValue(Transform):
    """Limit on the size of each element."""

    off = {"clip_value": torch.inf}

    clip_value: Annotated[float, "(0, inf]"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update.clamp(-self.clip_value, self.clip_value)), state
