"""The relativistic speed limit."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gradchain import chain, presets
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.transforms import ComponentSpeedLimit, GlobalSpeedLimit, LearningRate, SpeedLimit
from gradchain.types import Carry, Context

SOUND = pytest.mark.parametrize("profile", ["lorentz", "tanh", "hard"])


def limited(u, kind=SpeedLimit, step=1.0, **settings):
    link = kind(**settings)
    one = torch.tensor(1.0, dtype=torch.float64)
    ctx = Context(step=one * step, lr=one, shared=None, layout=WHOLE)
    return link.update(Carry(grad=u, param=u, update=u), link.init(u), ctx)[0].update


def speeds(profile, *r):
    return torch.stack([limited(torch.tensor([x], dtype=torch.float64), speed_limit=1.0, speed_profile=profile) for x in r])[
        :, 0
    ]


def test_a_three_four_five_triangle():
    u = torch.tensor([3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(limited(u, speed_limit=5.0), u / 2**0.5)
    torch.testing.assert_close(limited(u, speed_limit=1.0, speed_profile="hard"), u / 5)


@pytest.mark.parametrize("kind", [SpeedLimit, ComponentSpeedLimit])
@pytest.mark.parametrize("profile", ["lorentz", "tanh", "hard", "published"])
def test_the_limit_holds_and_the_direction_is_kept(kind, profile):
    for scale in (1e-9, 1e-2, 1.0, 1e6):
        u = scale * torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        out = limited(u, kind, speed_limit=0.3, speed_profile=profile)
        size = out.norm() if kind is SpeedLimit else out.abs().max()
        assert size <= 0.3 * (1 + 1e-12)
        assert (out * u >= 0).all()
        if kind is SpeedLimit:
            torch.testing.assert_close(out / out.norm(), u / u.norm())


@SOUND
def test_sound_profiles_rise_and_start_as_the_identity(profile):
    r = torch.linspace(0, 4, 200).tolist()
    s = speeds(profile, *r)
    assert (s.diff() >= -1e-15).all() and s[0] == 0
    assert speeds(profile, 1e-4)[0] == pytest.approx(1e-4, rel=1e-7)


def test_the_published_profile_nearly_stops_just_below_the_limit_and_jumps_at_it():
    s = speeds("published", 0.5, 0.5**0.5, 0.9999, 1.0, 3.0)
    assert s.tolist() == pytest.approx([0.4330127, 0.5, 0.0141407, 0.7615942, 0.9950548], abs=1e-6)


def test_two_lorentz_limits_are_one():
    u = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    both = limited(limited(u, speed_limit=0.5), speed_limit=0.8)
    torch.testing.assert_close(both, limited(u, speed_limit=(1 / 0.5**2 + 1 / 0.8**2) ** -0.5))


def test_the_limit_warms_up():
    u = torch.tensor([100.0], dtype=torch.float64)
    sizes = [
        limited(u, step=t, speed_limit=1.0, speed_profile="hard", speed_warmup_steps=4).item() for t in (1.0, 2.0, 4.0, 9.0)
    ]
    assert sizes == pytest.approx([0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_of_non_finite_length_is_not_taken(bad):
    u = torch.tensor([1.0, bad], dtype=torch.float64)
    assert limited(u).tolist() == [0.0, 0.0]
    by_element = limited(u, ComponentSpeedLimit)
    assert by_element[0] > 0 and by_element[1] == 0


def test_the_global_limit_is_on_the_whole_model_s_step():
    params = [nn.Parameter(torch.zeros(3, dtype=torch.float64)), nn.Parameter(torch.zeros(2, 2))]
    optimizer = chain(LearningRate(lr=1.0), GlobalSpeedLimit(speed_limit=0.5, speed_profile="hard")).optimizer(params)
    for p in params:
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    assert sum(p.detach().square().sum().item() for p in params) ** 0.5 == pytest.approx(0.5, rel=1e-6)
    assert params[0][0].item() == pytest.approx(params[1][0, 0].item(), rel=1e-6)


def vector(seed, scale=1.0, size=6):
    return scale * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SCALES = pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 10.0, 1e3])


@SCALES
def test_the_lorentz_limit_is_a_change_of_velocity(scale):
    """With a way back, as close to the identity as 1 / c^2 allows, in any unit of length, and in any order."""
    u, c = vector(0, scale), 0.7
    v = limited(u, speed_limit=c)
    if scale <= 10:  # beyond, all that is left of u is in the last digits
        torch.testing.assert_close(v / (1 - (v.norm() / c) ** 2).sqrt(), u, rtol=1e-9, atol=0)
    assert 0 <= u.norm() - v.norm() <= u.norm() ** 3 / (2 * c**2)
    torch.testing.assert_close(limited(100 * u, speed_limit=100 * c), 100 * v)
    first = limited(limited(u, speed_limit=0.5), speed_limit=0.8)
    torch.testing.assert_close(first, limited(limited(u, speed_limit=0.8), speed_limit=0.5))


@SOUND
@SCALES
def test_two_steps_never_come_further_apart(profile, scale):
    for seed in range(20):
        u, w = vector(seed, scale), vector(seed + 100, scale)
        apart = [limited(x, speed_limit=0.5, speed_profile=profile) for x in (u, w)]
        assert (apart[0] - apart[1]).norm() <= (u - w).norm() * (1 + 1e-12)


def test_at_the_limit_the_profiles_are_what_they_are():
    found = {profile: speeds(profile, 1.0).item() for profile in ("lorentz", "tanh", "hard")}
    assert found == pytest.approx({"lorentz": 0.5**0.5, "tanh": 0.761594, "hard": 1.0}, abs=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e18, 1e30])
def test_the_size_of_a_step_is_not_squared(size):
    """Whole lengths beyond the square root of the dtype's range count as not finite."""
    for kind, limit in ((ComponentSpeedLimit, 0.5), (SpeedLimit, 0.5 / 2**0.5)):
        if kind is ComponentSpeedLimit or size < 1e19:
            out = limited(torch.tensor([size, -size], dtype=torch.float32), kind, speed_limit=0.5)
            assert out.tolist() == pytest.approx([min(size, limit), -min(size, limit)], rel=1e-6)


def fitted(recipe, epochs=200):
    """The package's own demonstration: losses and lengths of the gradient, up to the first that is beyond all bounds."""
    torch.manual_seed(42)
    x = torch.randn(200, 10)
    y = x.square().sum(1) + 0.5 * (x[:, :5] * x[:, 5:]).sum(1) + 0.1 * torch.randn(200)
    x, y = x[:150], ((y - y.mean()) / (y.std() + 1e-8))[:150, None]
    widths = [10, *[128] * 7, 1]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.constant_(layer.bias, 0.01)
    net = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
    optimizer, seen = recipe.optimizer(net.parameters()), []
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        length = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
        seen.append((loss.item(), length.item()))
        if not length < 1e10:
            break
        optimizer.step()
    return seen


@pytest.mark.slow
def test_at_a_learning_rate_of_1_adam_explodes_in_one_step_and_what_is_limited_learns():
    exploded = fitted(presets.adam(lr=1.0))
    assert len(exploded) == 2 and exploded[0][1] == pytest.approx(23.5, abs=0.1) and exploded[1][0] > 1e20
    for recipe in (presets.relativistic_adam(lr=1.0, published=True), presets.relativistic_adam(lr=1.0)):
        seen = fitted(recipe)
        assert len(seen) == 200 and max(length for _, length in seen) < 1e3 and seen[-1][0] < 0.1
