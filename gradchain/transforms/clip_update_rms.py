"""Update clipping by root mean square: an update larger than d in the mean is scaled down to it.

    ClipUpdateRMS         update <- update / max(1, rms(update) / d)
    ScaledClipUpdateRMS   update <- d update / max(1, rms(update))

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 norm a parameter.
Shapes   any; empty passes through.   Units  those of update (a rescaling).
Place    after normalization, before ParameterScale and LearningRate.
Fields   d: largest root mean square, > 0.
Raises   ChainError if d is not positive.
Source   Shazeer and Stern, Adafactor, arXiv 1804.04235, section 6; ScaledClipUpdateRMS: Automagic CameAMP
         (hinablue/sd-scripts, 803cb56), with dual momentum.
Differs  nothing known. ScaledClipUpdateRMS scales small updates too, so that its d is a ceiling and a factor in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipUpdateRMS(Transform):
    """Ceiling on the root mean square of the update."""

    traits = frozenset({"caps"})

    d: Annotated[float, "(0, inf]"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u = carry.update
        rms = ctx.layout.mean(u * u).sqrt()
        return carry._replace(update=u / (rms / self.d).clamp(min=1)), state


@dataclass(frozen=True, kw_only=True, repr=False)
class ScaledClipUpdateRMS(Transform):
    """Ceiling of one on the root mean square of the update, then a factor."""

    traits = frozenset({"caps"})

    d: Annotated[float, "(0, inf)"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u = carry.update
        rms = ctx.layout.mean(u * u).sqrt()
        return carry._replace(update=self.d * u / rms.clamp(min=1)), state
