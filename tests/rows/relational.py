"""The relational guide: a row in each of the tables."""

import math

import numpy as np
from links import Flow
from reference import relational as reference

from gradchain import chain, presets
from gradchain import transforms as t

ADAM = (t.Moments(), t.Normalize(), t.LearningRate(lr=1e-2))
INF = math.inf


def flow(update, param=None):
    u = np.array(update, dtype=float)
    return Flow(u, u, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2)


TRANSFORMS = {  # as in table.py
    "AllPairsGuide": (link := t.AllPairsGuide(beta=-0.3, update_interval=2), chain(link, *ADAM)),
    "ClipValue": (link := t.ClipValue(clip_value=0.5), chain(link, *ADAM)),
    "PublishedAllPairsGuide": (link := t.PublishedAllPairsGuide(beta_0=2.0), chain(link, *ADAM)),
    "PublishedRelationalGuide": (link := t.PublishedRelationalGuide(beta_0=2.0), chain(link, *ADAM)),
    "RelationalGuide": (link := t.RelationalGuide(beta=0.3, update_interval=2, k_neighbors=3), chain(link, *ADAM)),
}
PRESETS = {
    "relational_gradient": presets.relational_gradient(beta_0=-0.4, update_interval=3),
    "relational_gradient_all_pairs": presets.relational_gradient(version="0.5", grad_clip=2.0),
    "relational_gradient_published": presets.relational_gradient(beta_0=5.0, published=True),
    "relational_gradient_published_all_pairs": presets.relational_gradient(beta_0=5.0, version="0.5", published=True),
}
RULES = [  # as in test_against_references.py
    (t.AllPairsGuide(beta=-0.7, update_interval=4), reference.all_pairs),
    (t.ClipValue(clip_value=0.6), reference.clip_value),
    (t.PublishedAllPairsGuide(beta_0=3.0, lambda_reg=0.1, guide_clip=0.8), reference.published_all_pairs),
    (t.PublishedRelationalGuide(beta_0=3.0, update_interval=4, guide_clip=2.0), reference.published_relational),
    (t.RelationalGuide(beta=0.7, update_interval=4, k_neighbors=3, delta=0.3), reference.relational),
    (t.RelationalGuide(beta=-0.7, update_interval=1, distance="local"), reference.relational),
    (t.RelationalGuide(beta=0.7, update_interval=30, k_neighbors=2, ties="symmetric"), reference.relational),
    (t.RelationalGuide(beta=0.7, k_neighbors=9, ties="symmetric", distance="local"), reference.relational),
]

# parameters 0, 1 and 3: the nearest of each is 1, 0 and 1, at 1/3, 1/3 and 2/3 of the range
THREE = [flow([3, 5, 1], param=[0, 1, 3])]
# weights 1 / (R + 0.1) of the pairs (0, 1), (0, 3), (1, 3)
W01, W03, W13 = 30 / 13, 10 / 11, 30 / 23
BY_HAND = [  # as in test_by_hand.py
    (
        t.AllPairsGuide(beta=1.0),
        THREE,
        {
            "update": [
                3 + (-2 * W01 + 2 * W03) / (W01 + W03),
                5 + (2 * W01 + 4 * W13) / (W01 + W13),
                1 + (-2 * W03 - 4 * W13) / (W03 + W13),
            ]
        },
    ),
    (t.ClipValue(clip_value=2.0), THREE, {"update": [2, 2, 1]}),
    (
        t.PublishedAllPairsGuide(beta_0=1 + 35**0.5, lambda_reg=0.5, guide_clip=INF),
        THREE,
        {"update": [3 + (-2 * W01 + 2 * W03) / 3, 5 + (2 * W01 + 4 * W13) / 3, 1 + (-2 * W03 - 4 * W13) / 3]},
    ),
    # the guides -2 w, 2 w, -4 w with w > 1 are clipped
    (t.PublishedRelationalGuide(beta_0=1 + 35**0.5, k_neighbors=1), THREE, {"update": [2, 6, 0]}),
    # there are only 2 others, and the sum is still divided by 8
    (
        t.PublishedRelationalGuide(beta_0=1 + 35**0.5, k_neighbors=8),
        THREE,
        {"update": [3 + (-2 * W01 + 2 * W03) / 8, 6, 1 + (-2 * W03 - 4 * W13) / 8]},
    ),
    (t.RelationalGuide(beta=0.5, k_neighbors=1), THREE, {"update": [2, 6, -1]}),
    # all equal: the neighbor in memory, or the mean of the other two
    (t.RelationalGuide(beta=1.0, k_neighbors=1), [flow([3, 5, 1])], {"update": [1, 7, -3]}),
    (t.RelationalGuide(beta=1.0, k_neighbors=1, ties="symmetric"), [flow([3, 5, 1])], {"update": [3, 8, -2]}),
    # the order is that of the first step, the gradients are of the second
    (
        t.RelationalGuide(beta=0.5, k_neighbors=1, update_interval=2),
        [flow([9, 9, 9], param=[0, 1, 3]), flow([3, 5, 1], param=[0, 9, 3])],
        {"update": [2, 6, -1]},
    ),
]
COMMON = {"k_neighbors": [1, 99], "update_interval": [1, 99]}
ALLOWED = {  # as in test_errors.py
    t.AllPairsGuide: {"beta": [-2.0, 2.0], "update_interval": [1, 99]},
    t.ClipValue: {"clip_value": [1e-9, INF]},
    t.PublishedAllPairsGuide: {"beta_0": [0.0, 9.0], "lambda_reg": [0.0, 1.0], "guide_clip": [1e-9, INF]},
    t.PublishedRelationalGuide: COMMON | {"beta_0": [0.0, 9.0], "guide_clip": [1e-9, INF]},
    t.RelationalGuide: COMMON
    | {"beta": [-2.0, 2.0], "delta": [1e-9, 9.0], "distance": ["range", "local"], "ties": ["rank", "symmetric"]},
}
REFUSED = {
    "beta": [(INF, r"a number in \(-inf, inf\)")],
    "beta_0": [(-0.1, r"a number in \[0, inf\)")],
    "clip_value": [(0.0, r"a number in \(0, inf\]")],
    "delta": [(0.0, r"a number in \(0, inf\)")],
    "distance": [("rank", "one of 'range', 'local'")],
    "guide_clip": [(0.0, r"a number in \(0, inf\]")],
    "k_neighbors": [(0, r"a whole number in \[1, inf\)"), (2.5, "a whole number")],
    "lambda_reg": [(1.1, r"a number in \[0, 1\]"), (-0.1, r"a number in \[0, 1\]")],
    "ties": [("range", "one of 'rank', 'symmetric'")],
    "update_interval": [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")],
}
REPLAYS = {  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
    ("relational", "RelationalGradientV5"): lambda case: presets.relational_gradient(
        **case.kwargs, version="0.5", published=True
    ),
    ("relational", "RelationalGradientV6"): lambda case: presets.relational_gradient(
        **case.kwargs, version="0.6", published=True
    ),
}
