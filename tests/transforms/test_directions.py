"""Links that turn or damp a direction, at their edges: zeros, agreement, single elements, angles."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from links import Flow, run, stream

from gradchain import presets
from gradchain import transforms as t

VECTORS = arrays(np.float64, 6, elements=st.floats(-10, 10).map(lambda x: round(x, 3)))


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    grad, param = (u if x is None else np.array(x, dtype=float) for x in (grad, param))
    return Flow(u, grad, param, u**2)


def once(link, *args, **kwargs):
    return next(iter(run(link, [flow(*args, **kwargs)])))["update"]


@given(u=VECTORS, g=VECTORS)
def test_cautious_and_grams_never_go_against_the_gradient_and_each_gains_on_it(u, g):
    careful, signed = once(t.Cautious(), u, g), once(t.Grams(), u, g)
    masked = np.where(u * g > 0, u, 0)
    assert (careful * g >= 0).all() and (signed * g >= 0).all()
    slack = 1e-9
    assert careful @ g >= u @ g - slack and signed @ g >= masked @ g - slack and masked @ g >= u @ g - slack
    assert (np.abs(signed) == np.where(g == 0, 0, np.abs(u))).all()
    assert (once(t.Grams(), signed, g) == signed).all()
    np.testing.assert_array_equal(once(t.Cautious(), u, 3 * g), careful)


def test_full_agreement_changes_nothing_and_none_at_all_gives_zero():
    assert once(t.Cautious(), [1, -2, 3], [2, -1, 9]).tolist() == [1, -2, 3]
    assert once(t.Cautious(), [1, -2, 3], [-2, 1, -9]).tolist() == [0, 0, 0]
    assert once(t.Cautious(), [5], [1]).tolist() == [5]


def test_one_agreeing_element_of_ten_thousand_is_enlarged_a_thousand_times():
    grad = -np.ones(10_000)
    grad[0] = 1
    assert once(t.Cautious(), np.ones(10_000), grad).max() == pytest.approx(1000)
    assert once(t.Cautious(floor=0.1), np.ones(10_000), grad).max() == pytest.approx(10)


@given(u=VECTORS, g=VECTORS)
def test_cautious_twice_enlarges_twice_sees_signs_alone_and_leaves_grams_nothing_to_do(u, g):
    out, kept = once(t.Cautious(), u, g), (u * g > 0).mean()
    np.testing.assert_allclose(once(t.Cautious(), 7 * u, np.arange(1, 7) * g), 7 * out, rtol=1e-12)
    np.testing.assert_array_equal(once(t.Grams(), out, g), out)
    assert kept == 0 or np.allclose(once(t.Cautious(), out, g), out / kept, rtol=1e-12)


def test_after_grams_cautious_is_idle():
    u, g = stream(9, steps=1)[0].update, stream(9, steps=1)[0].grad
    signed = once(t.Grams(), u, g)
    np.testing.assert_array_equal(once(t.Cautious(), signed, g), signed)


@given(g=VECTORS)
def test_agr_keeps_signs_shrinks_by_the_shares_and_is_bounded_by_the_other_elements(g):
    total = np.abs(g).sum()
    assume(total > 0)
    out, share = once(t.AGR(), g), np.abs(g) / total
    assert (out * g >= 0).all() and (np.abs(out) <= np.abs(g)).all()
    assert (np.abs(out) <= total - np.abs(g) + 1e-12).all()
    assert np.abs(out).sum() == pytest.approx((1 - (share**2).sum()) * total, abs=1e-9)


@pytest.mark.parametrize("g", [[0, 0, 0], [0, 7, 0], [3]], ids=str)
def test_agr_stops_a_lone_element_and_survives_none(g):
    assert not once(t.AGR(), g).any()


@given(g=VECTORS, w=VECTORS)
def test_the_orthogonal_gradient_is_at_right_angles_and_as_long_or_the_gradient_itself(g, w):
    out = once(t.OrthogonalGradient(), g, param=w)
    length = np.linalg.norm(g)
    assert np.linalg.norm(out) == pytest.approx(length, rel=1e-9, abs=1e-12)
    beside = (w @ w) * (g @ g) - (w @ g) ** 2 > 1e-6 * (w @ w) * (g @ g)
    assert (out == g).all() or abs(out @ w) <= 1e-9 * length * np.linalg.norm(w)
    if beside and w.any():
        assert abs(out @ w) <= 1e-9 * length * np.linalg.norm(w)
        np.testing.assert_allclose(once(t.OrthogonalGradient(), g, param=-3 * w), out, rtol=1e-9, atol=1e-9)


@given(g=VECTORS, w=VECTORS)
def test_a_step_across_the_weights_only_lengthens_them_and_a_projection_once_is_a_projection_twice(g, w):
    """The squared length grows by that of the step."""
    across = once(t.OrthogonalComponent(), g, param=w)
    np.testing.assert_allclose(once(t.OrthogonalComponent(), across, param=w), across, rtol=1e-9, atol=1e-9)
    step = 0.1 * once(t.OrthogonalGradient(), g, param=w)
    if abs(step @ w) <= 1e-9 * np.linalg.norm(step) * np.linalg.norm(w):
        assert np.linalg.norm(w - step) ** 2 == pytest.approx(w @ w + step @ step, abs=1e-7)


@pytest.mark.parametrize(("g", "w"), [([2, 3], [0, 0]), ([2], [5]), ([2, 4], [3, 6]), ([0, 0], [1, 1])], ids=str)
def test_a_gradient_along_the_parameter_or_without_one_is_kept(g, w):
    assert once(t.OrthogonalGradient(), g, param=w).tolist() == g


def factors(gradients, link):
    """The damping of each gradient."""
    found = [out["update"] for out in run(link, list(map(flow, gradients)))]
    return np.array([u[0] / g[0] for u, g in zip(found, gradients, strict=True)])


def test_torque_damping_starts_at_a_half_and_ends_where_the_angles_say():
    exact = t.TAM(tam_eps=0.0)
    steady = factors([[3.0, -1.0]] * 400, exact)
    assert steady[0] == 0.5 and steady[-1] == pytest.approx(1) and (np.diff(steady) >= 0).all()
    # momentum and gradient are always opposite: the similarity is 0.9^(t - 1) - 1
    swinging = factors([[(-1.0) ** i, 0.5 * (-1.0) ** i] for i in range(30)], t.TAM(tam_beta=0.5, tam_eps=0.0))
    np.testing.assert_allclose(swinging, 0.5 * 0.9 ** np.arange(30), rtol=1e-10)
    noise = factors(list(np.random.default_rng(0).standard_normal((300, 2000))), exact)
    assert noise[-1] == pytest.approx(0.5, abs=0.02)


def test_a_gradient_that_swings_is_damped_to_eps():
    """At equal decays the damped momentum is nothing but what eps leaves of it, and that is against the gradient."""
    swinging = factors([[(-1.0) ** i, 2 * (-1.0) ** i] for i in range(400)], t.TAM())
    np.testing.assert_allclose(swinging, 1e-8 + 0.5 * 0.9 ** np.arange(400), rtol=1e-6, atol=1e-14)


def test_torque_damping_knows_no_scale_and_its_factor_is_within_bounds():
    gradients = list(np.random.default_rng(1).standard_normal((40, 3)))
    plain, scaled = factors(gradients, t.TAM(tam_eps=0.0)), factors([1e3 * g for g in gradients], t.TAM(tam_eps=0.0))
    np.testing.assert_allclose(plain, scaled, rtol=1e-12)
    assert plain.min() >= 0 and plain.max() <= 1


def test_lion_s_directions_are_signs_and_zero_stays_zero():
    found = np.array([out["update"] for out in run(t.Lion(), stream(8, steps=10))])
    assert set(np.unique(found)) <= {-1.0, 0.0, 1.0}
    assert next(iter(run(t.Lion(), [flow([0, -2])])))["update"].tolist() == [0, -1]


@given(seed=st.integers(0, 99), rate=st.floats(1e-4, 1), decay=st.floats(0, 1))
def test_a_step_of_lion_is_at_most_as_long_as_the_rate_and_the_decay_allow(seed, rate, decay):
    param = torch.nn.Parameter(torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    optimizer = presets.lion(lr=rate, weight_decay=decay).optimizer([param])
    for f in stream(9, steps=5, seed=seed):
        before, param.grad = param.detach().clone(), torch.tensor(f.grad)
        optimizer.step()
        assert (before - param).abs().max() <= rate * (1 + decay * before.abs().max()) + 1e-12


@given(factor=st.floats(0.01, 50), seed=st.integers(0, 99))
def test_adopt_s_denominator_does_not_know_the_gradient_that_it_divides(factor, seed):
    """What the last gradient adds grows with it, up to the clip."""
    flows = stream(5, steps=4, seed=seed)
    ours, grown = t.ADOPT(betas=(0.9, 0.99)), [*flows[:-1], Flow(factor * flows[-1].update, *3 * [flows[-1].param])]
    (*_, before, one), (*_, other) = (list(run(ours, given)) for given in (flows, grown))
    added = (one["update"] - 0.9 * before["update"]) / 0.1
    inside = (np.abs(added) < 3**0.25 - 1e-9) & (np.abs(factor * added) < 3**0.25)
    found = (other["update"] - 0.9 * before["update"]) / 0.1
    np.testing.assert_allclose(found[inside], factor * added[inside], rtol=1e-9, atol=1e-9)
    assert np.abs(found).max() <= 3**0.25 + 1e-9


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_adopt_knows_no_scale_and_its_momentum_stays_below_the_fourth_root_of_the_step(scale, seed):
    plain = stream(5, steps=12, seed=seed)
    scaled = [Flow(scale * f.update, f.grad, f.param, f.second_moment) for f in plain]
    tiny = t.ADOPT(adopt_eps=1e-30)
    for k, (a, b) in enumerate(zip(run(tiny, plain), run(tiny, scaled), strict=True)):
        np.testing.assert_allclose(a["update"], b["update"], rtol=1e-9, atol=1e-12)
        assert np.abs(a["update"]).max() <= k**0.25 and a["gate"] == (k > 0)


def test_a_late_first_gradient_meets_adopt_s_floor_and_its_clip():
    _, out = run(t.ADOPT(), [flow([0.0, 1.0]), flow([1.0, 1.0])])
    np.testing.assert_allclose(out["update"], [0.1, 0.1])


@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_momentum_on_a_constant_gradient_settles_at_its_gain(mu):
    gains = {
        t.Momentum(momentum=mu, dampening=0.25): 0.75 / (1 - mu),
        t.NesterovMomentum(momentum=mu): 1 / (1 - mu),
        t.FirstMoment(momentum=mu): 1.0,
    }
    for link, gain in gains.items():
        *_, last = run(link, [flow([2.0])] * 300)
        assert last["update"][0] == pytest.approx(2 * gain, rel=1e-9)
