"""Background regularization as published: parameters whose gradient hardly varies move half as far.

    update <- update / 2      where var(processed) < threshold, else update

Reads    update, processed (the gradient).   Writes  update.   State  none.   Cost  2 reads, 1 write, 2 means a parameter.
Shapes   any; a one-element parameter has no variance and is halved; empty passes through.
Units    those of update (a rescaling); background_threshold is in squares of the gradient's units.
Place    after Cautious, before LearningRate.
Fields   background_threshold: >= 0.
Raises   ChainError if background_threshold is negative.
Source   Automagic CameAMP Improved (hinablue/sd-scripts).
Differs  nothing known. With gradients of usual size it is always on; BackgroundRegularization is the scale-free form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedBackgroundRegularization(Transform):
    """Half the step where the gradient's variance is small, by absolute size."""

    reads = frozenset({"update", "processed"})
    off = {"background_threshold": 0.0}

    background_threshold: Annotated[float, "[0, inf)"] = 1e-6

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g, layout = carry.signal, ctx.layout
        squares = layout.sum((g - layout.mean(g)) ** 2)
        variance = squares / max(1, math.prod(layout.shape(g)) - 1)
        factor = torch.where(variance < self.background_threshold, 0.5, 1.0)
        return carry._replace(update=carry.update * factor.to(g.dtype)), state
