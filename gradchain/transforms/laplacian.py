"""Laplacian smoothing over neighbouring elements: LAdam's diffusion of the variance, the update or the weights.

    Laplacian        second_moment <- max(second_moment + c2 D second_moment, 0)
    UpdateLaplacian  update        <- update + c2 D update
    WeightDiffusion  update        <- update - c2 D (param - update)          that is, w <- w + c2 D w after the step

D is the periodic 5- or 9-point Laplacian of the parameter seen as a matrix (first dimension, all others), in one
dimension the second difference. For c2 << 1 the smoothed variance acts as an eps relative to the neighbours.

Reads    the slot it smooths (WeightDiffusion: update, param).   Writes  that slot (WeightDiffusion: update).   State  none.
Cost     10 reads, 1 write.
Shapes   any; unchanged: 0-d, empty, below min_spatial_size elements, below 4 elements in 1-D, an extent below 3 in 2-D.
Units    c2 is a pure number per step.
Place    Laplacian after the moments, before Normalize; UpdateLaplacian after Normalize, before decay; WeightDiffusion last.
Fields   c2: strength, in [0, 0.3] for "9point", [0, 0.25] for "5point": up to there smoothing is a convex combination,
         so a variance stays a variance; stencil; min_spatial_size: fewest elements of a parameter that is smoothed, >= 0;
         bounded: False lifts the upper limit on c2, for replaying the published program with a VarianceFloor behind.
Raises   ChainError if c2 is outside its range, the stencil unknown, min_spatial_size negative.
Source   ladam 0.4.1 (PyPI); the smoothing of the variance only, as its authors' benchmark scripts have it.
Differs  the package floors the smoothed variance at eps (here a link of its own, VarianceFloor), takes any c2, decides once
         whether to smooth when the state is made, crashes on 0-d, and diffuses weights also at lr = 0, where we do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from typing_extensions import override

from gradchain.transforms._stencil import LARGEST_C2, Stencil, laplacian
from gradchain.types import Carry, ChainError, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class _Smoothing(Transform):
    off = {"c2": 0.0}

    c2: Annotated[float, "[0, inf)"] = 1e-4
    stencil: Stencil = "9point"
    min_spatial_size: Annotated[int, "[0, inf)"] = 16
    bounded: bool = True

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        largest = LARGEST_C2[self.stencil]
        if self.bounded and isinstance(self.c2, float) and self.c2 > largest:
            raise ChainError(
                f"{self.label!r}: c2 must be in [0, {largest}] for the {self.stencil} stencil, beyond which smoothing makes "
                f"negative variances; found {self.c2!r}. Use a smaller c2 (1e-5 to 1e-2 are usual), or bounded=False with a "
                "VarianceFloor behind it to replay the published program."
            )

    def applies(self, x: Tensor, ctx: Context) -> bool:
        return math.prod(ctx.layout.shape(x)) >= self.min_spatial_size


@dataclass(frozen=True, kw_only=True, repr=False)
class Laplacian(_Smoothing):
    """Smoothing of the second moment."""

    reads = frozenset({"second_moment"})
    writes = frozenset({"second_moment"})

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        v = carry.second_moment
        if not self.applies(v, ctx):
            return carry, state
        smoothed = v + self.c2 * laplacian(v, ctx.layout, self.stencil)
        return carry._replace(second_moment=smoothed.clamp(min=0)), state


@dataclass(frozen=True, kw_only=True, repr=False)
class UpdateLaplacian(_Smoothing):
    """Smoothing of the update."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u = carry.update
        if not self.applies(u, ctx):
            return carry, state
        return carry._replace(update=u + self.c2 * laplacian(u, ctx.layout, self.stencil)), state


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightDiffusion(_Smoothing):
    """Diffusion of the weights that the step arrives at."""

    reads = frozenset({"update", "param"})

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        w = carry.param - carry.update
        if not self.applies(w, ctx):
            return carry, state
        c2 = self.c2 * (ctx.lr != 0).to(ctx.lr.dtype)  # a step at lr = 0 changes no parameter
        return carry._replace(update=carry.update - c2 * laplacian(w, ctx.layout, self.stencil)), state
