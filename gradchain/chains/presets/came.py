"""CAME (yangluo7/CAME) and Automagic (ostris/ai-toolkit), the ancestors of CameAMP.

``automagic(published=True)`` gives the program as shipped: a mask in 8 bits that heeds no schedule.
"""

from __future__ import annotations

from typing import Any

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import checking, preset
from gradchain.chains.presets._refusal import refusing
from gradchain.transforms import (
    ApplyScale,
    ClipUpdateRMS,
    FactoredConfidence,
    FactoredMeanSquare,
    Int8LRMask,
    LearningRate,
    LRMask,
    Normalize,
    ResidualMomentum,
    WeightDecay,
)
from gradchain.types import Transform

NEVER = 2**62  # a warm-up longer than any run


@preset
@checking
def came(
    lr: float = 2e-4,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    weight_decay: float = 0.0,
) -> Chain:
    """Factored second moment, momentum, and a factored confidence in it; without bias correction, so warm it up."""
    return chain(
        FactoredMeanSquare(beta2=betas[1], eps1=eps[0]),
        Normalize(eps=0.0),
        ClipUpdateRMS(d=clip_threshold),
        ResidualMomentum(momentum=betas[0]),
        FactoredConfidence(beta3=betas[2], eps2=eps[1]),
        WeightDecay(weight_decay=weight_decay),
        LearningRate(lr=lr),
    )


@refusing(
    "which parameters train is the trainer's to choose, by their gradients",
    "do_paramiter_swapping",
    "paramiter_swapping_factor",
    harmless={"do_paramiter_swapping": False},
    switch="do_paramiter_swapping",
)
@preset
@checking
def automagic(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 1e-6,
    eps: float | tuple[float, float] = 1e-30,
    clip_threshold: float = 1.0,
    beta2: float = 0.999,
    weight_decay: float = 0.0,
    published: bool = False,
) -> Chain:
    """Factored second moment, and a learning rate per element that rises while the gradient keeps its sign.

    eps: added to the squares; of two numbers, which the program takes, the first: it does nothing with the second.
    """
    bounds: dict[str, Any] = {"lr_bump": lr_bump, "min_lr": min_lr, "max_lr": max_lr}
    start = 1e-6 if isinstance(lr, float) and lr > 1e-3 else lr  # as the program has it
    masks: tuple[Transform[Any], ...] = (LRMask(**bounds, warmup_steps=NEVER), ApplyScale())
    return chain(
        FactoredMeanSquare(beta2=beta2, eps1=eps[0] if isinstance(eps, tuple) else eps),
        Normalize(eps=0.0),
        ClipUpdateRMS(d=clip_threshold),
        WeightDecay(weight_decay=weight_decay),
        *([Int8LRMask(**bounds, mask_start=start)] if published else masks),
        LearningRate(lr=lr),
    )
