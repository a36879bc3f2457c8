"""The LAdam family: Laplacian smoothing of the variance, the update or the weights (ladam, PyPI).

``decay="coupled"`` is the weight decay of releases 0.2.0 to 0.4.0 (L2), ``"decoupled"`` that of 0.4.1.
``published=True`` gives the program as shipped: a floor of eps under the smoothed variance, no upper limit on c2, and the
wave variance with its published sign.
"""

from __future__ import annotations

from typing import Literal

from gradchain.chains.chain import Chain, chain
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


def _finish(core: list[Transform], lr: float, weight_decay: float, decay: Decay) -> Chain:
    """The chain with weight decay in its place and the learning rate at the end."""
    if decay == "coupled":
        return chain(L2(weight_decay=weight_decay), *core, LearningRate(lr=lr))
    if decay == "decoupled":
        return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))
    raise ChainError(f"decay must be 'decoupled' or 'coupled'; found {decay!r}. Pass one of these.")


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
    modes = ("variance_lap", "update_lap", "weight_lap", "wave_variance")
    if mode not in modes:
        raise ChainError(f"mode must be one of {', '.join(map(repr, modes))}; found {mode!r}. Pass one of these.")
    bounded = not published
    moments, normalize = Moments(betas=betas), Normalize(eps=eps)
    core: list[Transform] = [moments, normalize]
    if mode == "variance_lap":
        smooth = Laplacian(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=bounded)
        floor = [VarianceFloor(floor=eps, floor_min_size=min_spatial_size)] if published and c2 > 0 else []
        core = [moments, smooth, *floor, normalize]
    elif mode == "update_lap":
        core += [UpdateLaplacian(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=bounded)]
    elif mode == "wave_variance":
        shape = dict(wave_dt=wave_dt, wave_kappa=wave_kappa, wave_damping=wave_damping, c2=c2)
        where = dict(stencil=stencil, min_spatial_size=min_spatial_size)
        if published:
            wave = PublishedWaveVariance(**shape, **where, wave_E0=wave_E0, wave_floor=eps)  # pyright: ignore
        else:
            wave = WaveVariance(**shape, **where)  # pyright: ignore
        core = [wave, FirstMoment(momentum=betas[0]), normalize]
    whole = _finish(core, lr, weight_decay, decay)
    if mode == "weight_lap":
        diffusion = WeightDiffusion(c2=c2, stencil=stencil, min_spatial_size=min_spatial_size, bounded=bounded)
        return whole.insert_after("learning_rate", diffusion)
    return whole


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
    core: list[Transform] = [SumOfSquares(), smooth, Normalize(eps=eps), InverseTimeDecay(lr_decay=lr_decay)]
    return _finish(core, lr, weight_decay, decay)


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
    ball: list[Transform] = [Momentum(momentum=momentum)] if momentum != 0 else []
    return _finish([SecondMoment(alpha=alpha), smooth, Normalize(eps=eps), *ball], lr, weight_decay, decay)
