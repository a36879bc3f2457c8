"""Automagic CameAMP as published: the flat versions in which the README's techniques work (hinablue/sd-scripts).

The keywords of each are those of its version, with its defaults; what that version ignored raises. Two phases: until half of
the warm-up (torque-aware momentum, Grams), and after it (average, Cautious). The mask learns until the end of the warm-up.
``presets.cameamp`` is the form we recommend.
"""

from __future__ import annotations

from typing import Any

from gradchain.chains.chain import Chain, chain
from gradchain.transforms import (
    Cautious,
    ClipUpdateRMS,
    EdgeGroupAGR,
    Grams,
    GroupAGR,
    LaggedSPD,
    LearningRate,
    MatrixL2,
    MeanSquare,
    Normalize,
    OrthogonalGradient,
    Phase,
    PublishedBackgroundRegularization,
    PublishedConfidence,
    PublishedEdgeHistory,
    PublishedFrequencyPenalty,
    PublishedLRMask,
    PublishedSpatialAwareness,
    Signal,
    TorqueMomentum,
)
from gradchain.types import Transform

Link = Transform[Any]
Betas = tuple[float, float, float]


def _half(warmup_steps: int) -> int:
    """The first step that is not below half of the warm-up."""
    return max(1, -(-warmup_steps // 2))


def _until(stop: int, *links: Link) -> list[Link]:
    """The links at work until the step before; none where that is before the first step."""
    return [Phase(link, stop=stop) for link in links] if stop > 1 else []


def _from(start: int, *links: Link) -> list[Link]:
    return [Phase(link, start=start) for link in links]


def cameamp_improved(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float, float] = (1e-30, 1e-16, 1e-8),
    clip_threshold: float = 1.0,
    betas: Betas = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    weight_decay: float = 5e-4,
    warmup_steps: int = 500,
    edge_threshold: float = 0.6,
    came: bool = True,
    edge_suppression: bool = True,
    edge_penalty: float = 0.1,
    background_regularization: bool = True,
    spatial_awareness: bool = True,
    frequency_penalty: float = 0.05,
    detail_preservation: float = 0.8,
    lora_rank_penalty: bool = True,
    rank_penalty_strength: float = 0.01,
    low_rank_emphasis: float = 1.2,
    orthogonal: bool = False,
) -> Chain:
    """CameAMP "improved", the version in which all that the README lists works; orthogonal adds OrthoGrad, as its successor."""
    half = _half(warmup_steps)
    agr = EdgeGroupAGR(edge_penalty=edge_penalty, edge_threshold=edge_threshold) if edge_suppression else GroupAGR()
    frequency = [PublishedFrequencyPenalty(frequency_penalty=frequency_penalty)] if spatial_awareness else []
    rank = [MatrixL2(rank_penalty_strength=rank_penalty_strength)] if lora_rank_penalty else []
    second = [MeanSquare(eps1=eps[0]), Normalize(eps=0.0), ClipUpdateRMS(d=clip_threshold)] if came else []
    edges = [PublishedEdgeHistory(edge_history_penalty=edge_penalty)] if edge_suppression else []
    background = [PublishedBackgroundRegularization()] if background_regularization else []
    return chain(
        agr,
        *frequency,
        *rank,
        Signal(),
        *second,
        TorqueMomentum(
            momentum=betas[0],
            beta1_decay=beta1_decay,
            torque_steps=half,
            torque_emphasis=low_rank_emphasis if lora_rank_penalty else 1.0,
            torque_eps=eps[0],
        ),
        PublishedConfidence(beta3=betas[2], early_beta3_steps=half, eps2=eps[1]),
        *_until(half, *([OrthogonalGradient(tolerance=0.0)] if orthogonal else []), Grams(), *edges),
        *_from(half, Cautious(), *background),
        *([PublishedSpatialAwareness(detail_preservation=detail_preservation)] if spatial_awareness else []),
        PublishedLRMask(mask_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=warmup_steps),
        LearningRate(lr=lr),
        *_until(warmup_steps, LaggedSPD(spd_lambda=weight_decay, rank_rate=0.1 if lora_rank_penalty else 0.0)),
    )
