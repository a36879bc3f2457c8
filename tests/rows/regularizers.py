"""Regularizers of matrices, filters of gradients, parameter pairs: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import regularizers as reference

from gradchain import chain
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
DOT = [[0, 0, 0], [0, 2, 0], [0, 0, 0]]  # its curvature is 8 in the middle, 0 elsewhere


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    return Flow(
        u, u if grad is None else np.array(grad, dtype=float), u if param is None else np.array(param, dtype=float), u**2
    )


TRANSFORMS = {  # as in table.py
    "DifferencePenalty": (link := t.DifferencePenalty(), chain(link, *ADAM, LR)),
    "EdgeGroupAGR": (link := t.EdgeGroupAGR(), chain(link, *ADAM, LR)),
    "GroupAGR": (link := t.GroupAGR(), chain(link, *ADAM, LR)),
    "MatrixL2": (link := t.MatrixL2(), chain(link, *ADAM, LR)),
    "PublishedBackgroundRegularization": (
        link := t.PublishedBackgroundRegularization(background_threshold=0.9),
        chain(*ADAM, link, LR),
    ),
    "PublishedEdgeHistory": (link := t.PublishedEdgeHistory(), chain(*ADAM, link, LR)),
    "PublishedFrequencyPenalty": (link := t.PublishedFrequencyPenalty(), chain(link, *ADAM, LR)),
    "PublishedSpatialAwareness": (link := t.PublishedSpatialAwareness(), chain(link, *ADAM, LR)),
}
PRESETS = {}
RULES = [  # as in test_against_references.py
    (t.DifferencePenalty(frequency_penalty=0.3), reference.difference),
    (t.EdgeGroupAGR(edge_penalty=0.7, edge_threshold=0.3), reference.edge_group_agr),
    (t.GroupAGR(agr_eps=0.1), reference.group_agr),
    (t.MatrixL2(rank_penalty_strength=0.3), reference.matrix_l2),
    (t.MatrixL2(rank_penalty_strength=0.3, rank_penalty_min_extent=3), reference.matrix_l2),
    (t.PublishedBackgroundRegularization(background_threshold=1.0), reference.published_background),
    (t.PublishedEdgeHistory(edge_history_penalty=0.3, edge_history_decay=0.8), reference.published_edge_history),
    (t.PublishedEdgeHistory(edge_history_matrices_only=True), reference.published_edge_history),
    (t.PublishedFrequencyPenalty(frequency_penalty=0.3), reference.published_frequency),
    (t.PublishedSpatialAwareness(detail_preservation=0.9, variance_decay=0.7), reference.published_spatial),
]
BY_HAND = [  # as in test_by_hand.py
    # left: 2 and 0; above: 1 and |2 - 3|
    (t.DifferencePenalty(frequency_penalty=0.5), [flow([[1, 3], [2, 2]])], {"update": [[1, 2], [1.5, 1.5]]}),
    # the middle is the whole gradient: 2 (1 - (1 + 8 / 2))
    (
        t.EdgeGroupAGR(agr_eps=0.0, edge_penalty=0.5, edge_threshold=1.0),
        [flow(DOT)],
        {"update": [[0, 0, 0], [0, -8, 0], [0, 0, 0]]},
    ),
    (t.GroupAGR(agr_eps=0.0), [flow([1, -3])], {"update": [3 / 4, -3 / 4]}),
    (t.MatrixL2(rank_penalty_strength=0.5), [flow([[1, 2]], param=[[4, -2]])], {"update": [[3, 1]]}),
    (t.PublishedBackgroundRegularization(), [flow([1, 2], grad=[3, 3])], {"update": [0.5, 1]}),
    (t.PublishedBackgroundRegularization(), [flow([1, 2], grad=[3, 4])], {"update": [1, 2]}),
    # histories 4 and 6
    (t.PublishedEdgeHistory(edge_history_decay=0.5), [flow(DOT)] * 2, {"update": [[0, 0, 0], [0, 0.8, 0], [0, 0, 0]]}),
    # a constant is all in the lowest bin, a checkerboard all in the highest
    (t.PublishedFrequencyPenalty(frequency_penalty=0.25), [flow([[1, 1], [1, 1]])], {"update": [[0.75] * 2] * 2}),
    (t.PublishedFrequencyPenalty(frequency_penalty=0.25), [flow([[1, -1], [-1, 1]])], {"update": [[1, -1], [-1, 1]]}),
    # variance 2: q = 1.1 after the first step
    (t.PublishedSpatialAwareness(), [flow([[0, 0]], grad=[[1, 3]])] * 2, {"bump_scale": [[0.88, 0.88]]}),
]
ALLOWED = {  # as in test_errors.py
    t.DifferencePenalty: {"frequency_penalty": [0.0, 2.0]},
    t.EdgeGroupAGR: {
        "agr_eps": [0.0, 1.0],
        "edge_penalty": [0.0, 9.0],
        "edge_threshold": [0.0, 9.0],
        "edge_matrices_only": [True, False],
    },
    t.GroupAGR: {"agr_eps": [0.0, 1.0]},
    t.MatrixL2: {"rank_penalty_strength": [0.0, 1.0], "rank_penalty_min_extent": [1, 11]},
    t.PublishedBackgroundRegularization: {"background_threshold": [0.0, 1.0]},
    t.PublishedEdgeHistory: {
        "edge_history_penalty": [0.0, 9.0],
        "edge_history_threshold": [0.0, 9.0],
        "edge_history_decay": [0.0, 0.99],
        "edge_history_matrices_only": [True, False],
    },
    t.PublishedFrequencyPenalty: {"frequency_penalty": [0.0, 2.0]},
    t.PublishedSpatialAwareness: {"detail_preservation": [0.0, 2.0], "variance_decay": [0.0, 0.99]},
}
POSITIVE = [(-0.1, r"a number in \[0, inf\)")]
DECAY = [(1.0, r"a number in \[0, 1\)"), (-0.1, r"a number in \[0, 1\)")]
REFUSED = {
    "agr_eps": POSITIVE,
    "background_threshold": POSITIVE,
    "detail_preservation": POSITIVE,
    "edge_history_decay": DECAY,
    "edge_history_matrices_only": [(1, "a bool")],
    "edge_history_penalty": POSITIVE,
    "edge_history_threshold": POSITIVE,
    "edge_matrices_only": [(1, "a bool")],
    "edge_penalty": POSITIVE,
    "edge_threshold": POSITIVE,
    "frequency_penalty": POSITIVE,
    "rank_penalty_min_extent": [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")],
    "rank_penalty_strength": POSITIVE,
    "variance_decay": DECAY,
}
REPLAYS = {}  # as in golden/test_replay.py: (family, published class) -> what makes the chain of a case
