"""The Hina family: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import hina as reference
from reference import hina_scales as scales

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
HALF = (0.5, 0.5)
FADING = {"weight_decay": 0.3, "wd_transition_steps": 4, "wd_decay_factor": 0.5, "wd_min_ratio": 0.1}


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    grad = u if grad is None else np.array(grad, dtype=float)
    return Flow(u, grad, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2, 0.5)


MASK = {"lr_bump": 0.01, "min_lr": 0.02, "max_lr": 0.15, "warmup_steps": 18}
RATES = {"lr_bump": 0.25, "min_lr": 0.125, "max_lr": 1.0, "warmup_steps": 4}  # at lr = 1/2
SCORE = {"importance_interval": 3, "importance_decay": 0.7}
APPLIED = (t.ApplyScale(), LR)
TWO = [flow([1, 2]), flow([3, 0])]

TRANSFORMS = {  # as in table.py
    "AbsoluteImportance": (link := t.AbsoluteImportance(importance_interval=1), chain(*ADAM, link, *APPLIED)),
    "AlignmentDamping": (link := t.AlignmentDamping(), chain(*ADAM, link, LR)),
    "DynamicWeightDecay": (link := t.DynamicWeightDecay(**FADING), chain(*ADAM, link, LR)),
    "DynamicWeightDecayAfterStep": (link := t.DynamicWeightDecayAfterStep(**FADING), chain(*ADAM, LR, link)),
    "ElementLRMask": (link := t.ElementLRMask(**MASK), chain(*ADAM, link, *APPLIED)),
    "Importance": (link := t.Importance(importance_interval=2), chain(*ADAM, link, *APPLIED)),
    "LRMask": (link := t.LRMask(**MASK), chain(*ADAM, link, *APPLIED)),
    "LaggedMoments": (link := t.LaggedMoments(), chain(link, t.Normalize(), LR)),
    "LastPartnerRelations": (link := t.LastPartnerRelations(relationship_discovery_interval=1), chain(*ADAM, link, *APPLIED)),
    "MonotoneMoments": (link := t.MonotoneMoments(), chain(link, t.Normalize(), LR)),
    "NormCeiling": (link := t.NormCeiling(), chain(link, *ADAM, LR)),
    "PullToStart": (link := t.PullToStart(), chain(*ADAM, LR, link)),
    "Relations": (link := t.Relations(relationship_discovery_interval=2), chain(*ADAM, link, *APPLIED)),
    "TensorLRMask": (link := t.TensorLRMask(**MASK), chain(*ADAM, link, *APPLIED)),
    "TorqueDamping": (link := t.TorqueDamping(), chain(t.Moments(), link, t.Normalize(), LR)),
}
PLAIN = {"use_dynamic_adaptation": False, "use_lr_mask": False}
PRESETS = {
    "adaptive_hina": presets.adaptive_hina(),
    "adaptive_hina_general": presets.adaptive_hina_general(**PLAIN, use_grams=False),
    "adaptive_hina_large_model": presets.adaptive_hina_large_model(use_dynamic_adaptation=False, use_tam=False, warmup_steps=4),
    "adaptive_hina_low_memory": presets.adaptive_hina_low_memory(**PLAIN, use_adopt_stability=False, use_orthogonal_grad=True),
    "adaptive_hina_sd_lora": presets.adaptive_hina_sd_lora(
        use_lr_mask=False, use_adopt_stability=False, dynamic_weight_decay=False, relationship_discovery_interval=3
    ),
    "adaptive_hina_published": presets.adaptive_hina(
        published=True, relations=True, relationship_discovery_interval=2, warmup_steps=4
    ),
}
RULES = [  # as in test_against_references.py
    (t.AbsoluteImportance(**SCORE, adaptation_strength=0.8), scales.absolute_importance),
    (t.AbsoluteImportance(**SCORE, adaptation_strength=8.0), scales.absolute_importance),
    (t.AlignmentDamping(alignment_threshold=-0.05, alignment_factor=0.3), reference.alignment_damping),
    (t.DynamicWeightDecay(**FADING), reference.dynamic_decay),
    (t.DynamicWeightDecayAfterStep(**FADING), reference.dynamic_decay_after),
    (t.DynamicWeightDecayAfterStep(**FADING, wd_longest=5.0), reference.dynamic_decay_after),
    (t.ElementLRMask(**MASK), scales.element_mask),
    (t.Importance(**SCORE), scales.importance),
    (t.LRMask(**MASK), scales.lr_mask),
    (t.LastPartnerRelations(), scales.relations),
    (t.LaggedMoments(betas=(0.8, 0.95)), reference.lagged),
    (t.MonotoneMoments(betas=(0.8, 0.5)), reference.monotone),
    (t.NormCeiling(norm_ceiling=2.5), reference.norm_ceiling),
    (t.PullToStart(spd_lambda=0.7), reference.pull),
    (t.Relations(), scales.relations),
    (t.TensorLRMask(**MASK), scales.tensor_mask),
    (t.TorqueDamping(tam_beta=0.7), reference.torque_damping),
]
BY_HAND = [  # as in test_by_hand.py
    # a right angle is below the threshold, 45 degrees are not, and nothing has no angle
    (t.AlignmentDamping(), [flow([4, 0], grad=[0, 1])], {"update": [2, 0]}),
    (t.AlignmentDamping(), [flow([4, 0], grad=[1, 1])], {"update": [4, 0]}),
    (t.AlignmentDamping(), [flow([4, 0], grad=[0, 0])], {"update": [4, 0]}),
    # constant for one step, then 1/4 and, for good, the floor
    (
        t.DynamicWeightDecay(weight_decay=1.0, wd_transition_steps=1, wd_decay_factor=0.25),
        [flow([0], param=[8])] * 2,
        {"update": [2]},
    ),
    (
        t.DynamicWeightDecay(weight_decay=1.0, wd_transition_steps=1, wd_decay_factor=0.25, wd_min_ratio=0.125),
        [flow([0], param=[8])] * 9,
        {"update": [1]},
    ),
    # the step arrives at 4; half of lr = 1/2 of a quarter of that is taken off, and never less
    (
        t.DynamicWeightDecayAfterStep(weight_decay=0.5, wd_transition_steps=1, wd_decay_factor=0.5),
        [flow([4], param=[8])] * 5,
        {"update": [4.25]},
    ),
    # m = (7/4, 1/2), v = (1/2, 2) before (19/4, 1)
    # |grad| = 5, var(w) = 8 with one of two elements at 0: 0.4 * 5 + 0.3 * 8 / 2 = 3.2, averaged with 1
    (
        t.AbsoluteImportance(importance_interval=1, importance_decay=0.5),
        [flow([3, 4], param=[0, 4])],
        {"scale": 2.1},
    ),
    # no second element, no variance: 0.01
    (t.AbsoluteImportance(importance_interval=1, importance_decay=0.0), [flow([3])], {"scale": 0.1}),
    (t.Importance(importance_interval=1, importance_decay=0.0), [flow([3, 4], param=[0, 4])], {"scale": 1}),
    # lr = 1/2; the first step has nothing to compare with, then one sign stays, one turns and one is 0
    (t.LRMask(**RATES), [flow([1, -1, 1]), flow([1, 1, 0])], {"scale": [1.5, 0.5, 1]}),
    # behind the 0, the third element is compared with its last sign
    (t.LRMask(**RATES), [flow([1, -1, 1]), flow([1, 1, 0]), flow([1, -1, 1])], {"scale": [2, 0.25, 1.5]}),
    # the fourth step is the first that is settled
    (t.LRMask(**RATES), [flow([1, -1, 1])] * 9, {"scale": [2, 2, 2]}),
    # "not positive" at the start: only the second is what it was
    (t.ElementLRMask(**RATES), [flow([1, -1, 0])], {"scale": [0.5, 1.5, 1.5]}),
    (t.ElementLRMask(**RATES), [flow([1, -1, 0]), flow([1, 1, 0])], {"scale": [1, 1, 2]}),
    (t.TensorLRMask(**RATES), [flow([1, -1, 0]), flow([1, 1, 0])], {"scale": 4 / 3}),
    (t.Relations(), [flow([[1, 2]])], {"scale": 1}),
    (t.LastPartnerRelations(), [flow([[1, 2]])] * 200, {"scale": 1}),
    (t.LaggedMoments(betas=HALF), TWO, {"update": [7 / 2 / 3**0.5, 1 / 3**0.5], "second_moment": [0.5, 2]}),
    (t.LaggedMoments(betas=HALF), TWO[:1], {"update": [0.5**0.5, 2 * 0.5**0.5], "second_moment": [0.5, 2]}),
    (t.MonotoneMoments(betas=HALF), TWO, {"update": [7 / 3, 2 / 3], "second_moment": [19 / 3, 8 / 3]}),
    (t.NormCeiling(), [flow([3, 4])], {"update": [0.6, 0.8]}),
    (t.NormCeiling(), [flow([0.3, 0.4])], {"update": [0.3, 0.4]}),
    # from (1, 1) to (4, 5): |(3, 4)| = 5 gone at a size of sqrt(41)
    (
        t.PullToStart(spd_lambda=0.2),
        [flow([0, 0]), flow([-3, -4])],
        {"update": [-3 + 0.5 / 41**0.5 * 3, -4 + 0.5 / 41**0.5 * 4]},
    ),
    # cosines 1 and 3/5: average 1/2, then 11/20
    (t.TorqueDamping(tam_beta=0.5), [flow([3, 4]), flow([3, 4], grad=[2, 0])], {"update": [3 * 0.775, 4 * 0.775]}),
]
DECAY = {"wd_transition_steps": [1, 9], "wd_decay_factor": [1e-3, 1.0], "wd_min_ratio": [0.0, 1.0], "weight_decay": [0.0, 5.0]}
INF = float("inf")
WORTH = {"adaptation_strength": [0.0, 9.0], "importance_decay": [0.0, 0.99], "importance_interval": [1, 9]}
WORTH |= {"importance_range": [(0.0, 0.0), (1.0, INF)]}
FIT = {"compatibility_threshold": [0.0, 1.0], "relationship_discovery_interval": [1, 9]}
MASKS = {"lr_bump": [0.0, 1.0], "min_lr": [0.0], "max_lr": [1e-7, 1.0], "warmup_steps": [1, 9]}
ALLOWED = {  # as in test_errors.py
    t.AbsoluteImportance: WORTH,
    t.ElementLRMask: MASKS,
    t.Importance: WORTH,
    t.LRMask: MASKS,
    t.LastPartnerRelations: FIT,
    t.Relations: FIT,
    t.TensorLRMask: MASKS,
    t.AlignmentDamping: {"alignment_threshold": [-1.0, 1.0], "alignment_factor": [0.0, 1.0]},
    t.DynamicWeightDecay: DECAY,
    t.DynamicWeightDecayAfterStep: DECAY | {"wd_longest": [0.0, float("inf")]},
    t.LaggedMoments: {"betas": [(0.0, 0.0), (0.999, 0.999)]},
    t.MonotoneMoments: {"betas": [(0.0, 0.0), (0.999, 0.999)]},
    t.NormCeiling: {"norm_ceiling": [1e-9, float("inf")]},
    t.PullToStart: {"spd_lambda": [0.0, 1.5]},
    t.TorqueDamping: {"tam_beta": [0.0, 0.999]},
}
REFUSED = {
    "adaptation_strength": [(-0.1, r"a number in \[0, inf\)")],
    "compatibility_threshold": [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")],
    "importance_decay": [(1.0, r"a number in \[0, 1\)")],
    "importance_interval": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
    "importance_range": [((-1.0, 2.0), r"each .* in \[0, inf\)"), (1.0, "2 numbers")],
    "lr_bump": [(-1.0, r"a number in \[0, inf\)")],
    "max_lr": [(-1.0, r"a number in \[0, inf\)")],
    "min_lr": [(-1.0, r"a number in \[0, inf\)")],
    "relationship_discovery_interval": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
    "warmup_steps": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
    "alignment_factor": [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")],
    "alignment_threshold": [(-1.1, r"a number in \[-1, 1\]"), (1.1, r"a number in \[-1, 1\]")],
    "norm_ceiling": [(0.0, r"a number in \(0, inf\]")],
    "wd_decay_factor": [(0.0, r"a number in \(0, 1\]"), (1.1, r"a number in \(0, 1\]")],
    "wd_longest": [(-1.0, r"a number in \[0, inf\]")],
    "wd_min_ratio": [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")],
    "wd_transition_steps": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
}


def adaptive(case):
    """With the program's discovery of relations where the recorded run had it repaired."""
    repaired = any("discovery repaired" in note for note in case.info["notes"])
    return presets.adaptive_hina(**case.kwargs, relations=repaired, published=True)


REPLAYS = {("hina_adaptive", "AdaptiveHinaAdamW"): adaptive}  # as in golden/test_replay.py
