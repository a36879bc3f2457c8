"""Clipping, centering and smoothing of gradients, cautious decay: what the papers promise of them."""

import pytest
import torch
from links import f64

from gradchain import chain
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def apply(link, g, w=None):
    w = torch.ones_like(g) if w is None else w
    context = Context(step=f64(1.0), lr=f64(0.1), shared=None, layout=WHOLE)
    return link.update(Carry(grad=g, param=w, update=g), link.init(w), context)[0].update


def stepped(*links, grads):
    """What a chain subtracts at a learning rate of 1, per parameter."""
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    optimizer = chain(*links, t.LearningRate(lr=1.0)).optimizer(params)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    optimizer.step()
    return [-p.detach() for p in params]


def test_the_global_norm_is_torch_s_up_to_its_1e_6():
    params = [torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (3, 7, 20)]
    grads = [normal(n, seed=n) for n in (3, 7, 20)]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    for limit in (0.5, 100.0):
        torch.nn.utils.clip_grad_norm_(params, limit)
        found = stepped(t.ClipGlobalNorm(max_norm=limit), grads=grads)
        torch.testing.assert_close(found, [p.grad for p in params], rtol=1e-6, atol=0)
        grads = [p.grad.clone() for p in params]


def test_a_norm_clipped_globally_or_alone_is_the_limit_and_below_it_nothing_changes():
    grads = [normal(3), normal(7, seed=1)]
    together = torch.cat(stepped(t.ClipGlobalNorm(max_norm=0.5), grads=grads))
    assert together.norm().item() == pytest.approx(0.5, rel=1e-12)
    assert all(g.norm().item() == pytest.approx(0.5, rel=1e-12) for g in stepped(t.ClipNorm(clip_norm=0.5), grads=grads))
    assert all(map(torch.equal, stepped(t.ClipGlobalNorm(max_norm=50.0), grads=grads), grads))


def test_zero_gradients_pass_every_clip():
    for link in (t.ClipNorm(), t.ClipGlobalNorm(), t.ClipValue(), t.AGC(), t.ZClip(zclip_warmup_steps=1, zclip_eps=0.0)):
        for zero in stepped(link, grads=[torch.zeros(4), torch.zeros(2, 3)]):
            assert torch.equal(zero, torch.zeros_like(zero))


