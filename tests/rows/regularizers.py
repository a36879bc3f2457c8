"""Regularizers of matrices, filters of gradients, parameter pairs: a row in each of the tables."""

import numpy as np
from links import Flow
from reference import regularizers as reference

from gradchain import chain, presets
from gradchain import transforms as t

LR = t.LearningRate(lr=1e-2)
ADAM = (t.Moments(), t.Normalize())
TWO_ONE = [[2, 0], [0, 1]]
ZERO = [[0, 0], [0, 0]]
DOT = [[0, 0, 0], [0, 2, 0], [0, 0, 0]]  # its curvature is 8 in the middle, 0 elsewhere


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    return Flow(
        u, u if grad is None else np.array(grad, dtype=float), u if param is None else np.array(param, dtype=float), u**2
    )


TRANSFORMS = {  # as in table.py
    "BackgroundRegularization": (
        link := t.BackgroundRegularization(background_threshold=0.9),
        chain(*ADAM, link, LR),
    ),
    "EdgeSuppression": (link := t.EdgeSuppression(), chain(*ADAM, link, LR)),
    "FrequencyPenalty": (link := t.FrequencyPenalty(), chain(link, *ADAM, LR)),
    "Lookahead": (link := t.Lookahead(la_steps=2), chain(LR, link)),
    "LowRankEmphasis": (link := t.LowRankEmphasis(low_rank_emphasis_rank=2), chain(t.Momentum(), link, LR)),
    "MultilayerLookahead": (link := t.MultilayerLookahead(la_ks=(1, 2, 2, 2)), chain(LR, link)),
    "RankAwareDecay": (link := t.RankAwareDecay(weight_decay=0.1, rank_decay_rank=2), chain(*ADAM, link, LR)),
    "RankPenalty": (link := t.RankPenalty(rank_penalty_rank=2, rank_penalty_interval=3), chain(link, *ADAM, LR)),
    "SpatialAwareness": (link := t.SpatialAwareness(), chain(link, *ADAM, LR)),
    "TopEigenvalueL2": (link := t.TopEigenvalueL2(), chain(link, *ADAM, LR)),
    "DifferencePenalty": (link := t.DifferencePenalty(), chain(link, *ADAM, LR)),
    "EdgeDamping": (link := t.EdgeDamping(), chain(link, *ADAM, LR)),
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
PRESETS = {
    "hina_adaptive": presets.hina_adaptive(edge_suppression=True, lora_rank_penalty=True, use_orthogonal_grad=True),
    "hina_adaptive_adam": presets.hina_adaptive(
        edge_suppression=True, use_agr=False, use_adopt_stability=False, use_lr_mask=False
    ),
}
RULES = [  # as in test_against_references.py
    (t.BackgroundRegularization(background_threshold=0.9, background_decay=0.5), reference.background),
    (t.EdgeSuppression(edge_threshold=2.0, edge_decay=0.5), reference.edge_suppression),
    (t.FrequencyPenalty(frequency_penalty=0.7), reference.frequency),
    (t.FrequencyPenalty(frequency_penalty=1.0, frequency_cutoff=0.5), reference.frequency),
    (t.Lookahead(la_steps=3, la_alpha=0.7), reference.lookahead),
    (t.LowRankEmphasis(low_rank_emphasis=1.7, low_rank_emphasis_rank=2), reference.low_rank_emphasis),
    (t.MultilayerLookahead(la_layers=4, la_ks=(2, 2, 1, 2)), reference.multilayer_lookahead),
    (t.MultilayerLookahead(la_layers=1, la_ks=(3, 1, 1, 1)), reference.multilayer_lookahead),
    (t.RankAwareDecay(weight_decay=0.3, rank_decay_rank=1, rank_decay_interval=5), reference.rank_aware_decay),
    (t.RankAwareDecay(weight_decay=0.3, rank_decay_excess=0.5, rank_decay_rank=3), reference.rank_aware_decay),
    (t.RankPenalty(rank_penalty_strength=0.3, rank_penalty_rank=1, rank_penalty_interval=4), reference.rank_penalty),
    (t.RankPenalty(rank_penalty_strength=0.3, rank_penalty_rank=3), reference.rank_penalty),
    (t.SpatialAwareness(detail_preservation=0.9, detail_decay=0.7), reference.spatial),
    (t.TopEigenvalueL2(rank_penalty_strength=0.3), reference.top_eigenvalue_l2),
    (t.DifferencePenalty(frequency_penalty=0.3), reference.difference),
    (t.EdgeDamping(edge_penalty=0.7, edge_threshold=1.5), reference.edge_damping),
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
    # variances 0.02 and 18, of mean squares 9.62 and 9
    (t.BackgroundRegularization(background_threshold=0.5), [flow([1, 2], grad=[3, 3.2])], {"update": [0.5, 1]}),
    (t.BackgroundRegularization(background_threshold=0.5), [flow([1, 2], grad=[3, -3])], {"update": [1, 2]}),
    # the root mean square is 2/3, the middle 3 of these, its curvature 12; half of it enters the history
    (t.EdgeSuppression(edge_decay=0.5), [flow(DOT)], {"update": [[0, 0, 0], [0, 0.8, 0], [0, 0, 0]]}),
    # a constant 2 and a checkerboard 1
    (t.FrequencyPenalty(frequency_penalty=0.5), [flow([[3, 1], [1, 3]])], {"update": [[2.5, 1.5], [1.5, 2.5]]}),
    # from (1, 1) half of the way to (2, 4)
    (
        t.Lookahead(la_steps=2, la_alpha=0.5),
        [flow([0, 0], param=[1, 1]), flow([2, 1], param=[4, 5])],
        {"update": [2.5, 2.5]},
    ),
    # sixty renewals on a matrix with singular values 2 and 1
    (
        t.LowRankEmphasis(low_rank_emphasis=3.0, low_rank_emphasis_rank=1, low_rank_emphasis_interval=1),
        [flow(TWO_ONE)] * 60,
        {"update": [[6, 0], [0, 1]]},
    ),
    # steps to 2, 3, 2.25: slow weights 1.5, then 2.25, which the second layer draws to 1.625, then 1.9375
    (
        t.MultilayerLookahead(la_layers=2, la_alphas=(0.5, 0.5, 1.0, 1.0), la_ks=(1, 2, 1, 1)),
        [flow([-1], param=[1]), flow([-1.5], param=[1.5]), flow([0], param=[2.25])],
        {"update": [0.3125]},
    ),
    (
        t.RankAwareDecay(weight_decay=0.5, rank_decay_excess=2.0, rank_decay_rank=1, rank_decay_interval=1),
        [flow(ZERO, param=TWO_ONE)] * 60,
        {"update": [[1, 0], [0, 1.5]]},
    ),
    (
        t.RankPenalty(rank_penalty_strength=0.5, rank_penalty_rank=1, rank_penalty_interval=1),
        [flow(ZERO, param=TWO_ONE)] * 60,
        {"update": [[0, 0], [0, 0.5]]},
    ),
    # |w|^2 = 5
    (
        t.TopEigenvalueL2(rank_penalty_strength=0.1),
        [flow([[1, 1]], param=[[2, -1]])],
        {"update": [[2, 0.5]]},
    ),
    # eleven singular values: the largest ten of 1 ... 11 are counted
    (
        t.TopEigenvalueL2(rank_penalty_strength=1 / 505),
        [flow(np.zeros((11, 12)), param=np.eye(11, 12) * np.arange(1, 12)[:, None])],
        {"update": np.eye(11, 12) * np.arange(1, 12)[:, None]},
    ),
    # variances 0 and 1 in the rows: none of the usual detail, and twice as much
    (
        t.SpatialAwareness(detail_preservation=1.0, detail_decay=0.0),
        [flow(ZERO, grad=[[5, 5], [1, 3]])] * 2,
        {"bump_scale": [[1.5, 1.5], [0.5, 0.5]]},
    ),
    # left: 2 and 0; above: 1 and |2 - 3|
    (t.DifferencePenalty(frequency_penalty=0.5), [flow([[1, 3], [2, 2]])], {"update": [[1, 2], [1.5, 1.5]]}),
    # the curvature of the middle is 8
    (t.EdgeDamping(edge_penalty=0.5), [flow(DOT)], {"update": [[0, 0, 0], [0, 0.4, 0], [0, 0, 0]]}),
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
RANKS = [1, 64]
INTERVALS = [1, 100]
ALLOWED = {  # as in test_errors.py
    t.BackgroundRegularization: {
        "background_threshold": [0.0, 1.0],
        "background_factor": [0.0, 1.0],
        "background_decay": [0.0, 0.99],
    },
    t.EdgeSuppression: {"edge_penalty": [0.0, 9.0], "edge_threshold": [0.0, 9.0], "edge_decay": [0.0, 0.99]},
    t.FrequencyPenalty: {"frequency_penalty": [0.0, 1.0], "frequency_cutoff": [0.0, 2.0]},
    t.Lookahead: {"la_steps": [1, 9], "la_alpha": [0.0, 1.0]},
    t.LowRankEmphasis: {
        "low_rank_emphasis": [0.0, 2.0],
        "low_rank_emphasis_rank": RANKS,
        "low_rank_emphasis_interval": INTERVALS,
    },
    t.MultilayerLookahead: {
        "la_layers": [1, 4],
        "la_alphas": [(0.0, 1.0, 0.5, 0.5)],
        "la_ks": [(1, 1, 1, 1), (9, 8, 7, 6)],
    },
    t.RankAwareDecay: {
        "weight_decay": [0.0, 5.0],
        "rank_decay_excess": [0.0, 5.0, None],
        "rank_decay_rank": RANKS,
        "rank_decay_interval": INTERVALS,
    },
    t.RankPenalty: {
        "rank_penalty_strength": [0.0, 1.0],
        "rank_penalty_rank": RANKS,
        "rank_penalty_interval": INTERVALS,
    },
    t.SpatialAwareness: {"detail_preservation": [0.0, 2.0], "detail_decay": [0.0, 0.99]},
    t.TopEigenvalueL2: {"rank_penalty_strength": [0.0, 1.0]},
    t.DifferencePenalty: {"frequency_penalty": [0.0, 2.0]},
    t.EdgeDamping: {"edge_penalty": [0.0, 9.0], "edge_threshold": [0.0, 9.0]},
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
COUNT = [(0, r"a whole number in \[1, inf\)"), (1.5, "a whole number")]
UNIT = [(-0.1, r"a number in \[0, 1\]"), (1.1, r"a number in \[0, 1\]")]
REFUSED = {
    "background_decay": DECAY,
    "background_factor": UNIT,
    "detail_decay": DECAY,
    "edge_decay": DECAY,
    "frequency_cutoff": POSITIVE,
    "la_alpha": UNIT,
    "la_alphas": [((0.5, 0.5, 0.5, 1.1), r"each .* in \[0, 1\]"), ((0.5, 0.5), "4 numbers")],
    "la_ks": [((1, 1, 1, 0), r"each a whole number in \[1, inf\)"), ((5, 5), "4 numbers")],
    "la_layers": [(0, r"a whole number in \[1, 4\]"), (5, r"a whole number in \[1, 4\]")],
    "la_steps": COUNT,
    "low_rank_emphasis": POSITIVE,
    "low_rank_emphasis_interval": COUNT,
    "low_rank_emphasis_rank": COUNT,
    "rank_decay_excess": [(-0.1, r"a number in \[0, inf\).* or None")],
    "rank_decay_interval": COUNT,
    "rank_decay_rank": COUNT,
    "rank_penalty_interval": COUNT,
    "rank_penalty_rank": COUNT,
    (t.FrequencyPenalty, "frequency_penalty"): UNIT,
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
REPLAYS = {("hina_other", "HinaAdaptive"): lambda case: presets.hina_adaptive(**case.kwargs)}  # as in golden/test_replay.py
