"""Moments at their edges: first steps, scales, spikes, constants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from links import Flow, run, stream

from gradchain import chain
from gradchain import transforms as t

MOMENTS = [t.Moments(), t.AMSGradMoments(), t.StepCorrectedMoments(), t.NesterovMoments()]
EACH = pytest.mark.parametrize("link", MOMENTS, ids=lambda link: link.label)


def flows(*updates, second=0.0):
    return [Flow(u := np.array(x, dtype=float), u, np.ones_like(u), u * 0 + second) for x in updates]


def directions(link, given_flows, eps=0.0):
    """update / (sqrt(second_moment) + eps), step by step."""
    with np.errstate(invalid="ignore"):
        return [out["update"] / (np.sqrt(out["second_moment"]) + eps) for out in run(link, given_flows)]


@pytest.mark.parametrize("link", MOMENTS[:3], ids=lambda link: link.label)
def test_the_first_step_is_the_sign_of_the_gradient(link):
    np.testing.assert_allclose(directions(link, flows([3, -1e-5, 1e7])), [[1, -1, 1]], rtol=1e-12)


@EACH
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_without_eps_a_scale_of_each_element_cancels(link, scale, seed):
    plain = stream(5, steps=4, seed=seed)
    scales = np.array([scale, 1, 1 / scale, scale**2, 7])
    scaled = [Flow(f.update * scales, f.grad, f.param, f.second_moment) for f in plain]
    np.testing.assert_allclose(directions(link, scaled), directions(link, plain), rtol=1e-9)


@EACH
def test_a_negated_gradient_negates_the_update_and_leaves_the_second_moment(link):
    plain = stream(5, steps=6)
    negated = [Flow(-f.update, f.grad, f.param, f.second_moment) for f in plain]
    for a, b in zip(run(link, plain), run(link, negated), strict=True):
        assert (a["update"] == -b["update"]).all() and (a["second_moment"] == b["second_moment"]).all()


def test_a_constant_gradient_is_its_own_average_from_the_first_step_on():
    for out in run(t.Moments(), flows(*[[2, -3]] * 30)):
        np.testing.assert_allclose(out["update"], [2, -3], rtol=1e-12)
        np.testing.assert_allclose(out["second_moment"], [4, 9], rtol=1e-10)


def test_a_spike_after_long_silence_moves_adam_by_3_16_at_most():
    *_, last = directions(t.Moments(), flows(*[[0.0]] * 5000, [1e3]))
    assert last[0] == pytest.approx((1 - 0.9) / (1 - 0.999) ** 0.5, rel=0.01)


def test_eps_counts_32_times_as_much_where_the_step_is_corrected_instead_of_the_moment():
    tiny = flows([1e-8])
    assert directions(t.Moments(), tiny, eps=1e-8)[0][0] == pytest.approx(0.5, abs=1e-3)
    assert directions(t.StepCorrectedMoments(), tiny, eps=1e-8)[0][0] == pytest.approx(0.0307, abs=1e-3)


def test_the_largest_moment_never_falls():
    falling = stream(6, steps=20)
    found = np.array([out["second_moment"] for out in run(t.LargestSecondMoment(), falling)])
    assert (np.diff(found, axis=0) >= 0).all()
    corrected = [out["second_moment"] * (1 - 0.999**i) for i, out in enumerate(run(t.AMSGradMoments(), falling), 1)]
    assert (np.diff(corrected, axis=0) >= -1e-15).all()


def test_the_variance_of_a_constant_gradient_is_never_negative():
    found = [out["second_moment"] for out in run(t.CenteredSecondMoment(alpha=0.9), flows(*[[0.1, 1e5, 1e-9]] * 400))]
    assert np.min(found) >= 0 and (found[-1] <= [1e-12, 1, 1e-28]).all()


def test_adagrad_s_steps_on_a_constant_gradient_never_grow():
    found = [1 / np.sqrt(out["second_moment"]) for out in run(t.SumOfSquares(), flows(*[[1.0, 5.0]] * 20))]
    assert (np.diff(found, axis=0) < 0).all()


def test_a_square_of_rank_one_is_factored_exactly_and_the_rest_keeps_its_row_and_column_means():
    u, v = np.array([1.0, 2, 5]), np.array([3.0, 0.5])
    (out,) = run(t.FactoredSecondMoment(eps1=0.0), flows(np.outer(u, v)))
    np.testing.assert_allclose(out["second_moment"], np.outer(u, v) ** 2, rtol=1e-12)
    (out,) = run(t.FactoredSecondMoment(eps1=0.0), stream(3, 4, steps=1))
    square = stream(3, 4, steps=1)[0].update ** 2
    for axis in (0, 1):
        np.testing.assert_allclose(out["second_moment"].mean(axis), square.mean(axis), rtol=1e-12)


def test_the_first_weight_of_the_factored_moment_is_one():
    first, second = flows([[1, 2], [3, 4]], [[1, 2], [3, 4]])
    once, twice = (out["second_moment"] for out in run(t.FactoredSecondMoment(), [first, second]))
    np.testing.assert_allclose(once, twice, rtol=1e-12)


def test_the_published_floor_steps_100_times_less_where_the_gradient_is_small():
    adam, floored = (
        1e-6 / (np.sqrt(v) + 1e-8)
        for v in (np.array([1e-12]), next(iter(run(t.VarianceFloor(), flows([0.0], second=1e-12))))["second_moment"])
    )
    assert adam[0] == pytest.approx(0.990, abs=1e-3) and floored[0] == pytest.approx(0.00999, abs=1e-4)


def test_a_floor_leaves_smaller_parameters_alone():
    (out,) = run(t.VarianceFloor(floor=1.0, floor_min_size=4), flows([0.0] * 3, second=0.5))
    assert out["second_moment"].tolist() == [0.5] * 3


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_adafactor_on_its_own_does_not_know_the_unit_of_the_loss(unit):
    def steps(scale):
        core = chain(t.FactoredSecondMoment(eps1=0.0), t.Normalize(eps=0.0), t.ClipUpdateRMS(), t.RelativeStep(lr=0.1))
        param = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.float64))
        optimizer = core.optimizer([param])
        for f in stream(4, 6, steps=6):
            param.grad = torch.tensor(scale * f.grad)
            optimizer.step()
        return param.detach()

    torch.testing.assert_close(steps(unit), steps(1.0), rtol=1e-9, atol=0)


def test_an_average_is_damped_momentum_but_for_the_first_gradient():
    flows = stream(5, steps=12)
    averages = [out["update"] for out in run(t.AverageMomentum(momentum=0.8), flows)]
    sums = [out["update"] for out in run(t.Momentum(momentum=0.8, dampening=0.8), flows)]
    for i, (a, b) in enumerate(zip(averages, sums, strict=True)):
        np.testing.assert_allclose(b - a, 0.8 ** (i + 1) * flows[0].update, rtol=1e-9, atol=1e-12)
