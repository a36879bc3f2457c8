"""Automagic CameAMP as published: the flat versions in which the README's techniques work (hinablue/sd-scripts).

The keywords of each are those of its version, with its defaults; what that version ignored raises. Two phases: until half of
the warm-up (torque-aware momentum, Grams), and after it (average, Cautious). The mask learns until the end of the warm-up.
``presets.cameamp`` is the form we recommend.
"""

from __future__ import annotations

from typing import Any

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._refusal import refusing
from gradchain.transforms import (
    SPD,
    BlendedGrams,
    Cautious,
    ClipUpdateRMS,
    EdgeGroupAGR,
    Grams,
    GroupAdaDecay,
    GroupAGR,
    GrowingClamp,
    InitialRowScale,
    LaggedSPD,
    LearningRate,
    MatrixL2,
    MeanSquare,
    MultilayerLookahead,
    Normalize,
    OriginSPD,
    OrthogonalGradient,
    Phase,
    PreviousMeanSquare,
    PublishedBackgroundRegularization,
    PublishedConfidence,
    PublishedEdgeHistory,
    PublishedFrequencyPenalty,
    PublishedLRMask,
    PublishedSpatialAwareness,
    SecondAverage,
    Signal,
    TorqueMomentum,
    VarianceFloor,
)
from gradchain.types import Transform

Link = Transform[Any]
Betas = tuple[float, float, float]
Four = tuple[float, float, float, float]


def _half(warmup_steps: int) -> int:
    """The first step that is not below half of the warm-up."""
    return max(1, -(-warmup_steps // 2))


def _until(stop: int, *links: Link) -> list[Link]:
    """The links at work until the step before; none where that is before the first step."""
    return [Phase(link, stop=stop) for link in links] if stop > 1 else []


def _from(start: int, *links: Link) -> list[Link]:
    return [Phase(link, start=start) for link in links]


@refusing("that version kept it and did nothing with it", "eta", "full_finetune")
@refusing("describe() and optimizer.report() tell what happens", "verbose")
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


@refusing("describe() and optimizer.report() tell what happens", "verbose")
def cameamp_original(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: Betas = (0.9, 0.999, 0.9999),
    weight_decay: float = 2.5,
    warmup_steps: int = 500,
    la_layers: int = 3,
    alphas: Four = (0.6, 0.75, 0.85, 0.85),
    ks: tuple[int, int, int, int] = (5, 5, 3, 3),
    full_finetune: bool = False,
) -> Chain:
    """The first CameAMP: no regularizers, SPD in the warm-up, lookahead in layers for as long again."""
    half = _half(warmup_steps)
    spd = SPD(spd_lambda=weight_decay) if full_finetune else OriginSPD(spd_lambda=weight_decay)
    ahead = MultilayerLookahead(la_layers=max(1, la_layers), la_alphas=alphas, la_ks=ks)
    return chain(
        MeanSquare(beta2=betas[1], eps1=eps[0]),
        Normalize(eps=0.0),
        ClipUpdateRMS(d=clip_threshold),
        TorqueMomentum(
            momentum=betas[0],
            beta1_decay=1.0,
            momentum_floor=0.0,
            torque_steps=half,
            torque_beta=betas[0],
            torque_eps=eps[0],
        ),
        PublishedConfidence(beta3=betas[2], early_beta3_steps=1, eps2=eps[1]),
        *_until(half, Grams()),
        *_from(half, Cautious()),
        PublishedLRMask(mask_start=lr, lr_max_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=warmup_steps),
        LearningRate(lr=lr),
        *_until(warmup_steps, spd),
        *([Phase(ahead, start=warmup_steps, stop=2 * warmup_steps)] if la_layers > 0 else []),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose")
def cameamp_adopt(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    betas: Betas = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    weight_decay: float = 1.0,
    warmup_steps: int = 500,
    eta: float = 2.0,
    full_finetune: bool = False,
) -> Chain:
    """CameAMP on ADOPT's scaling, with OrthoGrad in the first half of the warm-up and rows scaled by their first size."""
    half = _half(warmup_steps)
    spd = SPD(spd_lambda=weight_decay) if full_finetune else OriginSPD(spd_lambda=weight_decay)
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        PreviousMeanSquare(beta2=betas[1], eps1=0.0),
        VarianceFloor(floor=1e-12, name="root_floor"),
        Normalize(eps=0.0),
        GrowingClamp(),
        TorqueMomentum(momentum=betas[0], beta1_decay=beta1_decay, torque_steps=half, torque_eps=eps[0]),
        PublishedConfidence(beta3=betas[2], early_beta3_steps=half, eps2=eps[1]),
        *_until(half, Grams()),
        *_from(half, Cautious()),
        *_until(half, OrthogonalGradient(tolerance=0.0)),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=2),
        LearningRate(lr=lr),
        *_until(warmup_steps, spd),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose")
def cameamp_last(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: Betas = (1e-30, 1e-16, 1e-8),
    clip_threshold: float = 1.0,
    betas: Betas = (0.8, 0.99, 0.999),
    eta: float = 2.0,
    beta1_decay: float = 0.9995,
    weight_decay: float = 5e-4,
    warmup_steps: int = 500,
    came: bool = True,
    full_finetune: bool = False,
) -> Chain:
    """The last CameAMP of that name: the second moment of the steps before, Grams that fades, adaptive decay, no SPD."""
    measured = [PreviousMeanSquare(beta2=betas[1], eps1=eps[0]), Normalize(eps=0.0), ClipUpdateRMS(d=clip_threshold)]
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        *(measured if came else [GrowingClamp()]),
        *_fading(betas, beta1_decay, weight_decay, warmup_steps, (eps[0], eps[1]), betas[2]),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=2 if came else 1),
        LearningRate(lr=lr),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose")
def cameamp_ges(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    betas: Betas = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    eta: float = 2.0,
    weight_decay: float = 5e-4,
    warmup_steps: int = 500,
    full_finetune: bool = False,
) -> Chain:
    """CameAMP without a second moment: the gradient itself, clamped, under a confidence as AdaBelief's."""
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        GrowingClamp(),
        *_fading(betas, beta1_decay, weight_decay, warmup_steps, eps, 0.9999),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=1),
        LearningRate(lr=lr),
    )


def _fading(
    betas: Betas, beta1_decay: float, weight_decay: float, warmup_steps: int, eps: tuple[float, float], early_beta3: float
) -> list[Link]:
    """From the momentum to the decay, as the last version has it."""
    half = _half(warmup_steps)
    return [
        TorqueMomentum(momentum=betas[0], beta1_decay=beta1_decay, torque_steps=half, torque_eps=eps[0]),
        *_from(half, SecondAverage(second_beta=betas[0])),
        PublishedConfidence(beta3=betas[2], early_beta3=early_beta3, early_beta3_steps=half, eps2=eps[1]),
        BlendedGrams(grams_decay=beta1_decay),
        *_until(half, OrthogonalGradient(tolerance=0.0), GroupAdaDecay(weight_decay=weight_decay)),
    ]


def _settling_mask(lr: float, min_lr: float, max_lr: float, lr_bump: float, warmup_steps: int, first: int) -> Link:
    """The mask of the later versions, which no schedule can take below a tenth."""
    mask = PublishedLRMask(
        mask_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=warmup_steps, mask_floor=0.1
    )
    return Phase(mask, start=first)
