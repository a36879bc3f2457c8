"""Laplacian smoothing of gradients: the gradient as it would be after one implicit step of diffusion along the parameter.

    solve (I - sigma D) x = g,   D the circulant [1, -2, 1] of the flattened gradient;   update <- x
    x^_k = g^_k / (1 + 4 sigma sin^2(pi k / n))                                            (discrete Fourier transform)

Constants and sums are kept, white noise is damped to (1 + 2 sigma) / (1 + 4 sigma)^1.5 of its variance.

Reads    update.   Writes  update.   State  none.   Cost  2 Fourier transforms.
Shapes   any, flattened; fewer than 2 elements pass through.   Units  those of the gradient; sigma is a pure number.
Place    before the moments.
Fields   sigma: strength, >= 0.
Raises   ChainError if sigma is negative.
Source   Osher et al., Laplacian Smoothing Gradient Descent, arXiv 1806.06317.
Differs  the authors' code transforms the impulse [-2, 1, 0, ..., 1], which for n = 2 halves constants and for n = 1 divides by
         1 - sigma. As there, the end of a row of a matrix is the neighbor of the next row's start.
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
class LaplacianSmoothing(Transform):
    """Implicit diffusion of the gradient."""

    sigma: Annotated[float, "[0, inf)"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        def smoothed(g: Tensor) -> Tensor:
            n = g.numel()
            k = torch.arange(n // 2 + 1, device=g.device, dtype=g.dtype)
            damping = 1 + 4 * self.sigma * torch.sin(torch.pi * k / n).square()
            return torch.fft.irfft(torch.fft.rfft(g.flatten()) / damping, n=n).reshape(g.shape)

        if math.prod(ctx.layout.shape(carry.update)) < 2:
            return carry, state
        return carry._replace(update=ctx.layout.on_whole(smoothed, carry.update)), state
