"""Signal: from here on, the gradient is what the links so far have made of it.

    processed <- update

Links that compare directions (Cautious, Grams, learning rate masks) look at the gradient as delivered; behind this link
they look at the processed one.

Reads    update.   Writes  processed.   State  none.   Cost  none.
Shapes   any.   Units  those of the gradient.
Place    after the links that change the gradient, before the moments.
Fields   none.
Raises   nothing.
Source   Automagic CameAMP and AdaptiveHinaAdamW (hinablue/sd-scripts), which overwrite the gradient.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class Signal(Transform):
    """Takes the update so far for the gradient."""

    writes = frozenset({"processed"})
    removable = False

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(processed=carry.update), state
