"""Every transform over 25 steps in float64 against an independent numpy version of its published rule."""

import numpy as np
import pytest
from links import TECHNIQUES, run, settings, stream
from reference import directions, moments, smoothing, steps
from rows import merged

from gradchain import transforms as t

SMOOTHING = {"c2": 0.2, "min_spatial_size": 7}
WAVE = {"wave_dt": 0.6, "wave_kappa": 0.3, "wave_damping": 0.4, **SMOOTHING}
RULES = [
    (t.ADOPT(betas=(0.8, 0.95)), moments.adopt),
    (t.AGR(), directions.agr),
    (t.ApplyScale(), steps.apply_scale),
    (t.ClipScale(scale_range=(0.2, 0.7)), steps.clip_scale),
    (t.Signal(), steps.signal),
    (t.AMSGradMoments(betas=(0.8, 0.95)), moments.amsgrad),
    (t.Cautious(), directions.cautious),
    (t.CenteredSecondMoment(alpha=0.9), moments.centered),
    (t.ClipUpdateRMS(d=0.9), steps.clip_rms),
    (t.ComponentSpeedLimit(speed_limit=0.7, speed_profile="published"), steps.component_speed_limit),
    (t.ComponentSpeedLimit(speed_limit=0.7, speed_profile="tanh"), steps.component_speed_limit),
    (t.FactoredSecondMoment(), moments.adafactor),
    (t.FactoredSecondMoment(beta2_decay=-0.5, eps1=0.1), moments.adafactor),
    (t.FirstMoment(momentum=0.8), moments.first_moment),
    (t.GlobalSpeedLimit(speed_limit=2.0, speed_warmup_steps=10), steps.speed_limit),
    (t.Grams(), directions.grams),
    (t.InverseTimeDecay(lr_decay=0.3), steps.inverse_time),
    (t.L2(weight_decay=0.2), steps.decay),
    (t.Laplacian(**SMOOTHING), smoothing.variance),
    (t.Laplacian(**SMOOTHING, stencil="5point"), smoothing.variance),
    (t.Laplacian(c2=0.6, min_spatial_size=7, bounded=False), smoothing.variance),
    (t.LargestSecondMoment(), moments.largest),
    (t.LearningRate(lr=0.3), steps.learning_rate),
    (t.Lion(betas=(0.7, 0.9)), directions.lion),
    (t.Moments(betas=(0.8, 0.95)), moments.adam),
    (t.Momentum(momentum=0.8, dampening=0.3), directions.heavy_ball),
    (t.NesterovMoments(betas=(0.8, 0.95), momentum_decay=0.1), moments.nadam),
    (t.NesterovMomentum(momentum=0.8), directions.nesterov),
    (t.Normalize(eps=0.1), steps.normalize),
    (t.OrthogonalGradient(), directions.orthogonal),
    (t.ParameterScale(eps2=0.9), steps.parameter_scale),
    (t.PublishedWaveVariance(**WAVE), smoothing.published_wave),
    (t.PublishedWaveVariance(**WAVE, wave_E0=0.7, wave_floor=0.1), smoothing.published_wave),
    (t.RelativeStep(lr=0.3), steps.relative_step),
    (t.SPD(spd_lambda=0.7), steps.spd),
    (t.ScaledWeightDecay(weight_decay=0.2), steps.scaled_decay),
    (t.SecondMoment(alpha=0.9), moments.rmsprop),
    (t.SpeedLimit(speed_limit=2.0, speed_profile="hard"), steps.speed_limit),
    (t.SpeedLimit(speed_limit=2.0, speed_profile="published", speed_warmup_steps=5), steps.speed_limit),
    (t.SpeedLimit(speed_limit=2.0, speed_profile="tanh"), steps.speed_limit),
    (t.StepCorrectedMoments(betas=(0.8, 0.95)), moments.step_corrected),
    (t.SumOfSquares(initial_accumulator_value=0.1), moments.adagrad),
    (t.TAM(tam_beta=0.8, tam_decay=0.7), directions.tam),
    (t.UpdateLaplacian(**SMOOTHING), smoothing.update),
    (t.VarianceFloor(floor=0.5, floor_min_size=7), steps.variance_floor),
    (t.WaveVariance(**WAVE), smoothing.wave),
    (t.WeightDecay(weight_decay=0.2), steps.decay),
    (t.WeightDecayAfterStep(weight_decay=0.2), steps.decay_after),
    (t.WeightDiffusion(**SMOOTHING, stencil="5point"), smoothing.weights),
    *merged("RULES"),
]


def test_every_transform_has_a_reference():
    assert {type(link).__name__ for link, _ in RULES} == TECHNIQUES


NAMES = [f"{link.label}-{rule.__name__}-{i}" for i, (link, rule) in enumerate(RULES)]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("shape", [(4, 5), (7,), (6,), (3, 2, 2, 2), (2, 9)], ids=str)
@pytest.mark.parametrize(
    ("link", "rule"), RULES, ids=[f"{link.label}-{rule.__name__}-{i}" for i, (link, rule) in enumerate(RULES)]
)
def test_25_steps_are_those_of_the_published_rule(link, rule, shape, sparse):
    flows = stream(*shape, sparse=sparse)
    wanted, found = list(rule(flows, **settings(link))), list(run(link, flows))
    assert len(wanted) == len(found) == 25
    for expected, got in zip(wanted, found, strict=True):
        assert expected.keys() == got.keys()
        for slot, values in expected.items():
            np.testing.assert_allclose(got[slot], values, rtol=1e-11, atol=1e-12, err_msg=slot)
