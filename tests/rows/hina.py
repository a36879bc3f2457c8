"""The Hina family: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import hina as reference

from gradchain import chain
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
HALF = (0.5, 0.5)
FADING = {"weight_decay": 0.3, "wd_transition_steps": 4, "wd_decay_factor": 0.5, "wd_min_ratio": 0.1}


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    grad = u if grad is None else np.array(grad, dtype=float)
    return Flow(u, grad, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2, 0.5)


TWO = [flow([1, 2]), flow([3, 0])]

TRANSFORMS = {  # as in table.py
    "AlignmentDamping": (link := t.AlignmentDamping(), chain(*ADAM, link, LR)),
    "DynamicWeightDecay": (link := t.DynamicWeightDecay(**FADING), chain(*ADAM, link, LR)),
    "DynamicWeightDecayAfterStep": (link := t.DynamicWeightDecayAfterStep(**FADING), chain(*ADAM, LR, link)),
    "LaggedMoments": (link := t.LaggedMoments(), chain(link, t.Normalize(), LR)),
    "MonotoneMoments": (link := t.MonotoneMoments(), chain(link, t.Normalize(), LR)),
    "NormCeiling": (link := t.NormCeiling(), chain(link, *ADAM, LR)),
    "PullToStart": (link := t.PullToStart(), chain(*ADAM, LR, link)),
    "TorqueDamping": (link := t.TorqueDamping(), chain(t.Moments(), link, t.Normalize(), LR)),
}
PRESETS = {}
RULES = [  # as in test_against_references.py
    (t.AlignmentDamping(alignment_threshold=-0.05, alignment_factor=0.3), reference.alignment_damping),
    (t.DynamicWeightDecay(**FADING), reference.dynamic_decay),
    (t.DynamicWeightDecayAfterStep(**FADING), reference.dynamic_decay_after),
    (t.DynamicWeightDecayAfterStep(**FADING, wd_longest=5.0), reference.dynamic_decay_after),
    (t.LaggedMoments(betas=(0.8, 0.95)), reference.lagged),
    (t.MonotoneMoments(betas=(0.8, 0.5)), reference.monotone),
    (t.NormCeiling(norm_ceiling=2.5), reference.norm_ceiling),
    (t.PullToStart(spd_lambda=0.7), reference.pull),
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
ALLOWED = {  # as in test_errors.py
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
    "alignment_factor": [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")],
    "alignment_threshold": [(-1.1, r"a number in \[-1, 1\]"), (1.1, r"a number in \[-1, 1\]")],
    "norm_ceiling": [(0.0, r"a number in \(0, inf\]")],
    "wd_decay_factor": [(0.0, r"a number in \(0, 1\]"), (1.1, r"a number in \(0, 1\]")],
    "wd_longest": [(-1.0, r"a number in \[0, inf\]")],
    "wd_min_ratio": [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")],
    "wd_transition_steps": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
}
REPLAYS = {}  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
