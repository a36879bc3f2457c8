"""AdaptiveHinaAdamW (hinablue/sd-scripts) and its README's four configurations.

``published=True`` gives the program as shipped (139d6d5): a ceiling on norms for AGR, monotone moments for ADOPT, damped
updates for TAM and cautious, one mean mask and one absolute score a parameter, decay and a pull to the start behind the step.
It takes use_grams and does nothing with it, as the program does, and finds no relations unless relations=True. ``revision``
names an earlier one, with its defaults: d6cb03f has no mask, and c8493e2, besides, finds relations. Without these, each
technique is the one of the paper it is named after, or what the program's documents say of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, cast

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
    AbsoluteImportance,
    AlignmentDamping,
    ApplyScale,
    Cautious,
    ClipScale,
    DynamicWeightDecay,
    DynamicWeightDecayAfterStep,
    Grams,
    Importance,
    LastPartnerRelations,
    LearningRate,
    LRMask,
    Moments,
    MonotoneMoments,
    Normalize,
    NormCeiling,
    OrthogonalGradient,
    PullToStart,
    Relations,
    Signal,
    TensorLRMask,
    TorqueDamping,
    WeightDecay,
    WeightDecayAfterStep,
)
from gradchain.types import ChainError, Transform

P = ParamSpec("P")
Betas = tuple[float, float]
Link = Transform[Any]
BITSANDBYTES = ("amsgrad", "optim_bits", "args", "min_8bit_size", "percentile_clipping", "block_wise", "is_paged")


def _when(wanted: bool, *links: Link) -> tuple[Link, ...]:
    return links if wanted else ()


REVISIONS: dict[str, dict[str, Any]] = {  # what each has by default, where that is not what the preset has
    "139d6d5": {},
    "d6cb03f": {"use_lr_mask": False},
    "c8493e2": {"use_lr_mask": False, "relations": True},
}


def _by_revision(preset: Callable[P, Chain]) -> Callable[P, Chain]:
    """The preset with the defaults of the revision that is asked for."""

    @wraps(preset)
    def revised(*args: P.args, **kwargs: P.kwargs) -> Chain:
        revision = kwargs.get("revision")
        if revision is None:
            return preset(*args, **kwargs)
        if revision not in REVISIONS:
            known = ", ".join(map(repr, REVISIONS))
            raise ChainError(f"{preset.__name__}: revision must be one of {known}; found {revision!r}. Pass one of these.")
        if not kwargs.get("published", True):
            raise ChainError(f"revision={revision!r} is a published form; found published=False. Leave one of them out.")
        given: dict[str, Any] = {**REVISIONS[str(revision)], "published": True, **kwargs}
        taken = inspect.signature(preset).bind_partial(*args).arguments
        return cast(Any, preset)(*args, **{key: value for key, value in given.items() if key not in taken or key in kwargs})

    return revised


@_by_revision
@refusing("the program handed it to bitsandbytes, where nothing read it", *BITSANDBYTES)
@preset
def adaptive_hina(
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
    use_dynamic_adaptation: bool = True,
    adaptation_strength: float = 1.0,
    relationship_discovery_interval: int = 100,
    importance_decay: float = 0.95,
    compatibility_threshold: float = 0.3,
    use_lr_mask: bool = True,
    lr_bump: float = 3e-6,
    min_lr: float = 1e-7,
    max_lr: float = 1e-3,
    warmup_steps: int = 500,
    dynamic_weight_decay: bool = True,
    wd_transition_steps: int = 1000,
    wd_decay_factor: float = 0.7,
    wd_min_ratio: float = 0.1,
    relations: bool | None = None,
    published: bool = False,
    revision: Literal["139d6d5", "d6cb03f", "c8493e2"] | None = None,
) -> Chain:
    """AdamW with eleven techniques around it: scales by importance, relations and sign masks among them.

    With use_grams, use_cautious changes nothing. tam_beta is the decay of TAM's similarity. relations (None for: unless
    published) belong to use_dynamic_adaptation. revision: the published form with the defaults of this revision.
    """
    decay: dict[str, Any] = {"weight_decay": weight_decay}
    fading: dict[str, Any] = {
        **decay,
        "wd_transition_steps": wd_transition_steps,
        "wd_decay_factor": wd_decay_factor,
        "wd_min_ratio": wd_min_ratio,
    }
    score: dict[str, Any] = {
        "adaptation_strength": adaptation_strength,
        "importance_decay": importance_decay,
        "importance_interval": relationship_discovery_interval,
    }
    pairs: dict[str, Any] = {
        "compatibility_threshold": compatibility_threshold,
        "relationship_discovery_interval": relationship_discovery_interval,
    }
    mask: dict[str, Any] = {"lr_bump": lr_bump, "min_lr": min_lr, "max_lr": max_lr, "warmup_steps": warmup_steps}
    related = use_dynamic_adaptation and (not published if relations is None else relations)
    bound = ClipScale(scale_range=(0.01, 5.0), name="clip_adaptation")
    if published:
        return chain(
            *_when(use_agr, NormCeiling()),
            *_when(use_orthogonal_grad, OrthogonalGradient()),
            *_when(use_agr or use_orthogonal_grad, Signal()),
            MonotoneMoments(betas=betas) if use_adopt_stability else Moments(betas=betas),
            *_when(use_tam, TorqueDamping(tam_beta=tam_beta)),
            Normalize(eps=eps),
            *_when(use_cautious, AlignmentDamping()),
            *_when(use_dynamic_adaptation, AbsoluteImportance(**score)),
            *_when(related, LastPartnerRelations(**pairs)),
            *_when(use_dynamic_adaptation, bound),
            *_when(use_lr_mask, TensorLRMask(**mask)),
            *_when(use_dynamic_adaptation or use_lr_mask, ClipScale(), ApplyScale()),
            LearningRate(lr=lr),
            DynamicWeightDecayAfterStep(**fading) if dynamic_weight_decay else WeightDecayAfterStep(**decay),
            *_when(use_spd, PullToStart(spd_lambda=spd_lambda)),
        )
    adam = (Moments(betas=betas), Normalize(eps=eps))
    return chain(
        *_when(use_agr, masked(AGR(), by=matrices)),  # it would stop parameters of one element
        *_when(use_orthogonal_grad, OrthogonalGradient(), Signal()),
        *_when(use_tam, TAM(tam_beta=betas[0], tam_decay=tam_beta)),
        *((ADOPT(betas=betas, adopt_eps=eps),) if use_adopt_stability else adam),
        *_when(use_grams or use_cautious, Grams() if use_grams else Cautious()),
        *_when(use_dynamic_adaptation, Importance(**score)),
        *_when(related, Relations(**pairs)),
        *_when(use_dynamic_adaptation, bound),
        *_when(use_lr_mask, LRMask(**mask)),
        *_when(use_dynamic_adaptation or use_lr_mask, ClipScale(), ApplyScale()),
        DynamicWeightDecay(**fading) if dynamic_weight_decay else WeightDecay(**decay),
        LearningRate(lr=lr),
        *_when(use_spd, SPD(spd_lambda=spd_lambda)),
    )


@preset
def adaptive_hina_general(**changes: Any) -> Chain:
    """AdaptiveHina as its README has it for training in general; keywords change what that says."""
    said: dict[str, Any] = {"wd_transition_steps": 800, "wd_decay_factor": 0.75}
    return adaptive_hina(**{**said, **changes})


@preset
def adaptive_hina_large_model(**changes: Any) -> Chain:
    """AdaptiveHina as its README has it for large models; keywords change what that says."""
    said: dict[str, Any] = {
        "lr": 5e-4,
        "weight_decay": 5e-3,
        "adaptation_strength": 0.8,
        "relationship_discovery_interval": 200,
        "importance_decay": 0.98,
        "compatibility_threshold": 0.35,
        "lr_bump": 1e-6,
        "warmup_steps": 1000,
        "wd_transition_steps": 1500,
        "wd_decay_factor": 0.8,
        "wd_min_ratio": 0.15,
    }
    return adaptive_hina(**{**said, **changes})


@preset
def adaptive_hina_sd_lora(**changes: Any) -> Chain:
    """AdaptiveHina as its README has it for LoRA of Stable Diffusion; keywords change what that says."""
    said: dict[str, Any] = {
        "lr": 8e-4,
        "spd_lambda": 0.08,
        "adaptation_strength": 1.2,
        "relationship_discovery_interval": 150,
        "compatibility_threshold": 0.25,
        "lr_bump": 5e-6,
        "warmup_steps": 300,
        "wd_transition_steps": 600,
    }
    return adaptive_hina(**{**said, **changes})


@preset
def adaptive_hina_low_memory(**changes: Any) -> Chain:
    """AdaptiveHina as its README has it where memory is short; keywords change what that says."""
    said: dict[str, Any] = {
        "use_grams": False,
        "relationship_discovery_interval": 300,
        "compatibility_threshold": 0.4,
        "lr_bump": 1e-6,
        "warmup_steps": 200,
        "wd_transition_steps": 500,
        "wd_decay_factor": 0.6,
    }
    return adaptive_hina(**{**said, **changes})
