"""Wave variance: a second moment that follows a damped wave equation instead of an average.

    WaveVariance           v+ = max(v + (1 - d)(v - v-) + dt^2 (k (g^2 - v) + c2 D v), 0)              relaxes to g^2
    PublishedWaveVariance  v+ = max((2 - d) v - (1 - d) v- + dt^2 (-k (g^2 - E^2) + c2 D v), floor)
    second_moment <- v+;   on the first step v = g^2 (published: at least floor)

D is the periodic Laplacian of laplacian.py; v- is the v of the step before; E^2 is wave_E0^2, or where that is 0 the mean
of g^2 on the first step.

Reads    update.   Writes  second_moment.   State  current, previous: like the parameter; published: energy, 0-d.
Cost     12 reads, 3 writes.
Shapes   any; D as in laplacian.py; a v that overflows stays infinite.   Units  those of the gradient, squared.
Place    before FirstMoment (it reads the gradient) and Normalize.
Fields   wave_dt (dt): time step, > 0; wave_kappa (k): pull, >= 0; wave_damping (d): in (0, 1]; c2: >= 0; stencil;
         min_spatial_size; published: wave_E0: >= 0; wave_floor: smallest v, >= 0.
Raises   ChainError if a field is out of range, or if dt^2 (k + c2 L) > 2 (2 - d), L = 16/3 or 8 the largest eigenvalue of -D,
         beyond which WaveVariance oscillates without bound.
Source   ladam 0.4.1 (PyPI), mode wave_variance. The sign in WaveVariance is the one its documentation describes.
Differs  as published, gradients above E lower the variance, so that steps grow without bound. wave_E0="auto" raises there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._stencil import Stencil, laplacian
from gradchain.types import Carry, ChainError, Context, Transform

EIGENVALUE = {"9point": 16 / 3, "5point": 8.0}


def _unbounded(v: Tensor) -> Tensor:
    """Differences of what has overflowed, NaN, as infinite."""
    return torch.where(v.isnan(), torch.inf, v)


class WaveState(NamedTuple):
    current: Tensor
    previous: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class WaveVariance(Transform[WaveState]):
    """Second moment as a damped wave that relaxes to the squared gradient."""

    State = WaveState
    writes = frozenset({"second_moment"})

    wave_dt: Annotated[float, "(0, inf)"] = 0.1
    wave_kappa: Annotated[float, "[0, inf)"] = 0.1
    wave_damping: Annotated[float, "(0, 1]"] = 0.5
    c2: Annotated[float, "[0, inf)"] = 1e-4
    stencil: Stencil = "9point"
    min_spatial_size: Annotated[int, "[0, inf)"] = 16

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = (self.wave_dt, self.wave_kappa, self.wave_damping, self.c2)
        if all(isinstance(n, float) for n in numbers):
            pull = self.wave_dt**2 * (self.wave_kappa + self.c2 * EIGENVALUE[self.stencil])
            if pull > 2 * (2 - self.wave_damping):
                raise ChainError(
                    f"{self.label!r}: wave_dt^2 (wave_kappa + c2 {EIGENVALUE[self.stencil]:.4g}) must be at most "
                    f"2 (2 - wave_damping) = {2 * (2 - self.wave_damping):g} for a stable wave; found {pull:g}. "
                    "Lower wave_dt, wave_kappa or c2."
                )

    @override
    def init(self, param: Tensor) -> WaveState:
        return WaveState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: WaveState, ctx: Context) -> tuple[Carry, WaveState]:
        q, v, d = carry.update * carry.update, state.current, self.wave_damping
        pull = self.wave_kappa * (q - v)
        if math.prod(ctx.layout.shape(v)) >= self.min_spatial_size:
            pull = pull + self.c2 * laplacian(v, ctx.layout, self.stencil)
        moved = _unbounded(v + (1 - d) * (v - state.previous) + self.wave_dt**2 * pull)
        first = ctx.step == 1
        new = torch.where(first, q, moved.clamp(min=0))
        return carry._replace(second_moment=new), WaveState(new, torch.where(first, q, v))


class PublishedWaveState(NamedTuple):
    current: Tensor
    previous: Tensor
    energy: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedWaveVariance(Transform[PublishedWaveState]):
    """Second moment as ladam 0.4.1 runs it, driven away from the squared gradient."""

    State = PublishedWaveState
    writes = frozenset({"second_moment"})

    wave_dt: Annotated[float, "(0, inf)"] = 0.1
    wave_kappa: Annotated[float, "[0, inf)"] = 0.1
    wave_E0: Annotated[float, "[0, inf)"] = 0.0
    wave_damping: Annotated[float, "[0, 2)"] = 0.5
    wave_floor: Annotated[float, "[0, inf)"] = 1e-8
    c2: Annotated[float, "[0, inf)"] = 1e-4
    stencil: Stencil = "9point"
    min_spatial_size: Annotated[int, "[0, inf)"] = 16

    @override
    def init(self, param: Tensor) -> PublishedWaveState:
        return PublishedWaveState(torch.zeros_like(param), torch.zeros_like(param), param.new_zeros(()))

    @override
    def update(self, carry: Carry, state: PublishedWaveState, ctx: Context) -> tuple[Carry, PublishedWaveState]:
        q, v, d = carry.update * carry.update, state.current, self.wave_damping
        first = ctx.step == 1
        given = ctx.layout.mean(q) * (self.wave_E0 == 0) + self.wave_E0**2
        energy = torch.where(first, given, state.energy).to(state.energy.dtype)
        pull = -self.wave_kappa * (q - energy)
        if math.prod(ctx.layout.shape(v)) >= self.min_spatial_size:
            pull = pull + self.c2 * laplacian(v, ctx.layout, self.stencil)
        moved = _unbounded((2 - d) * v - (1 - d) * state.previous + self.wave_dt**2 * pull)
        new = torch.where(first, q, moved).clamp(min=self.wave_floor)
        return carry._replace(second_moment=new), PublishedWaveState(new, torch.where(first, new, v), energy)
