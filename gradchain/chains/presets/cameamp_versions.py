"""The other versions of Automagic CameAMP as published (hinablue/sd-scripts), each with its own keywords and defaults.

``cameamp_original`` is de285ff and ``cameamp_original_8bit`` its twin, ``cameamp_adopt`` 94c29fc, ``cameamp_last`` 1bba43e;
``cameamp_ges`` is an unattributed copy. ``presets.cameamp`` is the form we recommend.
"""

from __future__ import annotations

from typing import Annotated, Any

from gradchain.chains.chain import Chain, chain
from gradchain.chains.presets._arguments import checking, preset
from gradchain.chains.presets._phases import Link, half_of, since, until
from gradchain.chains.presets._refusal import refusing
from gradchain.transforms import (
    BlendedGrams,
    Cautious,
    ClipUpdateRMS,
    EightBitLRMask,
    EightBitMomentum,
    FactoredConfidence,
    FactoredMeanSquare,
    Grams,
    GroupAdaDecay,
    GroupAGR,
    GrowingClamp,
    InitialRowScale,
    LearningRate,
    MeanSquare,
    MultilayerLookahead,
    Normalize,
    OrthogonalGradient,
    Phase,
    PreviousMeanSquare,
    PublishedConfidence,
    PublishedLRMask,
    PublishedOriginSPD,
    PublishedSPD,
    RaisedConfidence,
    SecondAverage,
    Signal,
    TorqueMomentum,
    VarianceFloor,
)
from gradchain.types import ChainError

Betas = tuple[float, float, float]
Steps = Annotated[int, "[0, inf)"]
Shares = tuple[float] | tuple[float, float] | tuple[float, float, float] | tuple[float, float, float, float]
Counts = tuple[int] | tuple[int, int] | tuple[int, int, int] | tuple[int, int, int, int]


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@preset
@checking
def cameamp_original(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: Betas = (0.9, 0.999, 0.9999),
    weight_decay: float = 2.5,
    warmup_steps: Steps = 500,
    la_layers: Annotated[int, "[0, 4]"] = 3,
    alphas: Shares = (0.6, 0.75, 0.85, 0.85),
    ks: Counts = (5, 5, 3, 3),
    full_finetune: bool = False,
) -> Chain:
    """The first CameAMP: no regularizers, SPD in the warm-up, lookahead in layers for as long again.

    alphas, ks: one for each of la_layers; more are not used.
    """
    half = half_of(warmup_steps)
    spd = PublishedSPD(spd_lambda=weight_decay) if full_finetune else PublishedOriginSPD(spd_lambda=weight_decay)
    for key, found in (("alphas", alphas), ("ks", ks)):
        if len(found) < la_layers:
            raise ChainError(
                f"'cameamp_original': {la_layers} la_layers need as many {key}; found {found!r}. Give one for each."
            )
    ahead = MultilayerLookahead(la_layers=max(1, la_layers), la_alphas=_four(alphas, 1.0), la_ks=_four(ks, 1))
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
        *until(half, Grams()),
        *since(half, Cautious()),
        PublishedLRMask(
            mask_start=lr, lr_max_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=max(1, warmup_steps)
        ),
        LearningRate(lr=lr),
        *until(warmup_steps, spd),
        *([Phase(ahead, start=warmup_steps, stop=2 * warmup_steps)] if la_layers > 0 and warmup_steps > 0 else []),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@preset
