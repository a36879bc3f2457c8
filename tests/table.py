"""One row per transform and per preset; the contract tests run over all of them."""

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)

# transform -> (an instance, a chain in which it can run)
TRANSFORMS = {
    "AMSGradMoments": (link := t.AMSGradMoments(), chain(link, t.Normalize(), LR)),
    "CenteredSecondMoment": (link := t.CenteredSecondMoment(), chain(link, t.Normalize(), LR)),
    "ClipUpdateRMS": (link := t.ClipUpdateRMS(d=0.5), chain(link, LR)),
    "FactoredSecondMoment": (link := t.FactoredSecondMoment(), chain(link, t.Normalize(eps=0.0), LR)),
    "FirstMoment": (link := t.FirstMoment(), chain(link, LR)),
    "InverseTimeDecay": (link := t.InverseTimeDecay(lr_decay=0.1), chain(link, LR)),
    "L2": (link := t.L2(weight_decay=0.1), chain(link, LR)),
    "Laplacian": (link := t.Laplacian(c2=0.1, min_spatial_size=1), chain(t.Moments(), link, t.Normalize(), LR)),
    "LearningRate": (LR, chain(LR)),
    "Lion": (link := t.Lion(), chain(link, LR)),
    "Moments": (link := t.Moments(), chain(link, t.Normalize(), LR)),
    "Momentum": (link := t.Momentum(momentum=0.9, dampening=0.1), chain(link, LR)),
    "NesterovMoments": (link := t.NesterovMoments(), chain(link, t.Normalize(), LR)),
    "NesterovMomentum": (link := t.NesterovMomentum(), chain(link, LR)),
    "Normalize": (link := t.Normalize(), chain(t.Moments(), link, LR)),
    "ParameterScale": (link := t.ParameterScale(), chain(link, LR)),
    "PublishedWaveVariance": (
        link := t.PublishedWaveVariance(min_spatial_size=1, c2=0.1),
        chain(link, t.FirstMoment(), t.Normalize(), LR),
    ),
    "RelativeStep": (link := t.RelativeStep(), chain(link)),
    "ScaledWeightDecay": (link := t.ScaledWeightDecay(weight_decay=0.1), chain(LR, link)),
    "SecondMoment": (link := t.SecondMoment(), chain(link, t.Normalize(), LR)),
    "SumOfSquares": (link := t.SumOfSquares(), chain(link, t.Normalize(), LR)),
    "UpdateLaplacian": (link := t.UpdateLaplacian(c2=0.1, min_spatial_size=1), chain(link, LR)),
    "VarianceFloor": (link := t.VarianceFloor(), chain(t.Moments(), link, t.Normalize(), LR)),
    "WaveVariance": (
        link := t.WaveVariance(min_spatial_size=1, c2=0.1),
        chain(link, t.FirstMoment(), t.Normalize(), LR),
    ),
    "WeightDecay": (link := t.WeightDecay(weight_decay=0.1), chain(link, LR)),
    "WeightDiffusion": (link := t.WeightDiffusion(c2=0.1, min_spatial_size=1), chain(LR, link)),
}

PRESETS = {
    "sgd": presets.sgd(),
    "sgd_momentum": presets.sgd(momentum=0.9, dampening=0.1, weight_decay=0.01),
    "sgd_nesterov": presets.sgd(momentum=0.9, nesterov=True),
    "adam": presets.adam(weight_decay=0.01),
    "adam_amsgrad": presets.adam(amsgrad=True),
    "adamw": presets.adamw(),
    "amsgrad": presets.amsgrad(),
    "nadam": presets.nadam(),
    "nadam_decoupled": presets.nadam(weight_decay=0.01, decoupled_weight_decay=True),
    "rmsprop": presets.rmsprop(),
    "rmsprop_centered": presets.rmsprop(centered=True, momentum=0.9),
    "adagrad": presets.adagrad(lr_decay=0.01),
    "lion": presets.lion(weight_decay=0.1),
    "adafactor": presets.adafactor(weight_decay=0.01),
    "ladam": presets.ladam(c2=0.1, weight_decay=0.01),
    "ladam_published": presets.ladam(c2=0.1, published=True, decay="coupled"),
    "ladam_update": presets.ladam(mode="update_lap", c2=0.1),
    "ladam_weight": presets.ladam(mode="weight_lap", c2=0.1),
    "ladam_wave": presets.ladam(mode="wave_variance"),
    "ladam_wave_published": presets.ladam(mode="wave_variance", published=True),
    "ladagrad": presets.ladagrad(c2=0.1),
    "lrmsprop": presets.lrmsprop(c2=0.1, momentum=0.9),
}
