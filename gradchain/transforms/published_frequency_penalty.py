"""Frequency penalty as published: a matrix whose spectrum is the gradient's magnitudes, without their phases, is subtracted.

    M[k, l] = 1 where sqrt((k - h // 2)^2 + (l - w // 2)^2) > 0.3 min(h, w), else 0
    update <- g - c Re ifft2(|fft2 g| M)

Reads    update.   Writes  update.   State  none.   Cost  O(n log n): two transforms of half the spectrum.
Shapes   matrices; everything else passes through.   Units  those of the gradient.
Place    first, after GroupAGR, before the moments.
Fields   frequency_penalty (c): >= 0.
Raises   ChainError if frequency_penalty is negative.
Source   Automagic CameAMP Improved (hinablue/sd-scripts).
Differs  nothing known; computed here from half the spectrum with the even part of the mask, which is the same. It is offered to
         replay runs of the original: the mask stands on unshifted bins, so it keeps the low frequencies and spares the highest,
         and what is subtracted does not know where in the matrix a pattern stands. FrequencyPenalty is the high-pass meant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


def _even_mask(h: int, w: int, like: Tensor) -> Tensor:
    """(M(k, l) + M(-k, -l)) / 2 on the half spectrum."""
    k = torch.arange(h, device=like.device, dtype=torch.float64)[:, None]
    l = torch.arange(w // 2 + 1, device=like.device, dtype=torch.float64)  # noqa: E741

    def mask(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        return (((k - h // 2) ** 2 + (l - w // 2) ** 2).sqrt() > 0.3 * min(h, w)).to(like.dtype)

    return (mask(k, l) + mask((h - k) % h, (w - l) % w)) / 2


def _low_magnitudes(g: Tensor) -> Tensor:
    h, w = g.shape
    magnitude = torch.fft.rfft2(g).abs()
    return torch.fft.irfft2(magnitude * _even_mask(h, w, magnitude), s=(h, w))


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedFrequencyPenalty(Transform):
    """Subtraction of the low-pass magnitudes without phase."""

    off = {"frequency_penalty": 0.0}

    frequency_penalty: Annotated[float, "[0, inf)"] = 0.05

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        shape = ctx.layout.shape(carry.update)
        if len(shape) != 2 or math.prod(shape) == 0:
            return carry, state
        penalty = ctx.layout.on_whole(_low_magnitudes, carry.update)
        return carry._replace(update=carry.update - self.frequency_penalty * penalty), state
