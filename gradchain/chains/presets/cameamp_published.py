"""Automagic CameAMP as published: the "improved" version, in which what the README lists works (hinablue/sd-scripts, 71ec380).

The keywords are those of the program, with its defaults. Two phases: until half of the warm-up torque-aware momentum and Grams,
after it an average and Cautious; the mask learns until the end of the warm-up. ``presets.cameamp`` is the form we recommend.
"""

from __future__ import annotations

from typing import Annotated

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import checking, preset
from gradchain.chains.presets._phases import half_of, since, until, when
from gradchain.chains.presets._refusal import refusing
from gradchain.transforms import (
    Cautious,
    ClipUpdateRMS,
    DifferencePenalty,
    DirectedLRMask,
    DualMomentum,
    EdgeGroupAGR,
    Grams,
    GroupAGR,
    LaggedSPD,
    LearningRate,
    MatrixL2,
    MeanSquare,
    Normalize,
    OrthogonalGradient,
    PublishedBackgroundRegularization,
    PublishedConfidence,
    PublishedEdgeHistory,
    PublishedFrequencyPenalty,
    PublishedLRMask,
    PublishedSpatialAwareness,
    ScaledClipUpdateRMS,
    Signal,
    TorqueMomentum,
    UphillSPD,
)

Betas = tuple[float, float, float]
Steps = Annotated[int, "[0, inf)"]
UNUSED = {"eta": 2.0, "full_finetune": False}
NO_RANK = {"lora_rank_penalty": False}
BROKEN = ("lora_rank_penalty", "rank_penalty_strength", "low_rank_emphasis", "use_approximate_svd")


@refusing("that version kept it and did nothing with it", "eta", "full_finetune", harmless=UNUSED)
@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@preset
@checking
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
    warmup_steps: Steps = 500,
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
    half = half_of(warmup_steps)
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
        *until(half, *([OrthogonalGradient(tolerance=0.0)] if orthogonal else []), Grams(), *edges),
        *since(half, Cautious(), *background),
        *([PublishedSpatialAwareness(detail_preservation=detail_preservation)] if spatial_awareness else []),
        PublishedLRMask(mask_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=max(1, warmup_steps)),
        LearningRate(lr=lr),
        *until(warmup_steps, LaggedSPD(spd_lambda=weight_decay, rank_rate=0.1 if lora_rank_penalty else 0.0)),
    )


@refusing("that version kept it and did nothing with it", "eta", "full_finetune", harmless=UNUSED)
@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@refusing("its torque on LoRA's matrices grows without bound", *BROKEN, harmless=NO_RANK, switch="lora_rank_penalty")
@refusing("without dual momentum, take cameamp_improved", "enable_dual_momentum", harmless={"enable_dual_momentum": True})
@refusing("nothing is cached here", "enable_cache", "max_cache_size")
@preset
@checking
def cameamp_dual(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float, float] = (1e-30, 1e-16, 1e-8),
    clip_threshold: float = 1.0,
    betas: Betas = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    weight_decay: float = 5e-4,
    warmup_steps: Steps = 500,
    edge_threshold: float = 0.6,
    came: bool = True,
    edge_suppression: bool = True,
    edge_penalty: float = 0.1,
    background_regularization: bool = True,
    spatial_awareness: bool = True,
    frequency_penalty: float = 0.05,
    detail_preservation: float = 0.8,
    long_term_beta: float = 0.99,
    alpha_mix_ratio: float | None = None,
    d_coef: float = 2.0,
) -> Chain:
    """CameAMP "improved" with dual momentum and OrthoGrad, without its rank penalty."""
    half = max(1, warmup_steps // 2)
    agr = EdgeGroupAGR(edge_penalty=edge_penalty, edge_threshold=edge_threshold, edge_matrices_only=True)
    edges = PublishedEdgeHistory(edge_history_penalty=edge_penalty, edge_history_matrices_only=True)
    return chain(
        agr if edge_suppression else GroupAGR(),
        *when(spatial_awareness, DifferencePenalty(frequency_penalty=frequency_penalty)),
        Signal(),
        *when(came, MeanSquare(eps1=eps[0]), Normalize(eps=0.0), ScaledClipUpdateRMS(d=clip_threshold)),
        DualMomentum(
            momentum=betas[0],
            beta1_decay=beta1_decay,
            dual_beta=betas[1],
            long_term_beta=long_term_beta,
            alpha_mix_ratio=alpha_mix_ratio,
            torque_steps=half,
            torque_eps=eps[0],
        ),
        PublishedConfidence(beta3=betas[2], early_beta3_steps=half, eps2=eps[1]),
        *until(half, OrthogonalGradient(tolerance=0.0), Grams(), *when(edge_suppression, edges)),
        *since(half, Cautious(), *when(background_regularization, PublishedBackgroundRegularization())),
        *when(spatial_awareness, PublishedSpatialAwareness(detail_preservation=detail_preservation)),
        DirectedLRMask(
            mask_start=lr,
            min_lr=min_lr,
            max_lr=max_lr,
            lr_bump=lr_bump,
            mask_steps=max(1, warmup_steps),
            d_coef=d_coef,
            directed_steps=half_of(warmup_steps),
        ),
        LearningRate(lr=lr),
        *until(warmup_steps, UphillSPD(spd_lambda=weight_decay)),
    )
