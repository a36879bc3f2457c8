"""Optimizers without a schedule: the average of the way is the result (Defazio et al., arXiv 2405.15682).

Call ``optimizer.eval()`` before evaluation and saving the model, and ``optimizer.train()`` before training goes on.
"""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import preset
from gradchain.transforms import L2, CorrectedSecondMoment, LearningRate, Normalize, ScheduleFree, WeightDecay

Betas = tuple[float, float]


@preset
def schedule_free_adamw(
    lr: float = 2.5e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """AdamW whose momentum is the interpolation between a fast point and the average of its way."""
    free = ScheduleFree(momentum=betas[0], r=r, weight_lr_power=weight_lr_power, warmup_steps=warmup_steps)
    core = (CorrectedSecondMoment(beta2=betas[1]), Normalize(eps=eps))
    return chain(*core, WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr), free)


@preset
def schedule_free_sgd(
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> Chain:
    """Gradient descent whose momentum is the interpolation between a fast point and the average of its way."""
    free = ScheduleFree(momentum=momentum, r=r, weight_lr_power=weight_lr_power, warmup_steps=warmup_steps)
    return chain(L2(weight_decay=weight_decay), LearningRate(lr=lr), free)
