"""Other averages than Adam's, other divisions and writes: a row in each of the tables."""

import math

import numpy as np
from links import Flow
from reference import averages as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
INF, HALVES = math.inf, (0.5, 0.5, 0.5)


def flow(update, param=None, second=None, lr=0.5):
    u = np.array(update, dtype=float)
    param = np.ones_like(u) if param is None else np.array(param, dtype=float)
    return Flow(u, u, param, u**2 if second is None else np.array(second, dtype=float), lr)


DISTANCE = t.ProdigyDistance(d0=0.1)
TRANSFORMS = {  # as in table.py
    "AdEMAMix": (link := t.AdEMAMix(alpha_warmup=5, beta3_warmup=5), chain(link, t.Normalize(), LR)),
    "AdanMoments": (link := t.AdanMoments(), chain(link, t.Normalize(), LR)),
    "Atan2": (link := t.Atan2(), chain(t.Moments(), link, LR)),
    "Kahan": (link := t.Kahan(), chain(LR, link)),
    "MARS": (link := t.MARS(), chain(link, t.Moments(), t.Normalize(), LR)),
    "ProdigyDistance": (DISTANCE, chain(DISTANCE, t.UncorrectedMoments(), t.ScaledNormalize(), t.ApplyScale(), LR)),
    "ProximalWeightDecay": (link := t.ProximalWeightDecay(weight_decay=0.1), chain(LR, link)),
    "RAdam": (link := t.RAdam(), chain(link, LR)),
    "RateWeightedMomentum": (link := t.RateWeightedMomentum(), chain(link, LR)),
    "ScaledNormalize": (link := t.ScaledNormalize(), chain(t.Moments(), link, LR)),
    "UncorrectedMoments": (link := t.UncorrectedMoments(), chain(link, t.Normalize(), LR)),
}
PRESETS = {
    "adam_atan2": presets.adam_atan2(weight_decay=0.01),
    "adan": presets.adan(weight_decay=0.01),
    "adan_decoupled": presets.adan(weight_decay=0.01, no_prox=True, max_grad_norm=1.0),
    "ademamix": presets.ademamix(weight_decay=0.01, alpha_warmup=10, beta3_warmup=10),
    "kahan_adamw": presets.kahan_adamw(),
    "laprop": presets.laprop(weight_decay=0.01),
    "mars": presets.mars(weight_decay=0.01, optimize_1d=True),
    "mars_by_shape": presets.mars(weight_decay=0.01),
    "prodigy": presets.prodigy(d0=0.1, weight_decay=0.01),
    "prodigy_corrected": presets.prodigy(d0=0.1, decouple=False, use_bias_correction=True, growth_rate=1.02),
    "radam": presets.radam(weight_decay=0.01),
}
RULES = [  # as in test_against_references.py
    (t.AdEMAMix(betas=(0.8, 0.95, 0.99), alpha=3.0), reference.ademamix),
    (t.AdEMAMix(betas=(0.8, 0.95, 0.999), alpha_warmup=9, beta3_warmup=14), reference.ademamix),
    (t.AdanMoments(betas=(0.9, 0.8, 0.95)), reference.adan),
    (t.Atan2(a=1.5, b=0.7), reference.atan2),
    (t.Kahan(), reference.kahan),
    (t.MARS(gamma=0.1, mars_beta=0.9, mars_clip=2.0), reference.mars),
    (t.ProdigyDistance(d0=0.1, beta3=0.9), reference.prodigy),
    (
        t.ProdigyDistance(d0=0.01, d_coef=2.0, growth_rate=1.1, safeguard_warmup=True, correction=(0.8, 0.9)),
        reference.prodigy,
    ),
    (t.ProximalWeightDecay(weight_decay=0.2), reference.proximal),
    (t.RAdam(betas=(0.8, 0.95)), reference.radam),
    (t.RAdam(betas=(0.8, 0.5)), reference.radam),
    (t.RateWeightedMomentum(momentum=0.8), reference.rate_weighted),
    (t.ScaledNormalize(eps=0.1), reference.scaled_normalize),
    (t.UncorrectedMoments(betas=(0.8, 0.95)), reference.uncorrected),
]
TWO = [flow([1, 2]), flow([3, 0])]
BY_HAND = [  # as in test_by_hand.py
    # both averages (7/4, 1/2); the quick one over 3/4, the slow one times 4
    (t.AdEMAMix(betas=HALVES, alpha=4.0), TWO, {"update": [7 / 3 + 7, 2 / 3 + 2], "second_moment": [19 / 3, 4 / 3]}),
    # the change is (2, -2), half of it (1, -1); half of that again, over 3/4; v = (1/2, 2) / 2 + (16, 1) / 2
    (t.AdanMoments(betas=HALVES), TWO, {"update": [7 / 3 + 2 / 3, 0], "second_moment": [8.25 / 0.75, 2]}),
    (t.Atan2(a=4 / math.pi), [flow([1, -1, 0], second=[1, 0, 0])], {"update": [1, -2, 0]}),
    (t.Kahan(), [flow([2.0**-30]), flow([2.0**-30])], {"update": [2.0**-29]}),
    # gamma b / (1 - b) = 1: (3, 4) doubled has length 10; then twice (0, 1) less (3, 4) is (-3, -2)
    (t.MARS(gamma=1.0, mars_beta=0.5, mars_clip=5.0), [flow([3, 4])], {"update": [3, 4]}),
    (t.MARS(gamma=1.0, mars_beta=0.5, mars_clip=5.0), [flow([3, 4]), flow([0, 1])], {"update": [-3, -2]}),
    # at 1 - 2 = -1: r = 4, s = 2 / 2 + 2, each times d^2 lr; the estimate 4 / 3 counts from the third step on, for eps at once
    (t.ProdigyDistance(d0=1.0, beta3=0.5), [flow([2]), flow([2], param=[-1])], {"update": [2], "scale": 1, "eps_scale": 4 / 3}),
    (
        t.ProdigyDistance(d0=1.0, beta3=0.5),
        [flow([2]), flow([2], param=[-1]), flow([3])],
        {"update": [4], "scale": 4 / 3, "eps_scale": 4 / 3},
    ),
    (t.ProximalWeightDecay(weight_decay=0.5), [flow([1], param=[4])], {"update": [4 - 3 / 1.25]}),
    (t.RAdam(betas=(0.5, 0.5)), TWO, {"update": [7 / 3, 2 / 3]}),
    # at rates 1 and 3, the newer one twice as heavy for its age
    (t.RateWeightedMomentum(momentum=0.5), [flow([1], lr=1.0), flow([8], lr=3.0)], {"update": [7]}),
    (t.ScaledNormalize(eps=1.0), [flow([6, -2], second=[4, 1])], {"update": [2, -1]}),
    (t.UncorrectedMoments(betas=(0.5, 0.5)), TWO, {"update": [1.75, 0.5], "second_moment": [4.75, 1]}),
]
BETAS, THREE = {"betas": [(0.0, 0.0), (0.999, 0.999)]}, {"betas": [(0.0, 0.0, 0.0), (0.99, 0.99, 0.99)]}
ALLOWED = {  # as in test_errors.py
    t.AdEMAMix: THREE | {"alpha": [0.0, 9.0], "alpha_warmup": [None, 1, 99], "beta3_warmup": [None, 1, 99]},
    t.AdanMoments: THREE,
    t.Atan2: {"a": [1e-9, 2.0], "b": [1e-9, 2.0]},
    t.Kahan: {},
    t.MARS: {"gamma": [0.0, 2.0], "mars_beta": [0.0, 0.99], "mars_clip": [1e-9, INF]},
    t.ProdigyDistance: {
        "d0": [1e-9, 1.0],
        "d_coef": [1e-3, 2.0],
        "growth_rate": [1.01, None],
        "beta3": [0.0, 0.99],
        "safeguard_warmup": [True, False],
        "correction": [(0.0, 0.0), (0.99, 0.99)],
    },
    t.ProximalWeightDecay: {"weight_decay": [0.0, 5.0]},
    t.RAdam: BETAS | {"radam_eps": [0.0, 1.0]},
    t.RateWeightedMomentum: {"momentum": [0.0, 0.99]},
    t.ScaledNormalize: {"eps": [0.0, 1.0]},
    t.UncorrectedMoments: BETAS,
}
POSITIVE, SHARE = r"a number in \(0, inf\)", r"a number in \[0, 1\)"
REFUSED = {
    (t.Atan2, "a"): [(0.0, POSITIVE)],
    "alpha_warmup": [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")],
    (t.Atan2, "b"): [(-1.0, POSITIVE)],
    "beta3_warmup": [(0, r"a whole number in \[1, inf\)")],
    "correction": [((0.9, 1.0), SHARE), (0.9, "2 numbers")],
    "d0": [(0.0, POSITIVE)],
    (t.ProdigyDistance, "d_coef"): [(0.0, POSITIVE)],
    (t.MARS, "gamma"): [(-0.1, r"a number in \[0, inf\)")],
    (t.ProdigyDistance, "growth_rate"): [(1.0, r"a number in \(1, inf\)")],
    "mars_beta": [(1.0, SHARE)],
    "mars_clip": [(0.0, r"a number in \(0, inf\]")],
    "radam_eps": [(-1.0, r"a number in \[0, inf\)")],
    "safeguard_warmup": [(1, "a bool")],
    (t.AdEMAMix, "betas"): [((0.9, 0.999), "3 numbers"), ((0.9, 0.999, 1.0), SHARE)],
    (t.AdEMAMix, "alpha"): [(-1.0, r"a number in \[0, inf\)")],
    (t.AdanMoments, "betas"): [((0.9, 0.999), "3 numbers"), ((0.9, 0.999, 1.0), SHARE)],
    (t.ProdigyDistance, "beta3"): [(1.0, SHARE)],
    (t.RateWeightedMomentum, "momentum"): [(1.0, SHARE)],
}
REPLAYS = {}  # as in golden/test_replay.py
