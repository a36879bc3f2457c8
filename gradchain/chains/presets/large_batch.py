"""Optimizers for large batches and large models, each one link away from a classic."""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    LARS,
    ClipNormalizedRMS,
    LearningRate,
    Moments,
    Momentum,
    NesterovMomentum,
    Normalize,
    TrustRatio,
    WeightDecay,
)

Betas = tuple[float, float]


@preset
def lamb(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    weight_norm_range: tuple[float, float] = (0.0, float("inf")),
) -> Chain:
    """AdamW whose step on each tensor is as long as the tensor, times lr."""
    core = (Moments(betas=betas), Normalize(eps=eps), WeightDecay(weight_decay=weight_decay))
    return chain(*core, TrustRatio(weight_norm_range=weight_norm_range), LearningRate(lr=lr))


@preset
def lars(
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    trust_coefficient: float = 1e-3,
    nesterov: bool = False,
) -> Chain:
    """Gradient descent with a learning rate for each tensor from its norm and that of its gradient."""
    sums = NesterovMomentum(momentum=momentum) if nesterov else Momentum(momentum=momentum)
    return chain(LARS(trust_coefficient=trust_coefficient, weight_decay=weight_decay), sums, LearningRate(lr=lr))


@preset
def stable_adamw(lr: float = 1e-3, betas: Betas = (0.9, 0.99), eps: float = 1e-6, weight_decay: float = 0.01) -> Chain:
    """AdamW that steps less where gradients surge."""
    core = (Moments(betas=betas), Normalize(eps=eps), WeightDecay(weight_decay=weight_decay))
    return chain(*core, ClipNormalizedRMS(rms_eps=eps), LearningRate(lr=lr))