def test_rows_without_weights_may_move_by_the_share_of_eps():
    out = apply(t.AGC(clipping=0.01, agc_eps=1e-3), normal(4, 6), torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(out.norm(dim=1), f64([1e-5] * 4), rtol=1e-12, atol=0)


def test_zclip_takes_a_spike_down_and_its_history_knows_of_the_clipped_norm_only():
    param = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = chain(t.ZClip(), t.LearningRate(lr=1.0)).optimizer([param])
    for step in range(40):
        before = param.detach().clone()
        param.grad = f64([3.0, 4.0]) * (100.0 if step == 30 else 1 + 0.01 * (-1) ** step)
        optimizer.step()
        moved = (before - param.detach()).norm()
        assert moved == pytest.approx(param.grad.norm()) if step != 30 else 5.0 < moved < 5.2
    assert 4.9 < optimizer.state[param]["z_clip/mean"] < 5.1


def test_zclip_forgets_a_norm_that_is_not_finite():
    param = torch.nn.Parameter(torch.zeros(2))
    optimizer = chain(t.ZClip(zclip_warmup_steps=2), t.LearningRate(lr=0.0)).optimizer([param])
    for g in (1.0, 2.0, 1.5, torch.nan, 1.5):
        param.grad = torch.full((2,), g)
        optimizer.step()
    assert all(value.isfinite() for value in optimizer.state[param].values())


def test_centralizing_twice_is_centralizing_once_and_rows_sum_to_nothing():
    g = normal(4, 3, 2, 2)
    once = apply(t.Centralize(), g)
    torch.testing.assert_close(apply(t.Centralize(), once), once)
    assert once.flatten(1).sum(1).abs().max() < 1e-14 and once.norm() <= g.norm()


SIZES = [1, 2, 3, 4, 7, 64]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("sigma", [0.0, 0.5, 3.0])
def test_smoothing_keeps_constants_sums_and_bounds_and_descends(n, sigma):
    link, g, h = t.LaplacianSmoothing(sigma=sigma), normal(n), normal(n, seed=1)
    x = apply(link, g)
    torch.testing.assert_close(apply(link, torch.full_like(g, 0.7)), torch.full_like(g, 0.7))
    torch.testing.assert_close(x.sum(), g.sum())
    assert g.min() - 1e-14 <= x.min() and x.max() <= g.max() + 1e-14 and x.norm() <= g.norm() + 1e-14
    assert (g * x).sum() > 0
    torch.testing.assert_close((h * x).sum(), (apply(link, h) * g).sum())
    torch.testing.assert_close(apply(link, g.roll(1)), x.roll(1))
    if sigma == 0:
        torch.testing.assert_close(x, g)


def test_smoothing_spreads_an_impulse_as_the_paper_s_kernel():
    impulse = torch.zeros(101, dtype=torch.float64).index_fill(0, torch.tensor([50]), 1.0)
    rho = (3 - 5**0.5) / 2
    wanted = rho ** (torch.arange(101) - 50).abs().double() / 5**0.5
    torch.testing.assert_close(apply(t.LaplacianSmoothing(sigma=1.0), impulse), wanted, rtol=0, atol=1e-14)


def test_cautious_decay_never_pushes_a_weight_away_from_zero_and_is_ordinary_decay_or_none():
    u, w = normal(200), normal(200, seed=1)
    decay = apply(t.CautiousWeightDecay(weight_decay=0.1), u, w) - u
    agrees = u * w > 0
    torch.testing.assert_close(decay[agrees], 0.1 * w[agrees])
    assert torch.equal(decay[~agrees], torch.zeros_like(decay[~agrees]))


def averaged(link, gradients, after):
    """An average of the gradients, with the link behind it or ahead of it."""
    links = (t.FirstMoment(), link) if after else (link, t.FirstMoment())
    param = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = chain(*links, t.LearningRate(lr=1.0)).optimizer([param])
    for g in gradients:
        param.grad = g.clone()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("link", [t.Centralize(), t.LaplacianSmoothing(sigma=2.0)], ids=lambda link: link.label)
def test_fixed_linear_maps_stand_ahead_of_an_average_or_behind_it(link):
    g, h = normal(4, 6), normal(4, 6, seed=1)
    torch.testing.assert_close(apply(link, 3 * g - h), 3 * apply(link, g) - apply(link, h))
    gradients = [normal(4, 6, seed=seed) for seed in range(8)]
    torch.testing.assert_close(averaged(link, gradients, after=True), averaged(link, gradients, after=False))


def test_the_order_of_smoothing_and_centralizing_matters():
    """Smoothing runs across the ends of rows."""
    g, (smooth, central) = normal(4, 6), (t.LaplacianSmoothing(), t.Centralize())
    assert (apply(smooth, apply(central, g)) - apply(central, apply(smooth, g))).abs().max() > 0.01


@pytest.mark.parametrize(("sigma", "left"), [(1.0, 0.268), (2.0, 0.185), (3.0, 0.149)])
def test_smoothing_leaves_the_known_share_of_the_variance_of_noise(sigma, left):
    g = normal(200_000)
    assert (apply(t.LaplacianSmoothing(sigma=sigma), g).var() / g.var()).item() == pytest.approx(left, rel=0.02)


def test_rows_are_clipped_to_their_share_of_the_weights():
    g, w = 100 * normal(5, 6), normal(5, 6, seed=1)
    limits = 0.1 * w.norm(dim=1).clamp(min=1e-3)
    torch.testing.assert_close(apply(t.AGC(clipping=0.1), g, w).norm(dim=1), limits)
    torch.testing.assert_close(apply(t.AGC(clipping=0.1), 1e-4 * g, w), 1e-4 * g)
