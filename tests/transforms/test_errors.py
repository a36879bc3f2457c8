"""What each field refuses and allows, and how the refusal reads."""

import pytest
from links import TECHNIQUES
from rows import merged

from gradchain import ChainError
from gradchain import transforms as t

INF, NAN = float("inf"), float("nan")
BETAS = {"betas": [(0.0, 0.0), (0.999, 0.999)]}
C2 = {"c2": [0.0, 0.3], "stencil": ["9point", "5point"], "min_spatial_size": [0, 1]}
PROFILES = ["lorentz", "tanh", "hard", "published"]
LIMIT = {"speed_limit": [1e-9, INF], "speed_warmup_steps": [0, 5], "speed_profile": PROFILES}
WAVE = {"wave_dt": [1e-3], "wave_kappa": [0.0], "c2": [0.0, 0.1], "stencil": ["5point"], "min_spatial_size": [0]}
DECAY = {"weight_decay": [0.0, 5.0]}

# the values at the ends of each field's range, or beyond its middle, that must be taken
ALLOWED = {
    t.ADOPT: BETAS | {"adopt_eps": [1e-30]},
    t.AGR: {},
    t.ApplyScale: {},
    t.ClipScale: {"scale_range": [(0.0, 0.0), (0.5, INF)]},
    t.Signal: {},
    t.AMSGradMoments: BETAS,
    t.Cautious: {"floor": [1e-9, 1.0]},
    t.CenteredSecondMoment: {"alpha": [0.0, 0.99]},
    t.ClipUpdateRMS: {"d": [1e-3, INF]},
    t.ComponentSpeedLimit: LIMIT,
    t.FactoredSecondMoment: {"beta2_decay": [-5.0, 0.0], "eps1": [0.0, None]},
    t.FirstMoment: {"momentum": [0.0, 0.99]},
    t.GlobalSpeedLimit: LIMIT,
    t.Grams: {},
    t.InverseTimeDecay: {"lr_decay": [0.0, 9.0]},
    t.L2: DECAY,
    t.Laplacian: C2 | {"bounded": [True, False]},
    t.LargestSecondMoment: {},
    t.LearningRate: {"lr": [0.0, 9.0]},
    t.Lion: BETAS,
    t.Moments: BETAS,
    t.Momentum: {"momentum": [0.0, 1.0], "dampening": [0.0, 1.0]},
    t.NesterovMoments: BETAS | {"momentum_decay": [0.0, 1.0]},
    t.NesterovMomentum: {"momentum": [0.0, 1.0]},
    t.Normalize: {"eps": [0.0, 1.0]},
    t.OrthogonalGradient: {"tolerance": [0.0, 0.99]},
    t.ParameterScale: {"eps2": [0.0, 1.0]},
    t.PublishedWaveVariance: WAVE | {"wave_damping": [0.0, 1.9], "wave_E0": [0.0, 2.0], "wave_floor": [0.0, 1.0]},
    t.RelativeStep: {"lr": [0.0, 9.0]},
    t.SPD: {"spd_lambda": [0.0, 1.5]},
    t.ScaledWeightDecay: DECAY,
    t.SecondMoment: {"alpha": [0.0, 0.99]},
    t.SpeedLimit: LIMIT,
    t.StepCorrectedMoments: BETAS,
    t.SumOfSquares: {"initial_accumulator_value": [0.0, 1.0]},
    t.TAM: {"tam_beta": [0.0, 0.99], "tam_decay": [0.0, 0.99], "tam_eps": [0.0, 1.0]},
    t.UpdateLaplacian: C2 | {"bounded": [True, False]},
    t.VarianceFloor: {"floor": [0.0, 1.0], "floor_min_size": [0, 9]},
    t.WaveVariance: WAVE | {"wave_damping": [1e-3, 1.0]},
    t.WeightDecay: DECAY,
    t.WeightDecayAfterStep: DECAY,
    t.WeightDiffusion: C2 | {"bounded": [True, False]},
} | merged("ALLOWED")

