"""Bounds on the product of the adaptive factors.

    scale <- clip(scale, low, high)

Reads    scale.   Writes  scale.   State  none.   Cost  none (1 read, 1 write where the scale is per element).
Shapes   any.   Units  a pure number.
Place    after the factors it bounds, before ApplyScale.
Fields   scale_range (low, high): each >= 0.
Raises   ChainError if a bound is negative.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts), with (0.01, 5) behind importance and relations and (0.001, 10) behind all.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipScale(Transform):
    """Bounds on the adaptive factors."""

    reads = frozenset({"scale"})
    writes = frozenset({"scale"})

    scale_range: tuple[Annotated[float, "[0, inf]"], Annotated[float, "[0, inf]"]] = (0.001, 10.0)

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(scale=carry.scale.clamp(*self.scale_range)), state
