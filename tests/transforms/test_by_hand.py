"""Every transform on two or three numbers, worked out on paper."""

import math

import numpy as np
import pytest
from links import TECHNIQUES, Flow, run
from rows import merged

from gradchain import transforms as t


def flow(update, grad=None, param=None, second=None, lr=0.5):
    """What is not given is the update itself (gradient), ones (parameter), or the squares (second moment)."""
    u = np.array(update, dtype=float)
    grad = u if grad is None else np.array(grad, dtype=float)
    param = np.ones_like(u) if param is None else np.array(param, dtype=float)
    return Flow(u, grad, param, u**2 if second is None else np.array(second, dtype=float), lr)


TWO = [flow([1, 2]), flow([3, 0])]
HALF = (0.5, 0.5)
ROOT2 = math.sqrt(2)

# (link, the flow of each step, what it has written after the last)
CASES = [
    # sqrt(v) = (1, 2) from the first step; n = (3, 0) clipped at 1^(1/4) = 1; m = n / 2
    (t.ADOPT(betas=HALF), TWO, {"update": [0.5, 0], "gate": 1}),
    (t.ADOPT(betas=HALF), TWO[:1], {"update": [0, 0], "gate": 0}),
    # shares 1/4 and 3/4 of the absolute gradient
    (t.ApplyScale(), [flow([1, -3])], {"update": [1, -3]}),  # the scale starts at 1
    (t.ClipScale(scale_range=(2.0, 3.0)), [flow([1])], {"scale": 2}),
    (t.Signal(), [flow([1, -3], grad=[2, 2])], {"processed": [1, -3]}),
    (t.AGR(), [flow([1, -3])], {"update": [3 / 4, -3 / 4]}),
    # v = (1/2, 2), then (4.75, 1): the second element keeps its 2; both over 1 - 1/4
    (t.AMSGradMoments(betas=HALF), TWO, {"update": [7 / 3, 2 / 3], "second_moment": [19 / 3, 8 / 3]}),
    # two of four agree in sign, a zero does not: the rest is doubled
    (t.Cautious(), [flow([1, 2, 3, 4], grad=[1, -1, 0, 2])], {"update": [2, 0, 0, 8]}),
    # v = (4.75, 1), m = (1.75, 1/2)
    (t.CenteredSecondMoment(alpha=0.5), TWO, {"second_moment": [4.75 - 1.75**2, 0.75]}),
    # root mean square sqrt((1 + 49) / 2) = 5
    (t.ClipUpdateRMS(d=2.5), [flow([1, 7])], {"update": [0.5, 3.5]}),
    (t.ClipUpdateRMS(d=5.5), [flow([1, 7])], {"update": [1, 7]}),
    (t.ComponentSpeedLimit(speed_limit=3.0), [flow([4, 0])], {"update": [12 / 5, 0]}),
    # rows (1 + 9)/2, (4 + 36)/2; columns (1 + 4)/2, (9 + 36)/2; mean of rows 12.5: a rank-one square is met exactly
    (t.FactoredSecondMoment(), [flow([[1, 3], [2, 6]])], {"second_moment": [[1, 9], [4, 36]]}),
    # weights 1/3 and 2/3
    (t.FirstMoment(momentum=0.5), TWO, {"update": [7 / 3, 2 / 3]}),
    (t.GlobalSpeedLimit(speed_limit=2.5, speed_profile="hard"), [flow([3, 4])], {"update": [1.5, 2]}),
    (t.Grams(), [flow([1, -2, 3], grad=[-5, -5, 0])], {"update": [-1, -2, 0]}),
    (t.InverseTimeDecay(lr_decay=0.5), TWO, {"update": [2, 0]}),
    (t.L2(weight_decay=0.5), [flow([1, 2], param=[4, -2])], {"update": [3, 1]}),
    (t.Laplacian(c2=0.1, min_spatial_size=4), [flow([0, 1, 0, 0])], {"second_moment": [0.1, 0.8, 0.1, 0]}),
    (t.LargestSecondMoment(), TWO, {"second_moment": [9, 4]}),
    (t.LearningRate(lr=0.25), TWO[:1], {"update": [0.25, 0.5]}),
    # m = (1/2, 1), then signs of 0.9 (1/2, 1) + 0.1 (-4, -9.5)
    (t.Lion(betas=(0.9, 0.5)), [flow([1, 2]), flow([-4, -9.5])], {"update": [1, -1]}),
    (t.Moments(betas=HALF), TWO, {"update": [7 / 3, 2 / 3], "second_moment": [19 / 3, 4 / 3]}),
    (t.Momentum(momentum=0.5, dampening=0.25), TWO, {"update": [2.75, 1]}),
    # a constant momentum mu = 1/4 (0.96^0 = 1): 3/4 / (15/16) g + 1/4 / (63/64) m, m = (7/4, 1/2)
    (
        t.NesterovMoments(betas=HALF, momentum_decay=0.0),
        TWO,
        {"update": [12 / 5 + 4 / 9, 8 / 63], "second_moment": [19 / 3, 4 / 3]},
    ),
    (t.NesterovMomentum(momentum=0.5), TWO, {"update": [4.75, 0.5]}),
    (t.Normalize(eps=1.0), [flow([6, -2], second=[4, 1])], {"update": [2, -1]}),
    # beside (1, 1): (2, 0) -> (1, -1), at length 2
    (t.OrthogonalGradient(), [flow([2, 0])], {"update": [ROOT2, -ROOT2]}),
    (t.ParameterScale(), [flow([1, 2], param=[1, -7])], {"update": [5, 10]}),
    (t.ParameterScale(eps2=0.25), [flow([1, 2], param=[0, 0])], {"update": [0.25, 0.5]}),
    # v = (1, 4), energy 5/2; then 2v - v + (2/5)(5/2 - (9, 0)), and no lower than 1/10
    (t.PublishedWaveVariance(wave_dt=1.0, wave_kappa=0.4, wave_floor=0.1), TWO, {"second_moment": [0.1, 5]}),
    (t.RelativeStep(lr=0.6), [flow([1])] * 4, {"update": [0.5]}),
    (t.RelativeStep(lr=0.6), [flow([1])], {"update": [0.6]}),
    # from the anchor (1, 1): at (4, 5), 5 away; the step (-3, -4) to (7, 9), 10 away; half of the excess ratio 1/2
    (
        t.SPD(spd_lambda=0.5),
        [flow([0, 0]), flow([-3, -4], grad=[1, 1], param=[4, 5])],
        {"update": [-3 + 0.25 * 6, -4 + 0.25 * 8]},
    ),
    (t.SPD(spd_lambda=0.5), [flow([0, 0]), flow([-3, -4], grad=[-1, -1], param=[4, 5])], {"update": [-3, -4]}),
    (t.ScaledWeightDecay(weight_decay=0.5), [flow([1, 2], param=[4, -8])], {"update": [2, 0]}),
    (t.SecondMoment(alpha=0.5), TWO, {"second_moment": [4.75, 1]}),
    (t.SpeedLimit(speed_limit=5.0), [flow([3, 4])], {"update": [3 / ROOT2, 4 / ROOT2]}),
    (t.StepCorrectedMoments(betas=HALF), TWO, {"update": [7 / 2 / 3**0.5, 1 / 3**0.5], "second_moment": [4.75, 1]}),
    (t.SumOfSquares(initial_accumulator_value=1.0), TWO, {"second_moment": [11, 5]}),
    # half of (3, 4) enters m; the same gradient again has cosine 1: similarity 1/2, damping 3/4
    (t.TAM(tam_decay=0.5, tam_eps=0.0), [flow([3, 4])] * 2, {"update": [9 / 4, 3]}),
    (t.UpdateLaplacian(c2=0.1, min_spatial_size=4), [flow([0, 1, 0, 0])], {"update": [0.1, 0.8, 0.1, 0]}),
    (t.VarianceFloor(floor=2.0), [flow([1, 2])], {"second_moment": [2, 4]}),
    # v = (1, 4), then v + (1/2)((9, 0) - v)
    (t.WaveVariance(wave_dt=1.0, wave_kappa=0.5), TWO, {"second_moment": [5, 2]}),
    (t.WeightDecay(weight_decay=0.5), [flow([1, 2], param=[4, -2])], {"update": [3, 1]}),
    # the step arrives at (3, -4); half of lr = 1/2 of that is taken off
    (t.WeightDecayAfterStep(weight_decay=0.5), [flow([1, -4], param=[4, -8])], {"update": [1.75, -5]}),
    # the step arrives at (0, 1, 0, 0)
    (t.WeightDiffusion(c2=0.1, min_spatial_size=4), [flow([1, 0, 1, 1])], {"update": [0.9, 0.2, 0.9, 1]}),
    *merged("BY_HAND"),
]


def test_every_transform_has_a_case():
    assert {type(link).__name__ for link, *_ in CASES} == TECHNIQUES


@pytest.mark.parametrize(("link", "flows", "wanted"), CASES, ids=[f"{row[0].label}-{i}" for i, row in enumerate(CASES)])
def test_a_case_by_hand(link, flows, wanted):
    *_, found = run(link, flows)
    assert found.keys() == wanted.keys()
    for slot, values in wanted.items():
        np.testing.assert_allclose(found[slot], np.array(values, dtype=float), rtol=1e-12, atol=1e-14, err_msg=slot)
