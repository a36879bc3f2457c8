"""StableAdamW's clipping: where the gradient outgrows its second moment, the step shrinks by as much.

    R = sqrt(mean(g^2 / max(second_moment, eps^2)));   update <- update / max(1, R)

g is the processed gradient.

Reads    update, processed (g), second_moment.   Writes  update.   State  none.   Cost  3 reads, 1 write, 1 mean a parameter.
Shapes   any; empty passes through.   Units  those of update (a rescaling).
Place    behind Normalize and WeightDecay, which shrinks along, ahead of LearningRate.
Fields   rms_eps (eps): what the root of the second moment counts at least, >= 0.
Raises   ChainError if rms_eps is negative.
Source   Wortsman et al., Stable and low-precision training for large-scale vision-language models, arXiv 2304.13013,
         algorithm 2.
Differs  nothing known. ClipUpdateRMS looks at the update; here it is g without momentum, which shows a surge at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipNormalizedRMS(Transform):
    """Smaller steps where the second moment lags behind the gradient."""

    reads = frozenset({"update", "processed", "second_moment"})
    traits = frozenset({"caps"})

    rms_eps: Annotated[float, "[0, inf)"] = 1e-6

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.signal
        v = carry.second_moment.clamp(min=self.rms_eps**2)
        surge = g / (v + (v == 0)).sqrt()  # not g^2 / v, which is NaN where both overflow
        rms = ctx.layout.mean(surge * surge).sqrt()
        return carry._replace(update=carry.update / rms.clamp(min=1)), state
