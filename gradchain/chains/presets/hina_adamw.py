"""HinaAdamW, for LoRA and LoKr adapters (HinaAdamWOptimizer, hinablue/sd-scripts), and its README's three configurations.

``published=True`` gives the program as shipped (e57630c), with all scales taken from the parameters before the step. Without
it, each technique is the one of the paper it is named after, ALoRA's ratio is applied to B, LoKr factors may be decomposed,
and weight decay fades for all parameters, by its documentation. Pairs are found by name: pass ``named_parameters()``.
"""

from __future__ import annotations

from typing import Any

from gradchain.chains.chain import Chain, chain
from gradchain.chains.masked import masked
from gradchain.chains.presets._arguments import preset
from gradchain.chains.presets._refusal import refusing
from gradchain.chains.where import matrices
from gradchain.transforms import (
    ADOPT,
    AGR,
    SPD,
    TAM,
    AdapterWeightDecay,
    AgreementMask,
    ALoRA,
    Cautious,
    DynamicWeightDecay,
    Grams,
    LaggedMoments,
    LearningRate,
    LoKrScale,
    Moments,
    Normalize,
    OrthogonalComponent,
    OrthogonalGradient,
    PublishedALoRA,
    PublishedLoKrScale,
    PullToStart,
    Signal,
    StepCorrectedMoments,
    SumAmplification,
    TorqueDamping,
    WeightDecay,
    WeightDecayAfterStep,
)
from gradchain.types import Transform

Betas = tuple[float, float]
Link = Transform[Any]
LOKR = 0.6  # what LoKr's ratio is of alora_ratio
BITSANDBYTES = ("amsgrad", "optim_bits", "args", "min_8bit_size", "percentile_clipping", "block_wise", "is_paged")


def _when(wanted: bool, *links: Link) -> tuple[Link, ...]:
    return links if wanted else ()


def _aligned(use_grams: bool, use_cautious: bool, mask: Link) -> tuple[Link, ...]:
    """Behind Grams a mask has nothing to do: all signs are those of the gradient."""
    return _when(use_grams or use_cautious, Grams() if use_grams else mask)


@refusing("the program handed it to bitsandbytes, where nothing read it", *BITSANDBYTES)
@preset
def hina_adamw(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    use_spd: bool = True,
    spd_lambda: float = 0.06,
    use_cautious: bool = True,
    use_orthogonal_grad: bool = False,
    use_adopt_stability: bool = True,
    use_grams: bool = True,
    use_agr: bool = True,
    use_tam: bool = True,
    tam_beta: float = 0.999,
    use_alora: bool = True,
    alora_ratio: float = 16.0,
    dynamic_weight_decay: bool = True,
    wd_transition_steps: int = 1000,
    wd_decay_factor: float = 0.7,
    wd_min_ratio: float = 0.1,
    published: bool = False,
) -> Chain:
    """AdamW for LoRA and LoKr adapters: ALoRA and Kronecker-aware scaling among seven other techniques.

    With use_grams, use_cautious changes nothing. tam_beta is the decay of TAM's similarity.
    """
    fading: dict[str, Any] = {"wd_decay_factor": wd_decay_factor, "wd_min_ratio": wd_min_ratio, "weight_decay": weight_decay}
    fading["wd_transition_steps"] = wd_transition_steps
    if published:
        core = LaggedMoments(betas=betas) if use_adopt_stability else StepCorrectedMoments(betas=betas)
        scales = (PublishedALoRA(alora_ratio=alora_ratio), PublishedLoKrScale(lokr_ratio=LOKR * alora_ratio))
        return chain(
            *_when(use_orthogonal_grad, OrthogonalComponent()),
            *_when(use_agr, SumAmplification()),
            Signal(),
            core,
            *_when(use_tam, TorqueDamping(tam_beta=tam_beta)),
            Normalize(eps=eps),
            *_aligned(use_grams, use_cautious, AgreementMask()),
            *_when(use_alora, *scales),
            LearningRate(lr=lr),
            AdapterWeightDecay(**fading) if dynamic_weight_decay else WeightDecayAfterStep(weight_decay=weight_decay),
            *_when(use_spd, PullToStart(spd_lambda=spd_lambda)),
        )
    adam = (Moments(betas=betas), Normalize(eps=eps))
    return chain(
        *_when(use_orthogonal_grad, OrthogonalGradient()),
        *_when(use_agr, masked(AGR(), by=matrices)),  # it would stop parameters of one element, such as LoKr's scalar
        *_when(use_orthogonal_grad or use_agr, Signal()),
        *_when(use_tam, TAM(tam_beta=betas[0], tam_decay=tam_beta)),
        *((ADOPT(betas=betas, adopt_eps=eps),) if use_adopt_stability else adam),
        *_aligned(use_grams, use_cautious, Cautious()),
        *_when(use_alora, ALoRA(alora_ratio=alora_ratio), LoKrScale(lokr_ratio=LOKR * alora_ratio)),
        DynamicWeightDecay(**fading) if dynamic_weight_decay else WeightDecay(weight_decay=weight_decay),
        LearningRate(lr=lr),
        *_when(use_spd, SPD(spd_lambda=spd_lambda)),
    )


@preset
def hina_adamw_sd_lora(**changes: Any) -> Chain:
    """HinaAdamW as its README has it for LoRA of Stable Diffusion; keywords change what that says."""
    said: dict[str, Any] = {"lr": 8e-4, "wd_transition_steps": 800, "wd_decay_factor": 0.75}
    return hina_adamw(**{**said, **changes})


@preset
def hina_adamw_language(**changes: Any) -> Chain:
    """HinaAdamW as its README has it for language models; keywords change what that says."""
    said: dict[str, Any] = {"lr": 5e-4, "alora_ratio": 20.0, "wd_transition_steps": 1200, "wd_decay_factor": 0.8}
    return hina_adamw(**{**said, **changes})


@preset
def hina_adamw_lokr(**changes: Any) -> Chain:
    """HinaAdamW as its README has it for LoKr; keywords change what that says."""
    said: dict[str, Any] = {"alora_ratio": 18.0, "wd_transition_steps": 600, "wd_decay_factor": 0.8, "wd_min_ratio": 0.18}
    return hina_adamw(**{**said, **changes})
