"""Adam with a relativistic speed limit (relativistic-adam, PyPI).

``published=True`` gives the program as shipped: bias correction in the step size, its discontinuous profile, "global" per
tensor, and AdamW's decay after the step, outside the limit.
"""

from __future__ import annotations

from typing import Any, Literal

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    L2,
    AMSGradMoments,
    ComponentSpeedLimit,
    GlobalSpeedLimit,
    LargestSecondMoment,
    LearningRate,
    Moments,
    Normalize,
    SpeedLimit,
    StepCorrectedMoments,
    WeightDecay,
    WeightDecayAfterStep,
)
from gradchain.types import ChainError, Transform

Betas = tuple[float, float]
Mode = Literal["per_param", "per_component", "global"]
Profile = Literal["lorentz", "tanh", "hard"]
LIMITS = {"per_param": SpeedLimit, "per_component": ComponentSpeedLimit, "global": GlobalSpeedLimit}


def _core(betas: Betas, eps: float, amsgrad: bool, published: bool) -> list[Transform[Any]]:
    if published:
        largest = [LargestSecondMoment()] if amsgrad else []
        return [StepCorrectedMoments(betas=betas), *largest, Normalize(eps=eps)]
    return [AMSGradMoments(betas=betas) if amsgrad else Moments(betas=betas), Normalize(eps=eps)]


def _limit(speed_limit: float, mode: Mode, warmup: int, profile: Profile, published: bool) -> Transform[Any]:
    if mode not in LIMITS:
        raise ChainError(f"relativistic_mode must be one of {', '.join(map(repr, LIMITS))}; found {mode!r}. Pass one of these.")
    kind = SpeedLimit if published and mode == "global" else LIMITS[mode]
    return kind(speed_limit=speed_limit, speed_profile="published" if published else profile, speed_warmup_steps=warmup)


@preset
def relativistic_adam(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    speed_limit: float = 0.1,
    relativistic_mode: Mode = "per_param",
    adaptive_speed: bool = False,
    speed_warmup_steps: int = 1000,
    profile: Profile = "lorentz",
    published: bool = False,
) -> Chain:
    """Adam whose step is kept below a speed limit, with L2 regularization."""
    limit = _limit(speed_limit, relativistic_mode, speed_warmup_steps if adaptive_speed else 0, profile, published)
    return chain(L2(weight_decay=weight_decay), *_core(betas, eps, amsgrad, published), LearningRate(lr=lr), limit)


@preset
def relativistic_adamw(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    speed_limit: float = 0.1,
    relativistic_mode: Mode = "per_param",
    adaptive_speed: bool = False,
    speed_warmup_steps: int = 1000,
    profile: Profile = "lorentz",
    published: bool = False,
) -> Chain:
    """Adam whose step, decoupled decay included, is kept below a speed limit."""
    limit = _limit(speed_limit, relativistic_mode, speed_warmup_steps if adaptive_speed else 0, profile, published)
    core = _core(betas, eps, amsgrad, published)
    if published:
        return chain(*core, LearningRate(lr=lr), limit, WeightDecayAfterStep(weight_decay=weight_decay))
    return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr), limit)
