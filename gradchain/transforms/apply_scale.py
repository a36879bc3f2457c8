"""Adaptive factors brought to the update: what importance scores, masks and relations have multiplied together.

    update <- scale update

Reads    update, scale.   Writes  update.   State  none.   Cost  1 read, 1 write (2 reads where the scale is per element).
Shapes   any; elementwise.   Units  those of update (a rescaling).
Place    after the links that write scale, before LearningRate. Decay links behind it are not scaled.
Fields   none.
Raises   nothing.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts).
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ApplyScale(Transform):
    """Multiplies the update by the adaptive factors."""

    reads = frozenset({"update", "scale"})
    removable = False

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update * carry.scale), state
