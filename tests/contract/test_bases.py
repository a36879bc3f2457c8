"""What is left of every preset when all its optional links go: the plain optimizer that it is built on, bit for bit."""

import pytest
import torch
from table import PRESETS

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.chains import masked, matrices

IDLE = {"l2", "weight_decay", "inverse_time_decay", "scaled_weight_decay", "proximal_weight_decay", "weight_decay_after_step"}


def rule(*links, lr):
    return chain(*links, t.LearningRate(lr=lr))


def hat(eps):
    """Adam with eps beside the uncorrected root, where several programs have it."""
    return rule(t.StepCorrectedMoments(betas=(0.9, 0.999)), t.Normalize(eps=eps), lr=1e-3)


def adopt(lr=1e-3):
    """ADOPT with Adam's averages, as the Hina presets have it."""
    return presets.adopt(lr=lr, betas=(0.9, 0.999), eps=1e-8)


def scaled(second, lr, clip=t.ClipUpdateRMS):
    """The gradient over the root of a second moment, and the ceiling on what comes out."""
    return rule(second, t.Normalize(eps=0.0), clip(d=1.0), lr=lr)


def uncorrected():
    return rule(t.UncorrectedMoments(betas=(0.9, 0.999)), t.Normalize(eps=1e-8, name="scaled_normalize"), lr=1.0)


def lagged(lr):
    return rule(t.LaggedMoments(betas=(0.9, 0.999)), t.Normalize(eps=1e-8), lr=lr)


MONOTONE = rule(t.MonotoneMoments(betas=(0.9, 0.999)), t.Normalize(eps=1e-8), lr=1e-3)
FACTORED = t.FactoredMeanSquare(beta2=0.999, eps1=1e-30)
SQUARE = t.MeanSquare(beta2=0.999, eps1=1e-30)
PREVIOUS = t.PreviousMeanSquare(beta2=0.99, eps1=0.0)
AVERAGE = rule(t.NesterovAverage(momentum=0.95), lr=1e-3)
NADAM, RADAM, LION, LAPROP = presets.nadam(), presets.radam(), presets.lion(), presets.laprop()
ADAM, AMSGRAD, ADAN = presets.adam(), presets.adam(amsgrad=True), presets.adan()
VECTORS = (t.Moments(betas=(0.9, 0.95), name="moments_1d"), t.Normalize(eps=1e-8, name="normalize_1d"))

