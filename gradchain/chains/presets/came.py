"""CAME (yangluo7/CAME) and Automagic (ostris/ai-toolkit), the ancestors of CameAMP."""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.transforms import (
    ClipUpdateRMS,
    FactoredConfidence,
    FactoredMeanSquare,
    LearningRate,
    Normalize,
    ResidualMomentum,
    WeightDecay,
)


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
