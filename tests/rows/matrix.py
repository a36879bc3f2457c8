"""Muon, LAMB, LARS, StableAdamW and their links: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import matrix as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)


def flow(update, param=None, grad=None, second=None, lr=0.5):
    u = np.array(update, dtype=float)
    param, grad, second = (u if x is None else np.array(x, dtype=float) for x in (param, grad, second))
    return Flow(u, grad, param, second, lr)


TRANSFORMS = {  # as in table.py
    "AverageMomentum": (link := t.AverageMomentum(), chain(link, LR)),
    "NesterovAverage": (link := t.NesterovAverage(), chain(link, LR)),
    "Orthogonalize": (link := t.Orthogonalize(), chain(t.NesterovAverage(), link, LR)),
    "TrustRatio": (link := t.TrustRatio(), chain(link, LR)),
    "LARS": (link := t.LARS(weight_decay=0.1), chain(link, t.Momentum(), LR)),
    "ClipNormalizedRMS": (link := t.ClipNormalizedRMS(), chain(t.Moments(), t.Normalize(), link, LR)),
}
PRESETS = {
    "muon": presets.muon(),
    "muon_rms": presets.muon(nesterov=False, adjust_lr_fn="match_rms_adamw", weight_decay=0.0),
    "c_muon": presets.c_muon(),
    "came_muon": presets.came_muon(weight_decay=0.01),
    "lamb": presets.lamb(),
    "lars": presets.lars(),
    "lars_nesterov": presets.lars(nesterov=True, weight_decay=0.0),
    "stable_adamw": presets.stable_adamw(),
}
RULES = [  # as in test_against_references.py
    (t.AverageMomentum(momentum=0.8), reference.average),
    (t.NesterovAverage(momentum=0.8), reference.nesterov_average),
    (t.Orthogonalize(), reference.orthogonalize),
    (t.Orthogonalize(ns_steps=3, adjust_lr_fn="match_rms_adamw", ns_eps=5.0), reference.orthogonalize),
    (t.Orthogonalize(ns_steps=8, adjust_lr_fn="rms_to_rms", ns_coefficients="convergent"), reference.orthogonalize),
    (t.Orthogonalize(ns_steps=1, adjust_lr_fn="none"), reference.orthogonalize),
    (t.TrustRatio(), reference.trust_ratio),
    (t.TrustRatio(weight_norm_range=(2.0, 3.5), trust_limit=0.9), reference.trust_ratio),
    (t.LARS(trust_coefficient=0.02, weight_decay=0.3), reference.lars),
    (t.ClipNormalizedRMS(rms_eps=0.3), reference.clip_normalized),
]
BY_HAND = [  # as in test_by_hand.py
    (t.AverageMomentum(momentum=0.5), [flow([1, 2]), flow([3, 0])], {"update": [1.75, 0.5]}),
    # b = (1.75, 0.5) as above, and half of it with half of (3, 0)
    (t.NesterovAverage(momentum=0.5), [flow([1, 2]), flow([3, 0])], {"update": [2.375, 0.25]}),
    # divided by 5: 0.6 and 0.8, or with the signs of a permuted diagonal; p(x) = 1.875 x - 1.25 x^3 + 0.375 x^5
    (
        t.Orthogonalize(ns_steps=1, ns_coefficients="convergent"),
        [flow([[0, 3], [-4, 0]])],
        {"update": [[0, 0.88416], [-0.98288, 0]]},
    ),
    # one column: its length 1 stays at p(1) = 1; four rows to a column are doubled
    (
        t.Orthogonalize(ns_steps=1, ns_coefficients="convergent"),
        [flow([[3], [0], [4], [0]])],
        {"update": [[1.2], [0], [1.6], [0]]},
    ),
    (t.Orthogonalize(), [flow([3, 4])], {"update": [3, 4]}),
    # lengths 10 and 5
    (t.TrustRatio(), [flow([3, 4], param=[6, 8])], {"update": [6, 8]}),
    (t.TrustRatio(weight_norm_range=(0.0, 2.5)), [flow([3, 4], param=[6, 8])], {"update": [1.5, 2]}),
    (t.TrustRatio(), [flow([3, 4], param=[0, 0])], {"update": [3, 4]}),
    # 0.5 10 / (5 + 0.5 10) = 1/2 of (3, 4) + (3, 4)
    (t.LARS(trust_coefficient=0.5, weight_decay=0.5), [flow([3, 4], param=[6, 8])], {"update": [3, 4]}),
    # mean of 4 / 1 and 16 / 4 = 4, its root 2; then smaller than 1
    (t.ClipNormalizedRMS(), [flow([1, 3], grad=[2, -4], second=[1, 4])], {"update": [0.5, 1.5]}),
    (t.ClipNormalizedRMS(), [flow([1, 3], grad=[0.5, 1], second=[1, 4])], {"update": [1, 3]}),
]
ALLOWED = {  # as in test_errors.py
    t.AverageMomentum: {"momentum": [0.0, 0.99]},
    t.NesterovAverage: {"momentum": [0.0, 0.99]},
    t.Orthogonalize: {
        "ns_steps": [1, 99],
        "ns_coefficients": ["jordan", "convergent"],
        "ns_eps": [0.0, 1.0],
        "adjust_lr_fn": ["original", "match_rms_adamw", "rms_to_rms", "none"],
        "ns_precision": ["full", "bfloat16"],
    },
    t.TrustRatio: {"weight_norm_range": [(0.0, 0.0), (1.0, float("inf"))], "trust_limit": [1e-3, float("inf")]},
    t.LARS: {"trust_coefficient": [1e-9, 5.0], "weight_decay": [0.0, 5.0]},
    t.ClipNormalizedRMS: {"rms_eps": [0.0, 1.0]},
}
REFUSED = {
    (t.AverageMomentum, "momentum"): [(1.0, r"a number in \[0, 1\)")],
    (t.NesterovAverage, "momentum"): [(-0.1, r"a number in \[0, 1\)")],
    "ns_steps": [(0, r"a whole number in \[1, 99\]"), (2.5, "a whole number"), (100, r"in \[1, 99\]")],
    "ns_coefficients": [("quintic", "one of 'jordan', 'convergent'")],
    "ns_eps": [(-1.0, r"a number in \[0, inf\)")],
    "adjust_lr_fn": [("adam", "one of 'original'")],
    "ns_precision": [("float16", "one of 'full', 'bfloat16'")],
    "weight_norm_range": [((-1.0, 1.0), r"each a number in \[0, inf\)"), (1.0, "2 numbers")],
    "trust_limit": [(0.0, r"a number in \(0, inf\]")],
    "trust_coefficient": [(0.0, r"a number in \(0, inf\)")],
    "rms_eps": [(-1.0, r"a number in \[0, inf\)")],
}
REPLAYS = {}