# what must be refused, and the start of what is said of it, by field name
REFUSED = {
    "betas": [((1.0, 0.9), r"each .* in \[0, 1\)"), ((0.9, -0.1), r"each .* in \[0, 1\)"), ((0.9,), "2 numbers")],
    "adopt_eps": [(0.0, r"a number in \(0, inf\)"), (-1.0, r"a number in \(0, inf\)")],
    "alpha": [(1.0, r"a number in \[0, 1\)"), (-0.1, r"a number in \[0, 1\)")],
    "scale_range": [((-1.0, 2.0), r"each .* in \[0, inf\]"), (1.0, "2 numbers")],
    "beta2_decay": [(0.1, r"a number in \(-inf, 0\]")],
    "bounded": [(1, "a bool"), ("no", "a bool")],
    "c2": [(-1e-9, r"a number in \[0, inf\)")],
    "d": [(0.0, r"a number in \(0, inf\]")],
    "dampening": [(-0.1, r"a number in \[0, inf\)")],
    "eps": [(-1e-8, r"a number in \[0, inf\)")],
    "eps1": [(-1.0, r"a number in \[0, inf\).* or None")],
    "eps2": [(-1.0, r"a number in \[0, inf\)")],
    "floor_min_size": [(-1, r"a whole number in \[0, inf\)"), (2.5, "a whole number")],
    "initial_accumulator_value": [(-1.0, r"a number in \[0, inf\)")],
    "lr": [(-1e-3, r"a number in \[0, inf\)")],
    "lr_decay": [(-1.0, r"a number in \[0, inf\)")],
    "min_spatial_size": [(-1, r"a whole number in \[0, inf\)"), (True, "a whole number")],
    "momentum_decay": [(-1.0, r"a number in \[0, inf\)")],
    "spd_lambda": [(-0.5, r"a number in \[0, inf\)")],
    "speed_limit": [(0.0, r"a number in \(0, inf\]"), (-1.0, r"a number in \(0, inf\]")],
    "speed_profile": [("readme", "one of 'lorentz', 'tanh', 'hard', 'published'")],
    "speed_warmup_steps": [(-1, r"a whole number in \[0, inf\)"), (1.5, "a whole number")],
    "stencil": [("7point", "one of '9point', '5point'"), (9, "one of '9point', '5point'")],
    "tam_beta": [(1.0, r"a number in \[0, 1\)")],
    "tam_decay": [(1.0, r"a number in \[0, 1\)")],
    "tam_eps": [(-1.0, r"a number in \[0, inf\)")],
    "tolerance": [(1.0, r"a number in \[0, 1\)"), (-0.1, r"a number in \[0, 1\)")],
    "wave_dt": [(0.0, r"a number in \(0, inf\)")],
    "wave_E0": [(-1.0, r"a number in \[0, inf\)"), ("auto", "a number")],
    "wave_floor": [(-1.0, r"a number in \[0, inf\)")],
    "wave_kappa": [(-1.0, r"a number in \[0, inf\)")],
    "weight_decay": [(-0.1, r"a number in \[0, inf\)")],
    (t.Cautious, "floor"): [(0.0, r"a number in \(0, 1\]"), (1.1, r"a number in \(0, 1\]")],
    (t.VarianceFloor, "floor"): [(-1.0, r"a number in \[0, inf\)")],
    (t.FirstMoment, "momentum"): [(1.0, r"a number in \[0, 1\)")],
    (t.Momentum, "momentum"): [(-0.1, r"a number in \[0, inf\)")],
    (t.NesterovMomentum, "momentum"): [(-0.1, r"a number in \[0, inf\)")],
    (t.WaveVariance, "wave_damping"): [(0.0, r"a number in \(0, 1\]"), (1.1, r"a number in \(0, 1\]")],
    (t.PublishedWaveVariance, "wave_damping"): [(-0.1, r"a number in \[0, 2\)"), (2.0, r"a number in \[0, 2\)")],
} | merged("REFUSED")
REMEDY = r"Pass \w+=.*, for example\.|Pass a number|Pass one of these|Pass \w+ in this form|Did you mean|Use one of these"
PAIRS = [(kind, field) for kind, ranges in ALLOWED.items() for field in ranges]
BY_FIELD = pytest.mark.parametrize(("kind", "field"), PAIRS, ids=[f"{kind.__name__}-{field}" for kind, field in PAIRS])


def test_every_field_of_every_transform_has_its_rows():
    assert {kind.__name__ for kind in ALLOWED} == TECHNIQUES
    for kind, ranges in ALLOWED.items():
        assert ranges.keys() == set(kind.hyperparameters()), kind


@BY_FIELD
def test_values_up_to_the_ends_of_the_range_are_taken(kind, field):
    for value in ALLOWED[kind][field]:
        assert getattr(kind(**{field: value}), field) == value


@BY_FIELD
def test_values_beyond_are_refused_with_link_field_wish_finding_and_remedy(kind, field):
    refused = REFUSED.get((kind, field)) or REFUSED[field]
    for value, wish in [*refused, (NAN, ""), ("much", ""), ([], "")]:
        message = rf"^'{kind().label}': {field} must be .*{wish}.*found .*({REMEDY})"
        with pytest.raises(ChainError, match=message):
            kind(**{field: value})


def test_smoothing_beyond_its_limit_is_refused_unless_the_limit_is_lifted():
    for kind in (t.Laplacian, t.UpdateLaplacian, t.WeightDiffusion):
        with pytest.raises(ChainError, match=r"c2 must be in \[0, 0.3\] for the 9point .*found 0.31.*VarianceFloor"):
            kind(c2=0.31)
        with pytest.raises(ChainError, match=r"c2 must be in \[0, 0.25\] for the 5point stencil"):
            kind(c2=0.26, stencil="5point")
        assert kind(c2=0.31, bounded=False).c2 == 0.31


def test_an_unstable_wave_is_refused_and_the_limit_itself_is_not():
    with pytest.raises(ChainError, match=r"c2 5.333\) must be at most 2 \(2 - wave_damping\) = 3 .*found 4\. Lower"):
        t.WaveVariance(wave_dt=1.0, wave_kappa=4.0, c2=0.0)
    with pytest.raises(ChainError, match=r"c2 8\) must be at most .*Lower wave_dt, wave_kappa or c2"):
        t.WaveVariance(wave_dt=1.0, wave_kappa=2.9, c2=0.02, stencil="5point")
    assert t.WaveVariance(wave_dt=1.0, wave_kappa=3.0, c2=0.0).wave_kappa == 3.0


def test_a_link_s_own_name_stands_in_the_refusal():
    with pytest.raises(ChainError, match=r"^'mine': lr must be"):
        t.LearningRate(lr=-1.0, name="mine")
