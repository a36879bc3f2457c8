"""What a link does not see: the order of elements, which sign is plus, the unit of the gradient, the axes of space."""

from dataclasses import replace

import numpy as np
import pytest
from links import run, stream
from table import TRANSFORMS

from gradchain import transforms as t

NEAR = {"rtol": 1e-9, "atol": 1e-11}
# of matrices, these know the neighbors, or start to look for a subspace at a fixed place
NEIGHBORS = {"EdgeSuppression", "FrequencyPenalty", "DifferencePenalty", "EdgeDamping", "EdgeGroupAGR", "PublishedEdgeHistory"}
NEIGHBORS |= {"PublishedFrequencyPenalty", "LowRankEmphasis", "RankAwareDecay", "RankPenalty"}
SMOOTHERS = {"Laplacian", "LaplacianSmoothing", "PublishedWaveVariance", "UpdateLaplacian", "WaveVariance", "WeightDiffusion"}
ORDERED = {(7,): SMOOTHERS, (5, 6): SMOOTHERS | NEIGHBORS}
# masks that take "not positive" for the first sign, a map of 256 values with one zero, penalties of what is positive
ONE_SIDED = {"ElementLRMask", "TensorLRMask", "EightBitLRMask", "Int8LRMask", "EightBitMomentum"}
ONE_SIDED_MATRICES = {"DifferencePenalty", "PublishedFrequencyPenalty"}
VECTORS = ("update", "grad", "param", "residual")


def changed(flow, change, slots=(*VECTORS, "second_moment")):
    return replace(flow, **{slot: change(getattr(flow, slot)) for slot in slots})


def agrees(link, flows, others, expected):
    """Whether the others' outputs are the expected ones: a rule from slot and value to value."""
    return all(
        np.allclose(expected(slot, value), other[slot], **NEAR)
        for one, other in zip(run(link, flows), run(link, others), strict=True)
        for slot, value in one.items()
    )


@pytest.mark.parametrize("shape", ORDERED, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_order_of_elements_and_of_rows_and_columns_matters_only_to_what_looks_at_neighbors(name, shape):
    random, flows = np.random.default_rng(3), stream(*shape, steps=6)
    order = np.ix_(*(random.permutation(n) for n in shape))

    def shuffled(x):
        return x[order] if np.shape(x) == shape else x

    found = agrees(TRANSFORMS[name][0], flows, [changed(f, shuffled) for f in flows], lambda slot, x: shuffled(x))
    assert found == (name not in ORDERED[shape])


@pytest.mark.parametrize("shape", ORDERED, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_mirrored_model_takes_mirrored_steps(name, shape):
    flows = stream(*shape, steps=6)
    mirrored = [changed(f, np.negative, VECTORS) for f in flows]
    odd = ("update", "processed", "residual", "regularized")
    found = agrees(TRANSFORMS[name][0], flows, mirrored, lambda slot, x: -x if slot in odd else x)
    assert found == (name not in ONE_SIDED | (ONE_SIDED_MATRICES if len(shape) > 1 else set()))


ADOPT = t.ADOPT(adopt_eps=1e-30)
DEGREES = {  # the power of the gradient's unit in which the update is, with each eps at 0 that is not relative
    1: [
        t.AGR(),
        t.AlignmentDamping(alignment_threshold=0.9),
        t.AverageMomentum(),
        t.BackgroundRegularization(),
        t.Cautious(),
        t.Centralize(),
        t.EdgeSuppression(),
        t.FirstMoment(),
        t.FrequencyPenalty(),
        t.Grams(),
        t.LaplacianSmoothing(),
        t.Moments(),
        t.Momentum(),
        t.NesterovAverage(),
        t.NesterovMomentum(),
        t.OrthogonalComponent(),
        t.OrthogonalGradient(),
        t.RelationalGuide(),
        t.RowTAM(),
        t.TAM(),
        t.TorqueDamping(tam_beta=0.5),
        t.ZClip(zclip_warmup_steps=2, zclip_eps=0.0),
    ],
    0: [ADOPT, t.LARS(weight_decay=0.0), t.Lion(), t.Normalize(eps=0.0), t.Orthogonalize(ns_eps=0.0), t.TrustRatio()],
}


@pytest.mark.parametrize("unit", [1e-4, 1e4])
@pytest.mark.parametrize(
    ("degree", "link"), [(d, link) for d, links in DEGREES.items() for link in links], ids=lambda x: getattr(x, "label", x)
)
def test_the_unit_of_the_gradient_passes_through_or_cancels(degree, link, unit):
    flows = stream(5, 6, steps=6)
    scaled = [
        replace(changed(f, lambda x: unit * x, ("update", "grad", "residual")), second_moment=unit**2 * f.second_moment)
        for f in flows
    ]
    powers = {"update": degree, "processed": 1, "residual": 1, "second_moment": 2}

    def expected(slot, value):
        return value * unit ** powers.get(slot, 0)

    for one, other in zip(run(link, flows), run(link, scaled), strict=True):
        for slot, value in one.items():
            np.testing.assert_allclose(other[slot], expected(slot, value), rtol=1e-9)


ROUND = [
    t.AlignmentDamping(),
    t.ClipGlobalNorm(),
    t.ClipNorm(),
    t.ClipUpdateRMS(d=0.5),
    t.LARS(),
    t.LaggedSPD(spd_lambda=0.7),
    t.MARS(),
    t.NormCeiling(),
    t.OrthogonalGradient(),
    t.OriginSPD(spd_lambda=0.7),
    t.PullToStart(spd_lambda=0.7),
    t.SPD(spd_lambda=0.7),
    t.SpeedLimit(speed_limit=0.5),
    t.TAM(),
    t.TorqueDamping(),
    t.TrustRatio(),
    t.UphillSPD(spd_lambda=0.7),
]


@pytest.mark.parametrize("link", ROUND, ids=lambda link: link.label)
def test_what_knows_lengths_and_angles_only_turns_with_space(link):
    rotation, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((7, 7)))
    flows = stream(7, steps=8)
    turned = [changed(f, lambda x: rotation @ x, VECTORS) for f in flows]
    assert agrees(link, flows, turned, lambda slot, x: rotation @ x if np.ndim(x) else x)
    assert not agrees(link, flows, flows, lambda slot, x: rotation @ x if np.ndim(x) else x)
