"""Presets as classes, for tools that want a dotted class path: ``LAdam(model.parameters(), lr=1e-3, c2=1e-4)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gradchain._fields import UnknownKeyword, refuse_unknown
from gradchain.chains import presets
from gradchain.chains.partition import Recipe
from gradchain.optim_wrapper.optimizer import ChainOptimizer

KEYWORD = inspect.Parameter.KEYWORD_ONLY
OPTIONS = [  # of ChainOptimizer, as trainers that know a class path alone pass them
    one.replace(annotation=annotation)
    for one in inspect.signature(ChainOptimizer).parameters.values()
    if one.kind is KEYWORD and (annotation := {"str": str, "int": int, "bool": bool}[str(one.annotation)])
]


def preset_class(name: str, preset: Callable[..., Recipe]) -> type[ChainOptimizer]:
    """A class whose constructor takes parameters, then the preset's arguments, then the options of ChainOptimizer."""
    wanted = inspect.signature(preset, eval_str=True)
    options = [option.name for option in OPTIONS]

    def __init__(self: ChainOptimizer, params: Any, *args: Any, **kwargs: Any) -> None:
        given = {key: kwargs.pop(key) for key in options if key in kwargs}
        try:
            recipe = preset(*args, **kwargs)
        except UnknownKeyword:  # the options may be nearer
            refuse_unknown(preset.__name__, preset, kwargs, more=options)
            raise
        ChainOptimizer.__init__(self, params, recipe, **given)

    kinds = inspect.Parameter
    parameters = [
        kinds("self", kinds.POSITIONAL_OR_KEYWORD),
        kinds("params", kinds.POSITIONAL_OR_KEYWORD),
        *wanted.parameters.values(),
        *OPTIONS,
    ]
    by_kind = sorted(parameters, key=lambda one: one.kind)  # a preset's **settings stay last
    __init__.__signature__ = inspect.Signature(by_kind)  # pyright: ignore[reportFunctionMemberAccess]
    doc = f"{preset.__doc__}\n\nThe chain of ``presets.{preset.__name__}`` bound to parameters; see there."
    return type(name, (ChainOptimizer,), {"__init__": __init__, "__doc__": doc, "__module__": __name__})


SGD = preset_class("SGD", presets.sgd)
Adam = preset_class("Adam", presets.adam)
AdamW = preset_class("AdamW", presets.adamw)
AMSGrad = preset_class("AMSGrad", presets.amsgrad)
NAdam = preset_class("NAdam", presets.nadam)
RMSprop = preset_class("RMSprop", presets.rmsprop)
Adagrad = preset_class("Adagrad", presets.adagrad)
Lion = preset_class("Lion", presets.lion)
Adafactor = preset_class("Adafactor", presets.adafactor)
LAdam = preset_class("LAdam", presets.ladam)
LAdaGrad = preset_class("LAdaGrad", presets.ladagrad)
LRMSProp = preset_class("LRMSProp", presets.lrmsprop)
WaveAdam = LAdam  # the package's alias
RelationalGradient = preset_class("RelationalGradient", presets.relational_gradient)
RelativisticAdam = preset_class("RelativisticAdam", presets.relativistic_adam)
RelativisticAdamW = preset_class("RelativisticAdamW", presets.relativistic_adamw)
AdaptiveHina = preset_class("AdaptiveHina", presets.adaptive_hina)
AdaptiveHinaAdamW = AdaptiveHina  # the name it was published under
AdamSPD = preset_class("AdamSPD", presets.adam_spd)
AdaTAM = preset_class("AdaTAM", presets.adatam)
Adopt = preset_class("Adopt", presets.adopt)
CAdamW = preset_class("CAdamW", presets.c_adamw)
Grams = preset_class("Grams", presets.grams)
CAME = preset_class("CAME", presets.came)
Automagic = preset_class("Automagic", presets.automagic)
CameAMP = preset_class("CameAMP", presets.cameamp)
CameAMPLora = preset_class("CameAMPLora", presets.cameamp_lora)
CameAMPFullFinetune = preset_class("CameAMPFullFinetune", presets.cameamp_full_finetune)
CameAMPImage = preset_class("CameAMPImage", presets.cameamp_image)
CameAMPLanguage = preset_class("CameAMPLanguage", presets.cameamp_language)
CameAMPDual = preset_class("CameAMPDual", presets.cameamp_dual)
CameAMPImproved = preset_class("CameAMPImproved", presets.cameamp_improved)
CameAMPOriginal8bit = preset_class("CameAMPOriginal8bit", presets.cameamp_original_8bit)
CameAMPOriginal = preset_class("CameAMPOriginal", presets.cameamp_original)
CameAMPAdopt = preset_class("CameAMPAdopt", presets.cameamp_adopt)
CameAMPLast = preset_class("CameAMPLast", presets.cameamp_last)
CameAMPGes = preset_class("CameAMPGes", presets.cameamp_ges)
HinaAdamW = preset_class("HinaAdamW", presets.hina_adamw)
HinaAdamWOptimizer = HinaAdamW  # the program's name
ScheduleFreeAdamW = preset_class("ScheduleFreeAdamW", presets.schedule_free_adamw)
ScheduleFreeSGD = preset_class("ScheduleFreeSGD", presets.schedule_free_sgd)
AdamWScheduleFree = ScheduleFreeAdamW  # the names by whose end trainers know them
SGDScheduleFree = ScheduleFreeSGD
HinaAdaptive = preset_class("HinaAdaptive", presets.hina_adaptive)
Muon = preset_class("Muon", presets.muon)
CMuon = preset_class("CMuon", presets.c_muon)
CameMuon = preset_class("CameMuon", presets.came_muon)
MuonAdamW = preset_class("MuonAdamW", presets.muon_adamw)
Lamb = preset_class("Lamb", presets.lamb)
Lars = preset_class("Lars", presets.lars)
StableAdamW = preset_class("StableAdamW", presets.stable_adamw)
AdamAtan2 = preset_class("AdamAtan2", presets.adam_atan2)
Adan = preset_class("Adan", presets.adan)
AdEMAMix = preset_class("AdEMAMix", presets.ademamix)
KahanAdamW = preset_class("KahanAdamW", presets.kahan_adamw)
LaProp = preset_class("LaProp", presets.laprop)
MARS = preset_class("MARS", presets.mars)
Prodigy = preset_class("Prodigy", presets.prodigy)
RAdam = preset_class("RAdam", presets.radam)
