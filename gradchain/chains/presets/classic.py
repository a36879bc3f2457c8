"""The classics, each equal to its namesake in ``torch.optim`` (Lion: to the paper) to rounding."""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    L2,
    AMSGradMoments,
    CenteredSecondMoment,
    ClipUpdateRMS,
    FactoredSecondMoment,
    InverseTimeDecay,
    LearningRate,
    Lion,
    Moments,
    Momentum,
    NesterovMoments,
    NesterovMomentum,
    Normalize,
    ParameterScale,
    RelativeStep,
    ScaledWeightDecay,
    SecondMoment,
    SumOfSquares,
    WeightDecay,
)
from gradchain.types import ChainError

Betas = tuple[float, float]


@preset
def sgd(
    lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Chain:
    """Gradient descent with heavy-ball or Nesterov momentum, which keeps no buffer while momentum is 0."""
    if nesterov and (momentum == 0 or dampening != 0):
        raise ChainError(
            f"nesterov needs momentum > 0 and dampening = 0; found momentum={momentum!r}, dampening={dampening!r}. "
            "Change these or leave nesterov out."
        )
    ball = NesterovMomentum(momentum=momentum) if nesterov else Momentum(momentum=momentum, dampening=dampening)
    return chain(L2(weight_decay=weight_decay), ball, LearningRate(lr=lr))


@preset
def adam(
    lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False
) -> Chain:
    """Adam, with L2 regularization."""
    moments = AMSGradMoments(betas=betas) if amsgrad else Moments(betas=betas)
    return chain(L2(weight_decay=weight_decay), moments, Normalize(eps=eps), LearningRate(lr=lr))


@preset
def adamw(
    lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False
) -> Chain:
    """Adam with decoupled weight decay."""
    moments = AMSGradMoments(betas=betas) if amsgrad else Moments(betas=betas)
    return chain(moments, Normalize(eps=eps), WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def amsgrad(lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> Chain:
    """Adam with the largest second moment so far: ``adam(amsgrad=True)``."""
    return adam(lr, betas, eps, weight_decay, amsgrad=True)


@preset
def nadam(
    lr: float = 2e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """Adam with Nesterov's momentum."""
    core = (NesterovMoments(betas=betas, momentum_decay=momentum_decay), Normalize(eps=eps))
    if decoupled_weight_decay:
        return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))
    return chain(L2(weight_decay=weight_decay), *core, LearningRate(lr=lr))


@preset
def rmsprop(
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> Chain:
    """Gradients over the root of their average square (centered: of their variance)."""
    second = CenteredSecondMoment(alpha=alpha) if centered else SecondMoment(alpha=alpha)
    core = (second, Normalize(eps=eps), Momentum(momentum=momentum))
    return chain(L2(weight_decay=weight_decay), *core, LearningRate(lr=lr))


@preset
def adagrad(
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0,
    eps: float = 1e-10,
) -> Chain:
    """Gradients over the root of the sum of their squares."""
    return chain(
        L2(weight_decay=weight_decay),
        SumOfSquares(initial_accumulator_value=initial_accumulator_value),
        Normalize(eps=eps),
        InverseTimeDecay(lr_decay=lr_decay),
        LearningRate(lr=lr),
    )


@preset
def lion(lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0) -> Chain:
    """Sign of an interpolated momentum, with decoupled weight decay."""
    return chain(Lion(betas=betas), WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def adafactor(
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
) -> Chain:
    """Factored second moment, clipped update, steps relative to the parameter's scale."""
    return chain(
        FactoredSecondMoment(beta2_decay=beta2_decay, eps1=eps[0]),
        Normalize(eps=0.0),
        ClipUpdateRMS(d=d),
        ParameterScale(eps2=eps[1]),
        RelativeStep(lr=lr),
        ScaledWeightDecay(weight_decay=weight_decay),
    )
