"""Optimizers with other averages than Adam's, another division by them, or another write."""

from __future__ import annotations

from gradchain.chains.chain import Chain, chain
from gradchain.chains.masked import masked
from gradchain.chains.presets._arguments import preset
from gradchain.chains.presets._refusal import refusing
from gradchain.chains.where import matrices
from gradchain.transforms import (
    L2,
    MARS,
    AdanMoments,
    AdEMAMix,
    ApplyScale,
    Atan2,
    CautiousWeightDecay,
    ClipGlobalNorm,
    CorrectedSecondMoment,
    Kahan,
    LearningRate,
    Moments,
    Normalize,
    ProdigyDistance,
    ProximalWeightDecay,
    RAdam,
    RateWeightedMomentum,
    ScaledNormalize,
    UncorrectedMoments,
    WeightDecay,
    WeightDecayAfterStep,
)

Betas = tuple[float, float]
ThreeBetas = tuple[float, float, float]


@preset
def radam(
    lr: float = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
) -> Chain:
    """Adam with the variance of its first steps rectified: ``torch.optim.RAdam``."""
    core, rate = RAdam(betas=betas, radam_eps=eps), LearningRate(lr=lr)
    if decoupled_weight_decay:
        return chain(core, WeightDecay(weight_decay=weight_decay), rate)
    return chain(L2(weight_decay=weight_decay), core, rate)


@preset
def ademamix(
    lr: float = 1e-3,
    betas: ThreeBetas = (0.9, 0.999, 0.9999),
    alpha: float = 2.0,
    beta3_warmup: int | None = None,
    alpha_warmup: int | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Chain:
    """AdamW with a quick and a slow average of the gradient."""
    moments = AdEMAMix(betas=betas, alpha=alpha, beta3_warmup=beta3_warmup, alpha_warmup=alpha_warmup)
    return chain(moments, Normalize(eps=eps), WeightDecay(weight_decay=weight_decay), LearningRate(lr=lr))


@refusing("give vectors a group with a learning rate of its own", "lr_1d", "lr_1d_factor")
@preset
def mars(
    lr: float = 3e-3,
    betas: Betas = (0.95, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    gamma: float = 0.025,
    optimize_1d: bool = False,
    betas_1d: Betas = (0.9, 0.95),
    weight_decay_1d: float = 0.1,
) -> Chain:
    """AdamW on variance-reduced gradients; vectors keep plain AdamW, unless ``optimize_1d``."""
    core = (MARS(gamma=gamma, mars_beta=betas[0]), Moments(betas=betas), Normalize(eps=eps))
    reduced = (*core, WeightDecay(weight_decay=weight_decay))
    if optimize_1d:
        return chain(*reduced, LearningRate(lr=lr))
    plain = (Moments(betas=betas_1d, name="moments_1d"), Normalize(eps=eps, name="normalize_1d"))
    vectors = (*plain, WeightDecay(weight_decay=weight_decay_1d, name="decay_1d"))
    return chain(*masked(reduced, by=matrices), *masked(vectors, by=~matrices), LearningRate(lr=lr))


@preset
def laprop(lr: float = 4e-4, betas: Betas = (0.9, 0.999), eps: float = 1e-15, weight_decay: float = 0.0) -> Chain:
    """Adam that normalizes before it averages, with decay after the step."""
    core = (CorrectedSecondMoment(beta2=betas[1]), Normalize(eps=eps), RateWeightedMomentum(momentum=betas[0]))
    return chain(*core, LearningRate(lr=lr), WeightDecayAfterStep(weight_decay=weight_decay))


@refusing(
    "a link does it: PullToStart, Cautious, or a weight_decay divided by lr",
    "regen_reg_rate",
    "cautious_factor",
    "decoupled_wd",
)
@preset
def adam_atan2(
    lr: float = 1e-4,
    betas: Betas = (0.9, 0.99),
    weight_decay: float = 0.0,
    a: float = 1.27,
    b: float = 1.0,
    cautious_wd: bool = False,
) -> Chain:
    """AdamW with an arc tangent in the place of its division, and so without eps."""
    decay = (CautiousWeightDecay if cautious_wd else WeightDecay)(weight_decay=weight_decay)
    return chain(Moments(betas=betas), Atan2(a=a, b=b), decay, LearningRate(lr=lr))


@preset
def adan(
    lr: float = 1e-3,
    betas: ThreeBetas = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    max_grad_norm: float = 0.0,
    no_prox: bool = False,
) -> Chain:
    """Adam with Nesterov's look-ahead along differences of gradients."""
    clip = [ClipGlobalNorm(max_norm=max_grad_norm)] if max_grad_norm > 0 else []
    core, rate = (*clip, AdanMoments(betas=betas), Normalize(eps=eps)), LearningRate(lr=lr)
    if no_prox:
        return chain(*core, WeightDecay(weight_decay=weight_decay), rate)
    return chain(*core, rate, ProximalWeightDecay(weight_decay=weight_decay))


@refusing("sharded parameters are found out, and statistics take every element", "fsdp_in_use", "slice_p")
@preset
def prodigy(
    lr: float = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: float | None = None,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float = float("inf"),
) -> Chain:
    """Adam whose learning rate is the estimated distance to the solution; ``lr`` is a factor on it."""
    distance = ProdigyDistance(
        d0=d0,
        d_coef=d_coef,
        growth_rate=None if growth_rate == float("inf") else growth_rate,
        beta3=betas[1] ** 0.5 if beta3 is None else beta3,
        safeguard_warmup=safeguard_warmup,
        correction=betas if use_bias_correction else (0.0, 0.0),
    )
    core = (distance, UncorrectedMoments(betas=betas), ScaledNormalize(eps=eps))
    if decouple:
        return chain(*core, WeightDecay(weight_decay=weight_decay), ApplyScale(), LearningRate(lr=lr))
    return chain(L2(weight_decay=weight_decay), *core, ApplyScale(), LearningRate(lr=lr))


@preset
def kahan_adamw(lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2) -> Chain:
    """AdamW that keeps what parameters in low precision round away of its steps."""
    core = (Moments(betas=betas), Normalize(eps=eps), WeightDecay(weight_decay=weight_decay))
    return chain(*core, LearningRate(lr=lr), Kahan())
