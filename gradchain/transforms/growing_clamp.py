"""A clamp that grows with the fourth root of the step count.

    update <- clip(update, -t^(1/4), t^(1/4))

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any; elementwise.   Units  a pure number is what makes sense; on raw gradients the clamp is an absolute size.
Place    after the normalizing links, before the momentum.
Fields   none.
Raises   nothing.
Source   Taniguchi et al., ADOPT, arXiv 2411.02853, the clipping of the authors' code, as Automagic CameAMP
         (hinablue/sd-scripts) uses it: on the processed gradient itself where it has no second moment.
Differs  ADOPT's authors count from the first step that moves the parameter, (t - 1)^(1/4), as our ADOPT does.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class GrowingClamp(Transform):
    """Elementwise clamp at the fourth root of the step count."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        bound = ctx.step**0.25
        return carry._replace(update=carry.update.clamp(-bound, bound)), state