BASES = {  # a row of PRESETS -> the plain optimizer, with its hyperparameters written out where they are not its defaults
    "sgd": presets.sgd(),
    "sgd_momentum": presets.sgd(momentum=0.9, dampening=0.1),
    "sgd_nesterov": presets.sgd(momentum=0.9, nesterov=True),
    "adam": ADAM,
    "adam_amsgrad": AMSGRAD,
    "adamw": ADAM,
    "adamw_amsgrad": AMSGRAD,
    "amsgrad": AMSGRAD,
    "nadam": NADAM,
    "nadam_decoupled": NADAM,
    "radam": RADAM,
    "rmsprop": presets.rmsprop(),
    "rmsprop_centered": presets.rmsprop(centered=True, momentum=0.9),
    "adagrad": presets.adagrad(),
    "lion": LION,
    "adafactor": presets.adafactor(),
    "ladam": ADAM,
    "ladam_published": ADAM,
    "ladam_update": ADAM,
    "ladam_weight": ADAM,
    "ladam_wave": rule(t.FirstMoment(momentum=0.9), lr=1e-3),  # the wave is the variance
    "ladam_wave_published": rule(t.FirstMoment(momentum=0.9), lr=1e-3),
    "ladagrad": presets.adagrad(),
    "ladagrad_published": presets.adagrad(),
    "lrmsprop": presets.rmsprop(momentum=0.9),
    "lrmsprop_published": presets.rmsprop(),
    "relativistic_adam": ADAM,
    "relativistic_adam_published": hat(1e-8),
    "relativistic_adamw": ADAM,
    "relativistic_adamw_published": hat(1e-8),
    "c_adamw": hat(1e-6),
    "grams": hat(1e-6),
    "adopt": presets.adopt(),
    "adatam": ADAM,
    "adam_spd": ADAM,
    "adam_atan2": rule(t.Moments(betas=(0.9, 0.99)), t.Atan2(a=1.27, b=1.0), lr=1e-4),
    "adan": ADAN,
    "adan_decoupled": ADAN,
    "ademamix": presets.ademamix(alpha_warmup=10, beta3_warmup=10),
    "kahan_adamw": ADAM,
    "laprop": LAPROP,
    "mars": presets.adam(lr=3e-3, betas=(0.95, 0.99)),
    "mars_by_shape": rule(
        *masked((t.Moments(betas=(0.95, 0.99)), t.Normalize(eps=1e-8)), by=matrices), *masked(VECTORS, by=~matrices), lr=3e-3
    ),
    "prodigy": uncorrected(),
    "prodigy_corrected": uncorrected(),
    "schedule_free_adamw": rule(t.CorrectedSecondMoment(beta2=0.999), t.Normalize(eps=1e-8), lr=2.5e-3),
    "schedule_free_sgd": rule(lr=1.0),
    "lamb": presets.adam(eps=1e-6),
    "lars": presets.sgd(lr=1.0, momentum=0.9),
    "lars_nesterov": presets.sgd(lr=1.0, momentum=0.9, nesterov=True),
    "stable_adamw": presets.adam(betas=(0.9, 0.99), eps=1e-6),
    "muon": AVERAGE,
    "muon_rms": rule(t.AverageMomentum(momentum=0.95), lr=1e-3),
    "c_muon": AVERAGE,
    "came_muon": scaled(FACTORED, lr=2e-4),
    "relational_gradient": presets.adam(lr=0.01),
    "relational_gradient_all_pairs": presets.adam(lr=0.01),
    "relational_gradient_published": presets.adam(lr=0.01),
    "relational_gradient_published_all_pairs": presets.adam(lr=0.01),
    "adaptive_hina": adopt(),
    "adaptive_hina_general": adopt(),
    "adaptive_hina_large_model": adopt(lr=5e-4),
    "adaptive_hina_low_memory": ADAM,
    "adaptive_hina_sd_lora": presets.adam(lr=8e-4),
    "adaptive_hina_published": MONOTONE,
    "hina_adaptive": MONOTONE,
    "hina_adaptive_adam": ADAM,
    "hina_adamw": adopt(),
    "hina_adamw_language": presets.adam(lr=5e-4),
    "hina_adamw_lokr": lagged(lr=1e-3),
    "hina_adamw_sd_lora": lagged(lr=8e-4),
    "automagic": scaled(FACTORED, lr=1e-6),
    "automagic_published": scaled(FACTORED, lr=1e-3),
    "came": scaled(FACTORED, lr=2e-4),
    "cameamp": scaled(t.MeanSquare(beta2=0.99, eps1=1e-30), lr=1e-6),
    "cameamp_lora": scaled(t.MeanSquare(beta2=0.99, eps1=1e-30), lr=1e-6),
    "cameamp_full_finetune": scaled(t.MeanSquare(beta2=0.99, eps1=1e-30), lr=1e-6),
    "cameamp_image": scaled(t.MeanSquare(beta2=0.99, eps1=1e-30), lr=1e-4),
    "cameamp_language": rule(lr=2e-5),
    "cameamp_improved": scaled(SQUARE, lr=1e-6),
    "cameamp_improved_orthogonal": scaled(SQUARE, lr=1e-3),
    "cameamp_improved_bare": rule(lr=1e-2),
    "cameamp_dual": scaled(SQUARE, lr=1e-3, clip=t.ScaledClipUpdateRMS),
    "cameamp_original": scaled(SQUARE, lr=1e-6),
    "cameamp_original_full_finetune": scaled(SQUARE, lr=1e-3),
    "cameamp_original_8bit": scaled(FACTORED, lr=1e-3),
    "cameamp_adopt": rule(PREVIOUS, t.VarianceFloor(floor=1e-12, name="root_floor"), t.Normalize(eps=0.0), lr=1e-3),
    "cameamp_last": scaled(t.PreviousMeanSquare(beta2=0.99, eps1=1e-30), lr=1e-3),
    "cameamp_last_no_came": rule(lr=1e-3),
    "cameamp_ges": rule(lr=1e-3),
}


def trained(recipe, steps=10):
    """By the reference: other drivers may join a product and a sum, which rounds once, where no link stands between them."""
    random = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (5,), (3, 2, 2, 2), ()]
    params = [torch.nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64)) for shape in shapes]
    optimizer = recipe.optimizer(params, driver="reference")
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random, dtype=torch.float64)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in params])


def test_every_row_of_the_presets_has_a_base():
    assert BASES.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", BASES)
def test_without_its_optional_links_it_is_the_plain_optimizer_bit_for_bit(name):
    recipe, base = PRESETS[name], BASES[name]
    core = [link for link in base.names if link not in IDLE]  # a plain preset's weight decay is 0, so it may be there or not
    bare = recipe.without(*(link for link in recipe.names if link not in core))
    assert list(bare.names) == core
    assert torch.equal(trained(bare), trained(base)) and not torch.equal(trained(base), trained(base, steps=1))
