"""Optimizers as single papers propose them, each one link or two away from a classic."""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import (
    ADOPT,
    SPD,
    TAM,
    Cautious,
    Grams,
    LearningRate,
    Moments,
    Normalize,
    StepCorrectedMoments,
    WeightDecay,
)

Betas = tuple[float, float]


@preset
def c_adamw(lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0) -> Chain:
    """Cautious AdamW, with eps in the authors' place."""
    core = (StepCorrectedMoments(betas=betas), Normalize(eps=eps), Cautious())
    return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def grams(lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-6, weight_decay: float = 0.0) -> Chain:
    """Adam's step sizes with the gradient's signs, with eps in the authors' place."""
    core = (StepCorrectedMoments(betas=betas), Normalize(eps=eps), Grams())
    return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def adopt(lr: float = 1e-3, betas: Betas = (0.9, 0.9999), eps: float = 1e-6, weight_decay: float = 0.0) -> Chain:
    """Adam with the second moment of the steps before, with decoupled weight decay."""
    return chain(ADOPT(betas=betas, adopt_eps=eps), WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def adatam(
    lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0, decay_rate: float = 0.9
) -> Chain:
    """AdamW on gradients damped by their angle to the momentum."""
    core = (TAM(tam_beta=betas[0], tam_decay=decay_rate), Moments(betas=betas), Normalize(eps=eps))
    return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@preset
def adam_spd(lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, spd_lambda: float = 0.5) -> Chain:
    """Adam with selective projection decay towards the start."""
    return chain(Moments(betas=betas), Normalize(eps=eps), LearningRate(lr=lr), SPD(spd_lambda=spd_lambda))
