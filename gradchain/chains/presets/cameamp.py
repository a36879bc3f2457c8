"""Automagic CameAMP (hinablue/sd-scripts), as its README means it.

Four phases in the length of the warm-up, W steps: until W/2 torque-aware damping, Grams, edge suppression and OrthoGrad;
from then on Cautious and background regularization; until W the learning rate mask moves and SPD pulls; from 2 W on frequency
and rank penalty have 0.3 of their strength. ``presets.cameamp_improved`` and its kin are the program as shipped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import checking, form_of, preset
from gradchain.chains.presets._phases import Link, half_of, until, when
from gradchain.chains.presets._refusal import refusing
from gradchain.transforms import (
    AGR,
    SPD,
    TAM,
    ALLoRA,
    ApplyScale,
    BackgroundRegularization,
    Cautious,
    ClipUpdateRMS,
    Confidence,
    EdgeSuppression,
    FallingMomentum,
    FrequencyPenalty,
    Grams,
    LearningRate,
    LowRankEmphasis,
    LRMask,
    MeanSquare,
    Normalize,
    OriginSPD,
    OrthogonalGradient,
    Phase,
    RankPenalty,
    RowTAM,
    Signal,
    SpatialAwareness,
)
from gradchain.types import ChainError

Correlation = Literal["auto", "manual", "vectorized", "cosine_similarity"]
MATURE = 0.3  # of the strength of frequency and rank penalty


def _penalties(warmup_steps: int, frequency: float | None, rank: float | None) -> list[Link]:
    """Frequency and rank penalty until the parameters are mature, and what is left of them then."""
    mature = 2 * warmup_steps
    links: list[Link] = []
    for strength, start, stop, age in ((1.0, 1, mature, ""), (MATURE, mature, None, "mature_")):
        if frequency is not None:
            name = age and f"{age}frequency_penalty"
            links.append(Phase(FrequencyPenalty(frequency_penalty=strength * frequency, name=name), start=start, stop=stop))
        if rank is not None:
            name = age and f"{age}rank_penalty"
            links.append(Phase(RankPenalty(rank_penalty_strength=strength * rank, name=name), start=start, stop=stop))
    return links


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@refusing("its in-place form is another, broken rule", "tam_use_inplace_ops", harmless={"tam_use_inplace_ops": False})
@refusing("the similarity is per parameter, or per row with tam_correlation_method='vectorized'", "tam_large_tensor_threshold")
@preset
@checking
def cameamp(
    lr: Annotated[float, "(0, inf)"] = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float, float] = (1e-30, 1e-16, 1e-8),
    clip_threshold: float = 1.0,
    betas: tuple[float, float, float] = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    weight_decay: float = 5e-4,
    warmup_steps: Annotated[int, "[1, inf)"] = 500,
    eta: float = 2.0,
    came_enabled: bool = True,
    full_finetune: bool = False,
    edge_suppression: bool = True,
    edge_threshold: Annotated[float, "(0, 1)"] = 0.6,
    edge_penalty: float = 0.1,
    background_regularization: bool = True,
    spatial_awareness: bool = True,
    frequency_penalty: float = 0.05,
    detail_preservation: float = 0.8,
    lora_rank_penalty: bool = True,
    rank_penalty_strength: float = 0.01,
    low_rank_emphasis: float = 1.2,
    tam_correlation_method: Correlation = "auto",
) -> Chain:
    """CAME with torque-aware momentum, a learning rate per element, and regularizers for LoRA and images.

    The switches leave links out; spatial_awareness is for frequency_penalty too, lora_rank_penalty for low_rank_emphasis.
    eps: of the second moment, of the confidence, of the torque. betas: of the momentum, the second moment, the confidence.
    full_finetune: SPD pulls towards the start, not to 0, and rows are not scaled by their size (eta).
    """
    if isinstance(min_lr, float) and isinstance(max_lr, float) and min_lr >= max_lr:
        raise ChainError(
            f"'cameamp': min_lr must be below max_lr; found {min_lr!r} and {max_lr!r}. Swap them, or widen the range."
        )
    half = half_of(warmup_steps)
    torque = RowTAM if tam_correlation_method == "vectorized" else TAM
    spd = SPD(spd_lambda=weight_decay) if full_finetune else OriginSPD(spd_lambda=weight_decay, rank_rate=0.1)
    edges = EdgeSuppression(edge_penalty=edge_penalty, edge_threshold=edge_threshold)
    return chain(
        AGR(),
        *_penalties(
            warmup_steps,
            frequency_penalty if spatial_awareness else None,
            rank_penalty_strength if lora_rank_penalty else None,
        ),
        Signal(),
        *when(came_enabled, MeanSquare(beta2=betas[1], eps1=eps[0]), Normalize(eps=0.0), ClipUpdateRMS(d=clip_threshold)),
        *until(half, torque(tam_eps=eps[2])),
        FallingMomentum(momentum=betas[0], beta1_decay=beta1_decay),
        Confidence(beta3=betas[2], eps2=eps[1]),
        *until(half, *when(lora_rank_penalty, LowRankEmphasis(low_rank_emphasis=low_rank_emphasis))),
        *until(half, Grams(), *when(edge_suppression, edges)),
        Phase(Cautious(), start=half),
        *when(background_regularization, Phase(BackgroundRegularization(), start=half)),
        *until(warmup_steps, *when(spatial_awareness, SpatialAwareness(detail_preservation=detail_preservation))),
        LRMask(lr_bump=lr_bump, min_lr=min_lr, max_lr=max_lr, warmup_steps=warmup_steps),
        ApplyScale(),
        *when(not full_finetune, ALLoRA(eta=eta)),
        *until(half, OrthogonalGradient()),
        LearningRate(lr=lr),
        *until(warmup_steps, spd),
    )


@preset
@form_of(cameamp)
def cameamp_lora(lr: float = 1e-6, **settings: Any) -> Chain:
    """CameAMP for LoRA: all regularizers, unless the settings say otherwise."""
    return cameamp(lr, **settings)


@preset
@form_of(cameamp)
def cameamp_full_finetune(
    lr: float = 1e-6, *, full_finetune: bool = True, lora_rank_penalty: bool = False, **settings: Any
) -> Chain:
    """CameAMP for all weights of a model: no rank penalty, SPD towards the weights it starts from."""
    return cameamp(lr, full_finetune=full_finetune, lora_rank_penalty=lora_rank_penalty, **settings)


@preset
@form_of(cameamp)
def cameamp_image(lr: float = 1e-4, *, frequency_penalty: float = 0.08, **settings: Any) -> Chain:
    """CameAMP with the README's settings for images."""
    return cameamp(lr, frequency_penalty=frequency_penalty, **settings)


@preset
@form_of(cameamp)
def cameamp_language(
    lr: float = 2e-5, *, edge_suppression: bool = False, spatial_awareness: bool = False, **settings: Any
) -> Chain:
    """CameAMP with the README's settings for language: nothing that looks at neighbors."""
    return cameamp(lr, edge_suppression=edge_suppression, spatial_awareness=spatial_awareness, **settings)
