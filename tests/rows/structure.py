"""Links that own the write or the call, and presets of several chains: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import structure as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)


def flow(update, param=None, lr=0.5):
    u = np.array(update, dtype=float)
    return Flow(u, u, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2, lr)


TRANSFORMS = {  # as in table.py
    "ASAM": (link := t.ASAM(), chain(link, LR)),
    "CorrectedSecondMoment": (link := t.CorrectedSecondMoment(), chain(link, t.Normalize(), LR)),
    "SAM": (link := t.SAM(), chain(link, LR)),
    "ScheduleFree": (link := t.ScheduleFree(warmup_steps=3), chain(LR, link)),
    "WeightEMA": (link := t.WeightEMA(), chain(LR, link)),
}
PRESETS = {
    "schedule_free_adamw": presets.schedule_free_adamw(weight_decay=0.01, warmup_steps=3),
    "schedule_free_sgd": presets.schedule_free_sgd(weight_decay=0.01, r=0.5),
}
RULES = [  # as in test_against_references.py
    (t.ASAM(), reference.nothing),  # see optim_wrapper/test_calls.py
    (t.SAM(), reference.nothing),
    (t.CorrectedSecondMoment(beta2=0.9), reference.corrected_second_moment),
    (t.ScheduleFree(momentum=0.8), reference.schedule_free),
    (t.ScheduleFree(momentum=0.8, r=0.5, weight_lr_power=1.5, warmup_steps=7), reference.schedule_free),
    (t.WeightEMA(), reference.nothing),
]
BY_HAND = [  # as in test_by_hand.py
    (t.CorrectedSecondMoment(beta2=0.5), [flow([1, 2]), flow([3, 0])], {"second_moment": [19 / 3, 4 / 3]}),
    # c = 1 on the first step: y = x = z = 1 - 2; then z = -1 - 4 = -5, x = (-1 - 5) / 2 = -3, y = (-5 - 3) / 2 = -4
    (t.ScheduleFree(momentum=0.5), [flow([2])], {"update": [2]}),
    (t.ScheduleFree(momentum=0.5), [flow([2]), flow([4], param=[-1])], {"update": [3]}),
    (t.WeightEMA(), [flow([2])], {}),
    (t.SAM(), [flow([2])], {}),
    (t.ASAM(), [flow([2])], {}),
]
ALLOWED = {  # as in test_errors.py
    t.ASAM: {"rho": [0.0, 2.0], "asam_eta": [0.0, 1.0]},
    t.SAM: {"rho": [0.0, 2.0]},
    t.CorrectedSecondMoment: {"beta2": [0.0, 0.99]},
    t.ScheduleFree: {"momentum": [0.01, 0.99], "r": [0.0, 2.0], "weight_lr_power": [0.0, 2.0], "warmup_steps": [0, 5]},
    t.WeightEMA: {"ema_decay": [0.0, 0.99]},
}
REFUSED = {
    "asam_eta": [(-1.0, r"a number in \[0, inf\)")],
    "rho": [(-1.0, r"a number in \[0, inf\)")],
    "beta2": [(1.0, r"a number in \[0, 1\)")],
    "ema_decay": [(1.0, r"a number in \[0, 1\)"), (-0.1, r"a number in \[0, 1\)")],
    "r": [(-1.0, r"a number in \[0, inf\)")],
    "weight_lr_power": [(-1.0, r"a number in \[0, inf\)")],
    (t.ScheduleFree, "warmup_steps"): [(-1, r"a whole number in \[0, inf\)"), (0.5, "a whole number")],
    (t.ScheduleFree, "momentum"): [(0.0, r"a number in \(0, 1\)"), (1.0, r"a number in \(0, 1\)")],
}
REPLAYS = {}  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
