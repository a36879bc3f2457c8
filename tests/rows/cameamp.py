"""CAME, Automagic and CameAMP: a row in each of the tables."""

import math

import numpy as np
from links import Flow
from reference import cameamp as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
CAME = (t.ResidualMomentum(), t.FactoredConfidence())


def flow(update, grad=None, param=None, lr=0.5, residual=0.5):
    """What is not given is the update itself (gradient), ones (parameter)."""
    u = np.array(update, dtype=float)
    given = [u if grad is None else np.array(grad, dtype=float), np.ones_like(u) if param is None else np.array(param, float)]
    return Flow(u, *given, u**2, lr, np.array(residual, dtype=float))


TWO = [flow([1, 2]), flow([3, 0])]
MASK = {"mask_start": 1.0, "min_lr": 0.0, "max_lr": 9.0, "lr_bump": 0.25}
RANK_ONE = [[1, 3], [2, 6]]
AWAY = {"update": [-3, -4], "grad": [3, 4], "param": [3, 4]}  # from 5 to 10, against the gradient

TRANSFORMS = {  # as in table.py
    "AdaDecay": (link := t.AdaDecay(), chain(*ADAM, link, LR)),
    "BlendedGrams": (link := t.BlendedGrams(), chain(*ADAM, link, LR)),
    "Confidence": (link := t.Confidence(), chain(t.ResidualMomentum(), link, LR)),
    "DirectedLRMask": (
        link := t.DirectedLRMask(mask_steps=3, directed_steps=2),
        chain(*ADAM, t.DualMomentum(), t.PublishedConfidence(), link, LR),
    ),
    "DualMomentum": (link := t.DualMomentum(torque_steps=3), chain(link, t.PublishedConfidence(), LR)),
    "EightBitLRMask": (link := t.EightBitLRMask(mask_steps=3), chain(*ADAM, link, LR)),
    "EightBitMomentum": (link := t.EightBitMomentum(), chain(link, t.Confidence(), LR)),
    "FactoredConfidence": (link := t.FactoredConfidence(), chain(t.ResidualMomentum(), link, LR)),
    "FactoredMeanSquare": (link := t.FactoredMeanSquare(), chain(link, t.Normalize(eps=0.0), LR)),
    "FallingMomentum": (link := t.FallingMomentum(), chain(link, t.Confidence(), LR)),
    "GroupAdaDecay": (link := t.GroupAdaDecay(), chain(*ADAM, link, LR)),
    "GrowingClamp": (link := t.GrowingClamp(), chain(link, *ADAM, LR)),
    "InitialRowScale": (link := t.InitialRowScale(), chain(*ADAM, link, LR)),
    "Int8LRMask": (link := t.Int8LRMask(), chain(*ADAM, link, LR)),
    "LaggedSPD": (link := t.LaggedSPD(rank_rate=0.1), chain(*ADAM, LR, link)),
    "MeanSquare": (link := t.MeanSquare(), chain(link, t.Normalize(eps=0.0), LR)),
    "OriginSPD": (link := t.OriginSPD(rank_rate=0.1), chain(*ADAM, LR, link)),
    "PreviousMeanSquare": (link := t.PreviousMeanSquare(), chain(link, t.Normalize(eps=0.0), LR)),
    "PublishedConfidence": (link := t.PublishedConfidence(), chain(t.TorqueMomentum(), link, LR)),
    "PublishedLRMask": (link := t.PublishedLRMask(mask_steps=3), chain(*ADAM, link, LR)),
    "PublishedOriginSPD": (link := t.PublishedOriginSPD(), chain(LR, link)),
    "PublishedSPD": (link := t.PublishedSPD(), chain(LR, link)),
    "RaisedConfidence": (link := t.RaisedConfidence(), chain(t.TorqueMomentum(), link, LR)),
    "ResidualMomentum": (link := t.ResidualMomentum(), chain(link, t.Confidence(), LR)),
    "RowTAM": (link := t.RowTAM(), chain(link, t.Momentum(), LR)),
    "ScaledClipUpdateRMS": (link := t.ScaledClipUpdateRMS(d=0.5), chain(link, LR)),
    "SecondAverage": (link := t.SecondAverage(), chain(t.ResidualMomentum(), link, t.Confidence(), LR)),
    "UphillSPD": (link := t.UphillSPD(), chain(t.DualMomentum(), t.PublishedConfidence(), LR, link)),
    "TorqueMomentum": (link := t.TorqueMomentum(torque_steps=3), chain(link, t.Confidence(), LR)),
}
PRESETS = {
    "automagic": presets.automagic(weight_decay=0.01),
    "automagic_published": presets.automagic(weight_decay=0.01, published=True, lr=1e-3, max_lr=0.1),
    "cameamp": presets.cameamp(warmup_steps=6),
    "cameamp_full_finetune": presets.cameamp_full_finetune(warmup_steps=5, weight_decay=0.5),
    "cameamp_image": presets.cameamp_image(warmup_steps=1),
    "cameamp_language": presets.cameamp_language(warmup_steps=2, came_enabled=False, background_regularization=False),
    "cameamp_lora": presets.cameamp_lora(warmup_steps=7, tam_correlation_method="vectorized"),
    "came": presets.came(weight_decay=0.01),
    "cameamp_improved": presets.cameamp_improved(warmup_steps=6),
    "cameamp_improved_orthogonal": presets.cameamp_improved(warmup_steps=7, orthogonal=True, weight_decay=0.5, lr=1e-3),
    "cameamp_improved_bare": presets.cameamp_improved(
        lr=1e-2,
        max_lr=0.1,
        warmup_steps=1,
        came=False,
        edge_suppression=False,
        background_regularization=False,
        spatial_awareness=False,
        lora_rank_penalty=False,
    ),
    "cameamp_dual": presets.cameamp_dual(warmup_steps=7, lr=1e-3),
    "cameamp_original": presets.cameamp_original(warmup_steps=6),
    "cameamp_original_full_finetune": presets.cameamp_original(warmup_steps=5, full_finetune=True, lr=1e-3),
    "cameamp_original_8bit": presets.cameamp_original_8bit(warmup_steps=5, lr=1e-3),
    "cameamp_adopt": presets.cameamp_adopt(warmup_steps=6, lr=1e-3),
    "cameamp_last": presets.cameamp_last(warmup_steps=6, lr=1e-3),
    "cameamp_last_no_came": presets.cameamp_last(warmup_steps=7, came=False, lr=1e-3, full_finetune=True),
    "cameamp_ges": presets.cameamp_ges(warmup_steps=6, lr=1e-3),
}
RULES = [  # as in test_against_references.py
    (t.AdaDecay(weight_decay=0.3), reference.ada_decay),
    (t.BlendedGrams(grams_decay=0.8), reference.blended_grams),
    (t.Confidence(beta3=0.9, eps2=0.01), reference.confidence),
    (t.DirectedLRMask(**MASK, lr_max_start=0.02, mask_steps=12, d_coef=1.5, directed_steps=8), reference.published_lr_mask),
    (t.DualMomentum(torque_steps=12, beta1_decay=0.9, torque_eps=0.01), reference.dual_momentum),
    (t.DualMomentum(torque_steps=1, alpha_mix_ratio=0.7, long_term_beta=0.8), reference.dual_momentum),
    (t.EightBitLRMask(**MASK, mask_steps=12), reference.eight_bit_lr_mask),
    (t.EightBitMomentum(momentum=0.8), reference.eight_bit_momentum),
    (t.FactoredConfidence(beta3=0.9, eps2=0.01), reference.factored_confidence),
    (t.FactoredMeanSquare(beta2=0.9, eps1=0.01), reference.factored_mean_square),
    (t.FallingMomentum(momentum=0.9, beta1_decay=0.9, momentum_floor=0.3), reference.falling_momentum),
    (t.GroupAdaDecay(weight_decay=0.3), reference.group_ada_decay),
    (t.GroupAdaDecay(weight_decay=0.3, ada_decay_steps=9), reference.group_ada_decay),
    (t.GrowingClamp(), reference.growing_clamp),
    (t.InitialRowScale(eta=1.5), reference.initial_row_scale),
    (t.Int8LRMask(**MASK), reference.int8_lr_mask),
    (t.LaggedSPD(spd_lambda=0.7), reference.lagged_spd),
    (t.LaggedSPD(spd_lambda=0.7, rank_rate=0.1), reference.lagged_spd),
    (t.MeanSquare(beta2=0.9, eps1=0.01), reference.mean_square),
    (t.OriginSPD(spd_lambda=0.7), reference.origin_spd),
    (t.OriginSPD(spd_lambda=0.7, rank_rate=0.2), reference.origin_spd),
    (t.PreviousMeanSquare(beta2=0.9, eps1=0.01), reference.previous_mean_square),
    (t.PublishedConfidence(beta3=0.8, early_beta3=0.9, early_beta3_steps=9, eps2=0.01), reference.published_confidence),
    (t.PublishedLRMask(**MASK, lr_max_start=0.02, mask_steps=12), reference.published_lr_mask),
    (t.PublishedLRMask(**MASK, lr_max_start=0.5, mask_steps=6, mask_floor=0.1), reference.published_lr_mask),
    (t.ResidualMomentum(momentum=0.8), reference.residual_momentum),
    (t.RowTAM(tam_beta=0.8, tam_decay=0.7, tam_eps=0.01), reference.row_tam),
    (t.PublishedOriginSPD(spd_lambda=0.7, rank_rate=0.1), reference.published_origin_spd),
    (t.PublishedSPD(spd_lambda=0.7), reference.published_spd),
    (t.RaisedConfidence(beta3=0.8, early_beta3=0.9, early_beta3_steps=9, eps2=0.01), reference.raised_confidence),
    (t.ScaledClipUpdateRMS(d=0.7), reference.scaled_clip),
    (t.SecondAverage(second_beta=0.7), reference.second_average),
    (t.TorqueMomentum(torque_steps=12, torque_beta=0.7, torque_emphasis=1.3, torque_eps=0.01), reference.torque_momentum),
    (t.TorqueMomentum(torque_steps=1, momentum=0.9, beta1_decay=0.9), reference.torque_momentum),
    (t.UphillSPD(spd_lambda=0.7, rank_rate=0.1), reference.uphill_spd),
]
BY_HAND = [  # as in test_by_hand.py
    # z = -1, 1; the decay of the first is 2 / (1 + 3) of 0.5, of the second 2 / (1 + 1 / 3)
    (
        t.AdaDecay(weight_decay=0.5, decay_slope=math.log(3)),
        [flow([1, 3], param=[4, -2])],
        {"update": [2, 1.5]},
    ),
    (t.BlendedGrams(grams_decay=0.5), [flow([1, -2], grad=[-1, -1])], {"update": [0, -2]}),
    # a residual that is always 1/2 doubles the update from the first step on
    (t.Confidence(beta3=0.5, eps2=1e-30), TWO, {"update": [6, 0]}),
    # the parameter (1, 1) points uphill (3 - 2 > 0), so the first falls by 0.5; then the same rises by 0.25 as all do
    (
        t.DirectedLRMask(**MASK, lr_max_start=0.5),
        [flow([3, -2])] * 2,
        {"update": [2 * 3 * 0.75, 2 * -2 * 1.5]},
    ),
    # a = 1, M = 1 + 2 = 3, V = (9 + 4) / 2, z = 3 / sqrt(6.5); then half of each
    (
        t.DualMomentum(momentum=0.5, dual_beta=0.5, long_term_beta=0.5, beta1_decay=1.0, torque_steps=1, torque_eps=0.0),
        [flow([2, -2], grad=[1, 5])],
        {
            "update": [1.5 + 1.5 / 6.5**0.5, -1.5 - 1.5 / 6.5**0.5],
            "residual": [1.5 / 6.5**0.5 - 1.5, 1.5 - 1.5 / 6.5**0.5],
            "processed": [3 / 6.5**0.5, -3 / 6.5**0.5],
            "regularized": [1, 5],
        },
    ),
    # k = 0.75 and 1.25: the first is 0.6 of the second, for which the map has 0.1 + 0.9 (35.5 / 64); then both rise by 0.25
    (
        t.EightBitLRMask(**MASK),
        [flow([1, -2])] * 2,
        {"update": [2 * (1.25 * (0.1 + 0.9 * 35.5 / 64) + 0.25), -6]},
    ),
    # m = (1, 1/2), and for 1/2 the map has 0.1 + 0.9 (28.5 / 64)
    (
        t.EightBitMomentum(momentum=0.5),
        [flow([2, 1]), flow([0, 0])],
        {"update": [0.5, (0.1 + 0.9 * 28.5 / 64) / 2], "residual": [-0.5, -(0.1 + 0.9 * 28.5 / 64) / 2]},
    ),
    (t.FactoredConfidence(beta3=0.0, eps2=1e-30), [flow(RANK_ONE, residual=RANK_ONE)], {"update": [[1, 1], [1, 1]]}),
    (t.FactoredConfidence(beta3=0.0), [flow([1, 2])], {"update": [1, 2]}),
    # a rank-one square is met exactly
    (t.FactoredMeanSquare(beta2=0.0, eps1=0.0), [flow(RANK_ONE)], {"second_moment": [[1, 9], [4, 36]]}),
    # b = 0.4, then 0.3 for 0.2
    (
        t.FallingMomentum(momentum=0.8, beta1_decay=0.5, momentum_floor=0.3),
        TWO,
        {"update": [2.28, 0.36], "residual": [0.72, -0.36]},
    ),
    (t.GroupAdaDecay(weight_decay=0.5), [flow([1, 2], param=[4, -2])], {"update": [3, 1]}),
    (t.GrowingClamp(), [flow([5, -1])] * 16, {"update": [2, -1]}),
    # rows of length 2 and 0; what the second becomes does not count
    (
        t.InitialRowScale(eta=0.5),
        [flow([[6], [6]], param=[[5], [0]]), flow([[6], [6]], param=[[5], [9]])],
        {"update": [[2], [3]]},
    ),
    # k = 0.75 and 1.25, the first of which is 76 of 127 parts of the second; then both rise by 0.25; lr = 1/2
    (t.Int8LRMask(**MASK), [flow([1, -2])] * 2, {"update": [2 * (95 / 127 + 0.25), -6]}),
    (t.LaggedSPD(spd_lambda=0.5), [flow(**AWAY)], {"update": [-3 + 15 / (10 + 1e-8), -4 + 20 / (10 + 1e-8)]}),
    # it fired, so now the parameter has not moved
    (t.LaggedSPD(spd_lambda=0.5), [flow(**AWAY)] * 2, {"update": [-3, -4]}),
    # s = (2, 5), then (10, 1)
    (t.MeanSquare(beta2=0.5, eps1=1.0), TWO, {"second_moment": [5.5, 1.75]}),
    # half of the way back from 10 to 5, half of which is taken
    (t.OriginSPD(spd_lambda=0.5), [flow(**AWAY)], {"update": [-1.5, -2]}),
    (t.OriginSPD(spd_lambda=0.25, rank_rate=0.1), [flow(**{k: [v] for k, v in AWAY.items()})], {"update": [[-1.5, -2]]}),
    (t.PreviousMeanSquare(eps1=0.0), TWO[:1], {"update": [0, 0], "second_moment": [1, 1], "gate": 0}),
    (t.PreviousMeanSquare(eps1=0.0), TWO, {"update": [3, 0], "second_moment": [1, 4], "gate": 1}),
    # r = 1/4 of 1/4
    (t.PublishedConfidence(early_beta3=0.75, eps2=1e-30), TWO[:1], {"update": [4, 8]}),
    (t.PublishedOriginSPD(spd_lambda=0.5), [flow(**AWAY)] * 2, {"update": [-3 + 15 / (10 + 1e-8), -4 + 20 / (10 + 1e-8)]}),
    (
        t.PublishedSPD(spd_lambda=0.5),
        [flow([0, 0], grad=[-1, -1], param=[0, 0]), *[flow(**AWAY)] * 2],
        {"update": [-3 + 15 / (10 + 1e-8), -4 + 20 / (10 + 1e-8)]},
    ),
    # e = 3.75: r = (1 - b) (0.25 + 3.75) = 1
    (t.RaisedConfidence(early_beta3=0.75, eps2=3.75), TWO[:1], {"update": [4.75, 9.5]}),
    # a root mean square of 5 becomes 2; one of 0.5 is doubled
    (t.ScaledClipUpdateRMS(d=2.0), [flow([1, 7])], {"update": [0.4, 2.8]}),
    (t.ScaledClipUpdateRMS(d=2.0), [flow([0.1, 0.7])], {"update": [0.2, 1.4]}),
    # k = 0.75 and 1.25, then 1 and 1.5; lr = 1/2
    (t.PublishedLRMask(**MASK, lr_max_start=0.5), [flow([1, -2])] * 2, {"update": [2, -6]}),
    # the learning rate is half of what it was at most: so is the mask
    (t.PublishedLRMask(**MASK, lr_max_start=1.0, mask_steps=1), [flow([1, -2])], {"update": [1, -2]}),
    (t.PublishedLRMask(**MASK, lr_max_start=1.0, mask_steps=1, mask_floor=0.75), [flow([1, -2])], {"update": [1.5, -3]}),
    (t.ResidualMomentum(momentum=0.5), TWO, {"update": [1.75, 0.5], "residual": [1.25, -0.5]}),
    # the first row comes again (cosine 1, similarity 1/2), the second turns round
    (
        t.RowTAM(tam_decay=0.5, tam_eps=0.0),
        [flow([[3, 4], [1, 0]]), flow([[3, 4], [-1, 0]])],
        {"update": [[9 / 4, 3], [-1 / 4, 0]]},
    ),
    (t.SecondAverage(second_beta=0.5), TWO[:1], {"residual": 0.25}),
    # half of (3, 4) enters m; the same again has products (0.36, 0.64), a tenth of which is the torque
    (
        t.TorqueMomentum(torque_eps=0.0),
        [flow([3, 4])] * 2,
        {"update": [2.904, 3.928], "residual": [0.096, 0.072]},
    ),
    (
        t.TorqueMomentum(torque_steps=1, momentum=0.5, beta1_decay=1.0),
        TWO,
        {"update": [1.75, 0.5], "residual": [1.25, -0.5]},
    ),
    # the first step has not moved; the second comes from (3, 4) and would go on to (6, 8)
    (
        t.UphillSPD(spd_lambda=0.5),
        [flow([0, 0], grad=[-1, -1], param=[0, 0]), flow(**AWAY)],
        {"update": [-3 + 15 / (10 + 1e-8), -4 + 20 / (10 + 1e-8)]},
    ),
]
INF = float("inf")
UNIT, POSITIVE = [0.0, 0.999], [0.0, 9.0]
MASKS = {"mask_start": POSITIVE, "min_lr": [0.0, 1e-9], "max_lr": [1.0], "lr_bump": POSITIVE}
ALLOWED = {  # as in test_errors.py
    t.AdaDecay: {"weight_decay": POSITIVE, "decay_slope": POSITIVE},
    t.BlendedGrams: {"grams_decay": [0.0, 1.0]},
    t.Confidence: {"beta3": UNIT, "eps2": [1e-30, 1.0]},
    t.DirectedLRMask: MASKS
    | {"lr_max_start": POSITIVE, "mask_steps": [1, 9], "mask_floor": [0.0, 1.0], "d_coef": POSITIVE, "directed_steps": [1, 9]},
    t.DualMomentum: {
        "momentum": UNIT,
        "beta1_decay": [1e-3, 1.0],
        "dual_beta": UNIT,
        "long_term_beta": UNIT,
        "alpha_mix_ratio": [None, 0.0, 9.0],
        "torque_steps": [1, 9],
        "torque_beta": UNIT,
        "torque_eps": POSITIVE,
    },
    t.EightBitLRMask: MASKS | {"mask_steps": [1, 9]},
    t.EightBitMomentum: {"momentum": UNIT},
    t.FactoredConfidence: {"beta3": UNIT, "eps2": [1e-30, 1.0]},
    t.FactoredMeanSquare: {"beta2": UNIT, "eps1": [0.0, 1.0]},
    t.FallingMomentum: {"momentum": UNIT, "beta1_decay": [1e-3, 1.0], "momentum_floor": UNIT},
    t.GroupAdaDecay: {"weight_decay": POSITIVE, "decay_slope": POSITIVE, "ada_decay_steps": [None, 1, 9]},
    t.GrowingClamp: {},
    t.InitialRowScale: {"eta": [1e-3, 9.0]},
    t.Int8LRMask: MASKS,
    t.LaggedSPD: {"spd_lambda": POSITIVE, "rank_rate": POSITIVE},
    t.MeanSquare: {"beta2": UNIT, "eps1": [0.0, 1.0]},
    t.OriginSPD: {"spd_lambda": POSITIVE, "rank_rate": POSITIVE},
    t.PreviousMeanSquare: {"beta2": UNIT, "eps1": [0.0, 1.0]},
    **{
        kind: {"beta3": UNIT, "early_beta3": UNIT, "early_beta3_steps": [1, 9], "eps2": [1e-30, 1.0]}
        for kind in (t.PublishedConfidence, t.RaisedConfidence)
    },
    t.PublishedOriginSPD: {"spd_lambda": POSITIVE, "rank_rate": POSITIVE},
    t.PublishedSPD: {"spd_lambda": POSITIVE, "rank_rate": POSITIVE},
    t.PublishedLRMask: MASKS | {"lr_max_start": POSITIVE, "mask_steps": [1, 9], "mask_floor": [0.0, 1.0]},
    t.ResidualMomentum: {"momentum": UNIT},
    t.RowTAM: {"tam_beta": UNIT, "tam_decay": UNIT, "tam_eps": POSITIVE},
    t.ScaledClipUpdateRMS: {"d": [1e-3, 9.0]},
    t.SecondAverage: {"second_beta": [0.0, 1.0]},
    t.TorqueMomentum: {
        "momentum": UNIT,
        "beta1_decay": [1e-3, 1.0],
        "momentum_floor": UNIT,
        "torque_steps": [1, 9],
        "torque_beta": UNIT,
        "torque_emphasis": POSITIVE,
        "torque_eps": POSITIVE,
    },
    t.UphillSPD: {"spd_lambda": POSITIVE, "rank_rate": POSITIVE},
}
NEGATIVE = [(-0.1, r"a number in \[0, inf\)")]
NO_DECAY = [(1.0, r"a number in \[0, 1\)"), (-0.1, r"a number in \[0, 1\)")]
NO_PART = [(1.1, r"a number in \[0, 1\]"), (-0.1, r"a number in \[0, 1\]")]
NO_COUNT = [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")]
REFUSED = {
    "beta1_decay": [(0.0, r"a number in \(0, 1\]"), (1.1, r"a number in \(0, 1\]")],
    "beta3": NO_DECAY,
    "ada_decay_steps": [(0, r"a whole number in \[1, inf\).* or None"), (1.5, "a whole number")],
    "alpha_mix_ratio": [(-0.1, r"a number in \[0, inf\).* or None")],
    "d_coef": NEGATIVE,
    "decay_slope": NEGATIVE,
    "directed_steps": NO_COUNT,
    "dual_beta": NO_DECAY,
    "early_beta3": NO_DECAY,
    "early_beta3_steps": NO_COUNT,
    "grams_decay": NO_PART,
    "long_term_beta": NO_DECAY,
    "lr_max_start": NEGATIVE,
    "mask_floor": NO_PART,
    "mask_start": NEGATIVE,
    "mask_steps": NO_COUNT,
    "momentum_floor": NO_DECAY,
    "rank_rate": NEGATIVE,
    "second_beta": NO_PART,
    "torque_beta": NO_DECAY,
    "torque_emphasis": NEGATIVE,
    "torque_eps": NEGATIVE,
    "torque_steps": NO_COUNT,
    **{(kind, "beta2"): NO_DECAY for kind in (t.MeanSquare, t.FactoredMeanSquare, t.PreviousMeanSquare)},
    **{(kind, "eps1"): NEGATIVE for kind in (t.MeanSquare, t.FactoredMeanSquare, t.PreviousMeanSquare)},
    **{
        (kind, "eps2"): [(0.0, r"a number in \(0, inf\)")]
        for kind in (t.Confidence, t.FactoredConfidence, t.PublishedConfidence, t.RaisedConfidence)
    },
    (t.ScaledClipUpdateRMS, "d"): [(0.0, r"a number in \(0, inf\)"), (INF, r"a number in \(0, inf\)")],
    **{
        (kind, "momentum"): NO_DECAY
        for kind in (t.ResidualMomentum, t.FallingMomentum, t.TorqueMomentum, t.EightBitMomentum, t.DualMomentum)
    },
}


IGNORED = ("eta", "full_finetune", "verbose")  # by the improved version
VERSIONS = {
    "de285ff": presets.cameamp_original,
    "94c29fc": presets.cameamp_adopt,
    "1bba43e": presets.cameamp_last,
    "unattributed": presets.cameamp_ges,
}


def improved(case):
    """863c5b5 is the version that added OrthoGrad; 803cb56 the one with dual momentum."""
    kept = {key: value for key, value in case.kwargs.items() if key not in IGNORED}
    return presets.cameamp_improved(**kept, orthogonal="863c5b5" in case.info["version"])


def dual(case):
    """Only without the rank penalty, whose torque is broken there."""
    kept = {key: value for key, value in case.kwargs.items() if key not in (*IGNORED, "lora_rank_penalty")}
    return presets.cameamp_dual(**kept)


def versioned(case):
    return next(preset for mark, preset in VERSIONS.items() if mark in case.info["version"])(**case.kwargs)


REPLAYS = {  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
    ("came_automagic", "Automagic"): lambda case: presets.automagic(**case.kwargs, published=True),
    ("came_automagic", "CAME"): lambda case: presets.came(**case.kwargs),
    ("cameamp_improved", "Automagic_CameAMP_Improved"): improved,
    ("cameamp_other", "Automagic_CameAMP_Improved"): dual,
    ("cameamp_other", "Automagic_CameAMP"): versioned,
    ("cameamp_other", "Automagic_CameAMP8bit"): lambda case: presets.cameamp_original_8bit(**case.kwargs),
}
