"""Named optimizers as chains. ``presets.ladam(lr=1e-3)`` is a Chain; ``.optimizer(params)`` binds it."""

from gradchain.chains.presets.adaptive_hina import (
    adaptive_hina,
    adaptive_hina_general,
    adaptive_hina_large_model,
    adaptive_hina_low_memory,
    adaptive_hina_sd_lora,
)
from gradchain.chains.presets.averages import adam_atan2, adan, ademamix, kahan_adamw, laprop, mars, prodigy, radam
from gradchain.chains.presets.came import automagic, came
from gradchain.chains.presets.cameamp import cameamp, cameamp_full_finetune, cameamp_image, cameamp_language, cameamp_lora
from gradchain.chains.presets.cameamp_published import cameamp_dual, cameamp_improved
from gradchain.chains.presets.cameamp_versions import (
    cameamp_adopt,
    cameamp_ges,
    cameamp_last,
    cameamp_original,
    cameamp_original_8bit,
)
from gradchain.chains.presets.classic import adafactor, adagrad, adam, adamw, amsgrad, lion, nadam, rmsprop, sgd
from gradchain.chains.presets.hina_adamw import hina_adamw, hina_adamw_language, hina_adamw_lokr, hina_adamw_sd_lora
from gradchain.chains.presets.hina_adaptive import hina_adaptive
from gradchain.chains.presets.ladam import ladagrad, ladam, lrmsprop
from gradchain.chains.presets.large_batch import lamb, lars, stable_adamw
from gradchain.chains.presets.matrix import c_muon, came_muon, muon, muon_adamw
from gradchain.chains.presets.papers import adam_spd, adatam, adopt, c_adamw, grams
from gradchain.chains.presets.relational import relational_gradient
from gradchain.chains.presets.relativistic import relativistic_adam, relativistic_adamw
from gradchain.chains.presets.schedule_free import schedule_free_adamw, schedule_free_sgd
from gradchain.chains.presets.suggest import suggest_c2

__all__ = [
    "adafactor",
    "adagrad",
    "adam",
    "adam_atan2",
    "adam_spd",
    "adamw",
    "adan",
    "adaptive_hina",
    "adaptive_hina_general",
    "adaptive_hina_large_model",
    "adaptive_hina_low_memory",
    "adaptive_hina_sd_lora",
    "adatam",
    "ademamix",
    "adopt",
    "amsgrad",
    "automagic",
    "c_adamw",
    "c_muon",
    "came",
    "came_muon",
    "cameamp",
    "cameamp_adopt",
    "cameamp_dual",
    "cameamp_full_finetune",
    "cameamp_ges",
    "cameamp_image",
    "cameamp_improved",
    "cameamp_language",
    "cameamp_last",
    "cameamp_lora",
    "cameamp_original",
    "cameamp_original_8bit",
    "grams",
    "hina_adamw",
    "hina_adamw_language",
    "hina_adamw_lokr",
    "hina_adamw_sd_lora",
    "hina_adaptive",
    "kahan_adamw",
    "ladagrad",
    "ladam",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "lrmsprop",
    "mars",
    "muon",
    "muon_adamw",
    "nadam",
    "prodigy",
    "radam",
    "relational_gradient",
    "relativistic_adam",
    "relativistic_adamw",
    "rmsprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "stable_adamw",
    "suggest_c2",
]
