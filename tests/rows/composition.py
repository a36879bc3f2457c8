"""Links and presets that people combine: clipping, trust ratios, Muon and others: a row in each of the tables."""

import math

import numpy as np
from links import Flow
from reference import gradients

from gradchain import chain
from gradchain import transforms as t

ADAM = (t.Moments(), t.Normalize(), t.LearningRate(lr=1e-2))
INF = math.inf


def flow(update, param=None):
    u = np.array(update, dtype=float)
    return Flow(u, u, np.ones_like(u) if param is None else np.array(param, dtype=float), u**2)


TRANSFORMS = {  # as in table.py
    "AGC": (link := t.AGC(clipping=0.1), chain(link, *ADAM)),
    "CautiousWeightDecay": (link := t.CautiousWeightDecay(weight_decay=0.1), chain(t.Moments(), t.Normalize(), link, ADAM[-1])),
    "Centralize": (link := t.Centralize(), chain(link, *ADAM)),
    "ClipGlobalNorm": (link := t.ClipGlobalNorm(), chain(link, *ADAM)),
    "ClipNorm": (link := t.ClipNorm(), chain(link, *ADAM)),
    "LaplacianSmoothing": (link := t.LaplacianSmoothing(), chain(link, *ADAM)),
    "ZClip": (link := t.ZClip(z_thresh=0.5, zclip_warmup_steps=2), chain(link, *ADAM)),
}
PRESETS = {}
RULES = [  # as in test_against_references.py
    (t.AGC(clipping=0.4), gradients.agc),
    (t.AGC(clipping=0.4, agc_eps=2.0), gradients.agc),
    (t.CautiousWeightDecay(weight_decay=0.2), gradients.cautious_decay),
    (t.Centralize(), gradients.centralize),
    (t.ClipGlobalNorm(max_norm=2.0), gradients.clip_global_norm),
    (t.ClipNorm(clip_norm=2.0), gradients.clip_norm),
    (t.LaplacianSmoothing(sigma=1.5), gradients.laplacian_smoothing),
    (t.ZClip(z_thresh=0.7, zclip_alpha=0.8, zclip_warmup_steps=6), gradients.zclip),
]
BY_HAND = [  # as in test_by_hand.py
    # the first row's weights have length 5, so its gradient may have 1; the second is shorter than the 2 that it may have
    (t.AGC(clipping=0.2), [flow([[6, 8], [1, 0]], param=[[3, 4], [0, 10]])], {"update": [[0.6, 0.8], [1, 0]]}),
    (t.AGC(clipping=0.5, agc_eps=2.0), [flow([3, 4], param=[0, 0])], {"update": [0.6, 0.8]}),
    (t.CautiousWeightDecay(weight_decay=0.5), [flow([1, -1, 0, 2], param=[4, 4, -2, -2])], {"update": [3, -1, -1, 2]}),
    (t.Centralize(), [flow([[1, 3], [-4, 0]])], {"update": [[-1, 1], [-2, 2]]}),
    (t.Centralize(), [flow([1, 3])], {"update": [1, 3]}),
    (t.ClipGlobalNorm(max_norm=1.0), [flow([3, 4])], {"update": [0.6, 0.8]}),
    (t.ClipNorm(clip_norm=10.0), [flow([3, 4])], {"update": [3, 4]}),
    # of two elements, the mean stays and the difference is damped by 1 + 4 sigma
    (t.LaplacianSmoothing(sigma=1.0), [flow([0, 10])], {"update": [4, 6]}),
    # norms 5 and 10: mean 7.5, deviation 2.5; then 17.5 with z = 4: 7.5 + 2.5 / 4
    (
        t.ZClip(z_thresh=1.0, zclip_warmup_steps=2, zclip_eps=0.0),
        [flow([3, 4]), flow([6, 8]), flow([0, 17.5])],
        {"update": [0, 8.125]},
    ),
]
ALLOWED = {  # as in test_errors.py
    t.AGC: {"clipping": [1e-9, INF], "agc_eps": [0.0, 1.0]},
    t.CautiousWeightDecay: {"weight_decay": [0.0, 5.0]},
    t.Centralize: {},
    t.ClipGlobalNorm: {"max_norm": [1e-9, INF]},
    t.ClipNorm: {"clip_norm": [1e-9, INF]},
    t.LaplacianSmoothing: {"sigma": [0.0, 9.0]},
    t.ZClip: {
        "z_thresh": [1e-9, INF],
        "zclip_alpha": [0.0, 0.99],
        "zclip_warmup_steps": [1, 99],
        "zclip_eps": [0.0, 1.0],
    },
}
REFUSED = {
    "agc_eps": [(-1.0, r"a number in \[0, inf\)")],
    "clipping": [(0.0, r"a number in \(0, inf\]")],
    "clip_norm": [(0.0, r"a number in \(0, inf\]"), (-1.0, r"a number in \(0, inf\]")],
    "max_norm": [(0.0, r"a number in \(0, inf\]"), (-1.0, r"a number in \(0, inf\]")],
    "sigma": [(-0.1, r"a number in \[0, inf\)")],
    "z_thresh": [(0.0, r"a number in \(0, inf\]")],
    "zclip_alpha": [(1.0, r"a number in \[0, 1\)")],
    "zclip_eps": [(-1.0, r"a number in \[0, inf\)")],
    "zclip_warmup_steps": [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")],
}
REPLAYS = {}  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
