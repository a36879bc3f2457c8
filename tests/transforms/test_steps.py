"""Scales, decays and limits of the step, at their edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from links import Flow, run, stream

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context, NoState

VECTORS = arrays(np.float64, 5, elements=st.floats(-10, 10).map(lambda x: round(x, 3)))


def flow(update, grad=None, param=None, lr=0.1):
    u = np.array(update, dtype=float)
    grad, param = (u if x is None else np.array(x, dtype=float) for x in (grad, param))
    return Flow(u, grad, param, u**2, lr)


def once(link, *args, **kwargs):
    return next(iter(run(link, [flow(*args, **kwargs)])))["update"]


def projected(anchor, param, grad, update, strength):
    """(distances from the anchor before, as proposed, as projected; the update of the second step)."""
    *_, out = run(t.SPD(spd_lambda=strength), [flow(np.zeros(5), param=anchor), flow(update, grad, param)])
    return [np.linalg.norm(x - anchor) for x in (param, param - update, param - out["update"])], out["update"]


@given(anchor=VECTORS, param=VECTORS, grad=VECTORS, update=VECTORS, strength=st.floats(0, 1))
def test_projection_never_leads_further_out_nor_further_in_than_before(anchor, param, grad, update, strength):
    (before, proposed, arrived), out = projected(anchor, param, grad, update, strength)
    assert arrived <= proposed + 1e-9
    if grad @ (param - anchor) <= 0 or proposed <= before:
        np.testing.assert_allclose(out, update, atol=1e-12)
    else:
        assert arrived >= before - 1e-9


SPDS = [t.SPD(spd_lambda=0.5), t.OriginSPD(spd_lambda=0.5), t.LaggedSPD(spd_lambda=0.5), t.UphillSPD(spd_lambda=0.5)]


@pytest.mark.parametrize("link", SPDS, ids=lambda link: link.label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [3, 100, 100_000])
def test_a_right_angle_does_not_fire_whatever_rounding_makes_of_it(link, dtype, size):
    random = torch.Generator().manual_seed(size)
    ctx = Context(torch.tensor(1.0), torch.tensor(0.1), None, WHOLE)
    for _ in range(20):
        w, g = (torch.randn(size, generator=random, dtype=dtype) for _ in range(2))
        start, g = link.init(torch.zeros_like(w)), t.OrthogonalGradient().update(Carry(g, w, g), NoState(), ctx)[0].update
        bent = g * (1 + torch.finfo(dtype).eps * torch.randn(size, generator=random, dtype=dtype))
        for signal in (g, bent, bent + 1e-3 * w, bent - 1e-3 * w):
            out, _ = link.update(Carry(signal, w, -w, processed=signal, regularized=signal), start, ctx)
            fires = torch.dot(signal.double(), w.double()) > 1e-4 * signal.norm() * w.norm()
            assert torch.equal(out.update, -w) != bool(fires)


@given(anchor=VECTORS, param=VECTORS, grad=VECTORS, share=st.floats(0.01, 1.99), unit=st.floats(1e-3, 1e3))
def test_a_plain_step_that_leads_inward_is_not_projected_and_the_unit_of_the_loss_does_not_matter(
    anchor, param, grad, share, unit
):
    """Gradient descent comes nearer as long as lr |g|^2 < 2 <g, theta - theta_0>."""
    inward = grad @ (param - anchor)
    if inward > 1e-6 and np.abs(grad).max() > 1e-3:
        step = share * inward / (grad @ grad) * grad
        np.testing.assert_allclose(projected(anchor, param, grad, step, 1.0)[1], step, rtol=1e-9, atol=1e-12)
    step = np.roll(grad, 1)
    assert (projected(anchor, param, unit * grad, step, 0.7)[1] == projected(anchor, param, grad, step, 0.7)[1]).all()


def test_at_full_strength_the_distance_is_what_it_was():
    anchor, param, update = np.zeros(5), np.arange(5.0), -np.ones(5)
    (before, proposed, arrived), _ = projected(anchor, param, param, update, 1.0)
    assert proposed > before and arrived == pytest.approx(before, rel=1e-12)


@given(anchor=VECTORS, param=VECTORS, grad=VECTORS, update=VECTORS, strength=st.floats(0, 1))
def test_behind_a_speed_limit_projection_lengthens_a_step_by_its_strength_at_most(anchor, param, grad, update, strength):
    limited = once(t.SpeedLimit(speed_limit=0.5), update)
    _, out = projected(anchor, param, grad, limited, strength)
    assert np.linalg.norm(out) <= (1 + strength) * 0.5 * (1 + 1e-9)


def test_gradients_of_a_closure_are_turned_too():
    param = torch.nn.Parameter(torch.arange(1.0, 7, dtype=torch.float64))
    optimizer = chain(t.OrthogonalGradient(), t.LearningRate(lr=0.1)).optimizer([param])
    before = param.detach().clone()

    def closure():
        optimizer.zero_grad()
        (loss := param.square().sum() + param[0].exp()).backward()
        return loss

    optimizer.step(closure)
    moved = param.detach() - before
    assert moved.norm() > 0.1 and abs(moved @ before) < 1e-9


def test_at_its_anchor_a_parameter_moves_freely():
    assert once(t.SPD(spd_lambda=1.0), [1, 2], [-1, -1]).tolist() == [1, 2]


@given(u=VECTORS, d=st.floats(0.1, 5))
def test_clipping_keeps_small_updates_and_the_direction_and_bounds_the_root_mean_square(u, d):
    out, rms = once(t.ClipUpdateRMS(d=d), u), np.sqrt((u**2).mean())
    assert np.sqrt((out**2).mean()) <= d * (1 + 1e-12)
    np.testing.assert_allclose(out * max(1, rms / d), u, rtol=1e-12)


def test_an_empty_parameter_has_the_smallest_scale_and_no_clip():
    empty = np.zeros((0,))
    for link in (t.ClipUpdateRMS(), t.ParameterScale(), t.AGR(), t.Cautious(), t.SpeedLimit(), t.TAM(), t.SPD()):
        assert once(link, empty).shape == (0,)


def test_decay_before_and_after_the_step_differ_by_the_decayed_step():
    (f,) = stream(6, steps=1)
    (before,) = run(t.ScaledWeightDecay(weight_decay=0.3), [f])
    (after,) = run(t.WeightDecayAfterStep(weight_decay=0.3), [f])
    np.testing.assert_allclose(before["update"] - after["update"], f.lr * 0.3 * f.update, rtol=1e-12)


def test_the_relative_step_follows_the_learning_rate_until_the_root_of_the_step_is_less():
    found = [out["update"][0] for out in run(t.RelativeStep(lr=0.5), [flow([1.0])] * 16)]
    assert found[:4] == [0.5] * 4 and found[15] == pytest.approx(0.25) and found[4] == pytest.approx(5**-0.5)


# the share of Adam's first step that relativistic-adam lets a square layer take, at lr 1e-3 and limit 0.1;
# at side 100 only eps keeps it from 0: sqrt(1 - r^2) with r = 1 - eps / sqrt(1 - beta2)
@pytest.mark.parametrize(("side", "share"), [(98, 0.20), (99, 0.14), (100, (2e-8 / 0.001**0.5) ** 0.5), (101, 0.76)])
def test_the_published_limit_nearly_stops_a_layer_just_below_it(side, share):
    param = torch.nn.Parameter(torch.zeros(side, side, dtype=torch.float64))
    param.grad = torch.ones_like(param)
    presets.relativistic_adam(published=True).optimizer([param]).step()
    assert -param.detach().mean().item() / 1e-3 == pytest.approx(share, rel=0.05)


def test_an_unlimited_speed_changes_nothing_and_a_finite_one_keeps_the_order_of_lengths():
    u = np.array([3.0, -4.0])
    for kind in (t.SpeedLimit, t.ComponentSpeedLimit, t.GlobalSpeedLimit):
        assert once(kind(speed_limit=float("inf")), u).tolist() == [3, -4]
        lengths = [np.linalg.norm(once(kind(speed_limit=0.5), scale * u)) for scale in np.linspace(0, 3, 50)]
        assert (np.diff(lengths) > 0).all()


def test_normalizing_by_nothing_but_eps_is_finite():
    assert once(t.Normalize(eps=1e-8), [0.0]).tolist() == [0.0]


def test_an_adafactor_step_is_at_most_d_times_the_scale_of_the_parameter():
    param = torch.nn.Parameter(torch.full((4, 6), 2.0, dtype=torch.float64))
    param.grad = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e6
    presets.adafactor(lr=0.1, d=0.5).optimizer([param]).step()
    assert (2.0 - param.detach()).square().mean().sqrt() <= 0.1 * 0.5 * 2 * (1 + 1e-9)


def test_adopt_s_first_call_skips_the_decay_too():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = presets.adopt(weight_decay=0.5, lr=0.1).optimizer([param])
    param.grad = torch.ones(3)
    optimizer.step()
    assert param.tolist() == [1, 1, 1]
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), 1 - 0.1 * 0.1 - 0.1 * 0.5))


def test_smoothed_weights_keep_their_mean():
    param = torch.nn.Parameter(torch.arange(20.0, dtype=torch.float64).reshape(4, 5))
    param.grad = torch.zeros_like(param)
    mean, spread = param.mean().item(), param.std().item()
    chain(t.LearningRate(lr=0.1), t.WeightDiffusion(c2=0.3)).optimizer([param]).step()
    assert param.mean().item() == pytest.approx(mean) and param.std().item() < spread
