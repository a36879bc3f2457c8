"""The LAdam family: Laplacian smoothing of the variance, the update or the weights (ladam, PyPI).

``decay="coupled"`` is the weight decay of releases 0.2.0 to 0.4.0 (L2), ``"decoupled"`` that of 0.4.1.
``published=True`` gives the program as shipped: a floor of eps under the smoothed variance, no upper limit on c2, and the
wave variance with its published sign.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    L2,
    FirstMoment,
    InverseTimeDecay,
    Laplacian,
    LearningRate,
    Moments,
    Momentum,
    Normalize,
    PublishedWaveVariance,
    SecondMoment,
    SumOfSquares,
    UpdateLaplacian,
    VarianceFloor,
    WaveVariance,
    WeightDecay,
    WeightDiffusion,
)
from gradchain.types import ChainError, Transform

Betas = tuple[float, float]
Mode = Literal["variance_lap", "update_lap", "weight_lap", "wave_variance"]
Decay = Literal["decoupled", "coupled"]
Stencil = Literal["9point", "5point"]


def _finish(core: list[Transform[Any]], lr: float, weight_decay: float, decay: Decay) -> Chain:
    """The chain with weight decay in its place and the learning rate at the end."""
    if decay == "coupled":
        return chain(L2(weight_decay=weight_decay), *core, LearningRate(lr=lr))
    if decay == "decoupled":
        return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))
    raise ChainError(f"decay must be 'decoupled' or 'coupled'; found {decay!r}. Pass one of these.")


@preset
def ladam(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    c2: float = 1e-4,
    mode: Mode = "variance_lap",
    stencil: Stencil = "9point",
    min_spatial_size: int = 16,
    wave_dt: float = 0.1,
    wave_kappa: float = 0.1,
    wave_E0: float = 0.0,
    wave_damping: float = 0.5,
    decay: Decay = "decoupled",
    published: bool = False,
) -> Chain:
    """Adam with Laplacian smoothing of the variance (or the update, or the weights), or with a wave for a variance."""
    if mode not in get_args(Mode):
        raise ChainError(f"mode must be one of {', '.join(map(repr, get_args(Mode)))}; found {mode!r}. Pass one of these.")
    moments, normalize = Moments(betas=betas), Normalize(eps=eps)
    if mode == "wave_variance":
        shape = (wave_dt, wave_kappa, wave_damping, c2, stencil, min_spatial_size)
        wave = _published_wave(*shape, wave_E0, eps) if published else _wave(*shape)
        return _finish([wave, FirstMoment(momentum=betas[0]), normalize], lr, weight_decay, decay)
    smoothing = {"variance_lap": Laplacian, "update_lap": UpdateLaplacian, "weight_lap": WeightDiffusion}[mode]
    smooth = smoothing(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=not published)
    if mode == "weight_lap":
        return _finish([moments, normalize], lr, weight_decay, decay).insert_after("learning_rate", smooth)
    if mode == "update_lap":
        return _finish([moments, normalize, smooth], lr, weight_decay, decay)
    floor = [VarianceFloor(floor=eps, floor_min_size=min_spatial_size)] if published and c2 > 0 else []
    return _finish([moments, smooth, *floor, normalize], lr, weight_decay, decay)


def _wave(dt: float, kappa: float, damping: float, c2: float, stencil: Stencil, smallest: int) -> WaveVariance:
    return WaveVariance(wave_dt=dt, wave_kappa=kappa, wave_damping=damping, c2=c2, stencil=stencil, min_spatial_size=smallest)


def _published_wave(
    dt: float, kappa: float, damping: float, c2: float, stencil: Stencil, smallest: int, energy: float, floor: float
) -> PublishedWaveVariance:
    return PublishedWaveVariance(
        wave_dt=dt,
        wave_kappa=kappa,
        wave_damping=damping,
        wave_E0=energy,
        wave_floor=floor,
        c2=c2,
        stencil=stencil,
        min_spatial_size=smallest,
    )


@preset
def ladagrad(
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    c2: float = 1e-4,
    stencil: Stencil = "9point",
    min_spatial_size: int = 16,
    decay: Decay = "decoupled",
    published: bool = False,
) -> Chain:
    """Adagrad with Laplacian smoothing of the sum of squares."""
    smooth = Laplacian(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=not published)
    core: list[Transform[Any]] = [SumOfSquares(), smooth, Normalize(eps=eps), InverseTimeDecay(lr_decay=lr_decay)]
    return _finish(core, lr, weight_decay, decay)


@preset
def lrmsprop(
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    c2: float = 1e-4,
    stencil: Stencil = "9point",
    min_spatial_size: int = 16,
    decay: Decay = "decoupled",
    published: bool = False,
) -> Chain:
    """RMSprop with Laplacian smoothing of the average square."""
    smooth = Laplacian(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=not published)
    core: list[Transform[Any]] = [SecondMoment(alpha=alpha), smooth, Normalize(eps=eps), Momentum(momentum=momentum)]
    return _finish(core, lr, weight_decay, decay)
