"""Frequency penalty: the part of a matrix that oscillates fast is taken out of the gradient, in full or in part.

    H keeps the frequencies (k, l), counted from -h/2 and -w/2, with sqrt(k^2 + l^2) > r min(h, w)
    update <- g - c H g

H is a projection: it takes a constant to 0 and a checkerboard to itself, and keeps the phase of everything between.

Reads    update.   Writes  update.   State  none.   Cost  O(n log n): two transforms of half the spectrum.
Shapes   matrices; everything else passes through.   Units  those of the gradient.
Place    first, before the moments; before RankPenalty, which must not be filtered.
Fields   frequency_penalty (c): share of the fast part that is removed, in [0, 1]; frequency_cutoff (r): >= 0.
Raises   ChainError if a field is out of range.
Source   what the description of Automagic CameAMP (hinablue/sd-scripts) means.
Differs  there the mask stands on unshifted bins, so that it keeps the slow part, and the phase is dropped; that form is
         PublishedFrequencyPenalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class FrequencyPenalty(Transform):
    """Damping of the fast part of a matrix."""

    off = {"frequency_penalty": 0.0}

    frequency_penalty: Annotated[float, "[0, 1]"] = 0.05
    frequency_cutoff: Annotated[float, "[0, inf)"] = 0.3

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        shape = ctx.layout.shape(carry.update)
        if len(shape) != 2 or math.prod(shape) == 0:
            return carry, state
        fast = ctx.layout.on_whole(self._high_pass, carry.update)
        return carry._replace(update=carry.update - self.frequency_penalty * fast), state

    def _high_pass(self, g: Tensor) -> Tensor:
        h, w = g.shape
        i = torch.arange(h, device=g.device, dtype=torch.float64)[:, None]
        k = torch.minimum(i, h - i)  # without its sign
        l = torch.arange(w // 2 + 1, device=g.device, dtype=torch.float64)  # noqa: E741
        fast = (k**2 + l**2).sqrt() > self.frequency_cutoff * torch.sym_min(h, w)
        return torch.fft.irfft2(torch.fft.rfft2(g) * fast, s=(h, w))