@checking
def cameamp_original_8bit(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: Betas = (0.9, 0.999, 0.9999),
    weight_decay: float = 2.5,
    warmup_steps: Steps = 500,
    full_finetune: bool = False,
) -> Chain:
    """The first CameAMP's 8-bit twin: CAME with momentum and mask rounded to 8 bits, and SPD in the warm-up."""
    spd = PublishedSPD(spd_lambda=weight_decay) if full_finetune else PublishedOriginSPD(spd_lambda=weight_decay)
    return chain(
        FactoredMeanSquare(beta2=betas[1], eps1=eps[0]),
        Normalize(eps=0.0),
        ClipUpdateRMS(d=clip_threshold),
        EightBitMomentum(momentum=betas[0]),
        FactoredConfidence(beta3=betas[2], eps2=eps[1]),
        EightBitLRMask(mask_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=warmup_steps + 1),
        LearningRate(lr=lr),
        *until(warmup_steps + 1, spd),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@refusing("that version kept it and did nothing with it", "clip_threshold", harmless={"clip_threshold": 1.0})
@preset
@checking
def cameamp_adopt(
    lr: float = 1e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    lr_bump: float = 3e-6,
    eps: tuple[float, float] = (1e-30, 1e-16),
    betas: Betas = (0.8, 0.99, 0.999),
    beta1_decay: float = 0.9995,
    weight_decay: float = 1.0,
    warmup_steps: Steps = 500,
    eta: float = 2.0,
    full_finetune: bool = False,
) -> Chain:
    """CameAMP on ADOPT's scaling, with OrthoGrad in the first half of the warm-up and rows scaled by their first size."""
    half = half_of(warmup_steps)
    spd = PublishedSPD(spd_lambda=weight_decay) if full_finetune else PublishedOriginSPD(spd_lambda=weight_decay)
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        PreviousMeanSquare(beta2=betas[1], eps1=0.0),
        VarianceFloor(floor=1e-12, name="root_floor"),
        Normalize(eps=0.0),
        GrowingClamp(),
        TorqueMomentum(momentum=betas[0], beta1_decay=beta1_decay, torque_steps=half, torque_eps=eps[0]),
        Phase(PublishedConfidence(beta3=betas[2], early_beta3_steps=half, eps2=eps[1]), start=2),
        *until(half, Grams()),
        *since(half, Cautious()),
        *until(half, OrthogonalGradient(tolerance=0.0)),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=2),
        LearningRate(lr=lr),
        *until(warmup_steps, spd),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@refusing("that version kept it and did nothing with it", "context_window", "edge_threshold", "adaptation_rate")
@preset
@checking
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
    warmup_steps: Steps = 500,
    came: bool = True,
    full_finetune: bool = False,
) -> Chain:
    """The last CameAMP of that name: the second moment of the steps before, Grams that fades, adaptive decay, no SPD."""
    first = 2 if came else 1  # the second moment spends a step to measure
    confidence = Phase(RaisedConfidence(beta3=betas[2], early_beta3=betas[2], eps2=eps[1]), start=first)
    measured = [PreviousMeanSquare(beta2=betas[1], eps1=eps[0]), Normalize(eps=0.0), ClipUpdateRMS(d=clip_threshold)]
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        *(measured if came else [GrowingClamp()]),
        *_fading(
            confidence,
            betas,
            beta1_decay,
            weight_decay,
            warmup_steps,
            eps[0],
        ),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=first),
        LearningRate(lr=lr),
    )


@refusing("describe() and optimizer.report() tell what happens", "verbose", harmless={"verbose": False})
@refusing("that version kept it and did nothing with it", "clip_threshold", harmless={"clip_threshold": 1.0})
@preset
@checking
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
    warmup_steps: Steps = 500,
    full_finetune: bool = False,
) -> Chain:
    """CameAMP without a second moment: the gradient itself, clamped, under a confidence as AdaBelief's."""
    confidence = PublishedConfidence(beta3=betas[2], early_beta3_steps=half_of(warmup_steps), eps2=eps[1])
    return chain(
        GroupAGR(agr_eps=0.0),
        Signal(),
        GrowingClamp(),
        *_fading(confidence, betas, beta1_decay, weight_decay, warmup_steps, eps[0]),
        *([] if full_finetune else [InitialRowScale(eta=eta)]),
        _settling_mask(lr, min_lr, max_lr, lr_bump, warmup_steps, first=1),
        LearningRate(lr=lr),
    )


def _four(given: tuple[Any, ...], unused: float) -> Any:
    """The values with one for every layer that there can be."""
    return (*given, *[unused] * (4 - len(given)))


def _fading(
    confidence: Link, betas: Betas, beta1_decay: float, weight_decay: float, warmup_steps: int, torque_eps: float
) -> list[Link]:
    """From the momentum to the decay, as the last version has it."""
    half = half_of(warmup_steps)
    return [
        TorqueMomentum(momentum=betas[0], beta1_decay=beta1_decay, torque_steps=half, torque_eps=torque_eps),
        *since(half, SecondAverage(second_beta=betas[0])),
        confidence,
        BlendedGrams(grams_decay=beta1_decay),
        *until(half, OrthogonalGradient(tolerance=0.0)),
        GroupAdaDecay(weight_decay=weight_decay, ada_decay_steps=half),
    ]


def _settling_mask(lr: float, min_lr: float, max_lr: float, lr_bump: float, warmup_steps: int, first: int) -> Link:
    """The mask of the later versions, which no schedule can take below a tenth."""
    mask = PublishedLRMask(
        mask_start=lr, min_lr=min_lr, max_lr=max_lr, lr_bump=lr_bump, mask_steps=max(1, warmup_steps), mask_floor=0.1
    )
    return Phase(mask, start=first)
