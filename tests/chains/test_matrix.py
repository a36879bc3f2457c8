"""Muon, alone and for a whole model, and the optimizers for large batches, against their programs and by their properties."""

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper import MuonAdamW

SHAPES = [(6, 9), (9, 6), (5, 5), (1, 7), (7, 1)]


def trained(make, shapes=SHAPES, steps=50, dtype=torch.float32, seed=0):
    """The parameters after steps on gradients that lean to one side."""
    random = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)) for shape in shapes]
    optimizer = make(params)
    for _ in range(steps):
        for p in params:
            p.grad = (torch.randn(p.shape, generator=random, dtype=torch.float64) + 0.3).to(dtype)
        optimizer.step()
    return params


def apart(first, second):
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_it_is_torchs_muon(adjust_lr_fn, nesterov, weight_decay):
    given = {"lr": 0.02, "adjust_lr_fn": adjust_lr_fn, "nesterov": nesterov, "weight_decay": weight_decay}
    for dtype, near in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        theirs = trained(lambda params: torch.optim.Muon(params, **given), dtype=dtype)
        assert apart(trained(presets.muon(**given, ns_precision="bfloat16").optimizer, dtype=dtype), theirs) < near
        assert apart(trained(presets.muon(**given).optimizer, dtype=dtype), theirs) < 0.05  # 50 steps, in 3 digits


def values(matrix):
    return torch.linalg.svdvals(matrix)


def orthogonal(u, **settings):
    p = nn.Parameter(torch.zeros_like(u))
    p.grad = u.clone()
    link = t.Orthogonalize(**{"adjust_lr_fn": "none", **settings})
    chain(link, t.LearningRate(lr=1.0)).optimizer([p]).step()
    return -p.detach()


def rotation(n, seed):
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (30, 4)])
def test_singular_values_fall_into_the_known_band_and_vectors_stay(shape):
    u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    s = values(u)
    out = orthogonal(u)
    large = s > 0.01 * u.norm()
    assert values(out).max() <= 1.21 and (values(out).min() >= 0.68 or not large.all())
    left, _, right = torch.linalg.svd(u, full_matrices=False)
    core = left.mT @ out @ right.mT
    torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-12, rtol=0)
    torch.testing.assert_close(orthogonal(u, ns_coefficients="convergent", ns_steps=30), left @ right, atol=1e-12, rtol=0)


def test_it_heeds_neither_scale_nor_axes():
    u = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    out, left, right = orthogonal(u), rotation(6, 3), rotation(9, 4)
    near = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(orthogonal(1e5 * u), out, **near)
    torch.testing.assert_close(orthogonal(1e-4 * u), out, **near)
    torch.testing.assert_close(orthogonal(-u), -out, **near)
    torch.testing.assert_close(orthogonal(u.mT.contiguous()), out.mT, **near)
    torch.testing.assert_close(orthogonal(left @ u @ right), left @ out @ right, **near)
    torch.testing.assert_close(orthogonal(u.reshape(6, 3, 3)), out.reshape(6, 3, 3), **near)
    assert not orthogonal(torch.zeros(3, 4)).any() and not orthogonal(torch.zeros(3, 4), ns_eps=0.0).any()
    assert orthogonal(torch.full((3, 4), 1e30)).isfinite().all() and orthogonal(torch.full((3, 4), 1e-38)).isfinite().all()


def test_what_is_small_grows_by_the_slope_of_the_iteration():
    """Five steps of a slope of 3.4445 at 0 each."""
    u = torch.diag(torch.tensor([1.0, 1e-7, 1e-8], dtype=torch.float64))
    assert orthogonal(u).diagonal()[1:].tolist() == pytest.approx([3.4445**5 * 1e-7, 3.4445**5 * 1e-8], rel=1e-5)


def test_a_scale_by_shape_gives_the_promised_size():
    u = torch.randn(40, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    settings = {"ns_coefficients": "convergent", "ns_steps": 30}
    assert orthogonal(u, adjust_lr_fn="match_rms_adamw", **settings).square().mean().sqrt() == pytest.approx(0.2)
    assert values(orthogonal(u, adjust_lr_fn="rms_to_rms", **settings)) == pytest.approx(np.full(10, 2.0))
    assert values(orthogonal(u, adjust_lr_fn="original", **settings)) == pytest.approx(np.full(10, 2.0))
    assert values(orthogonal(u.mT.contiguous(), adjust_lr_fn="original", **settings)) == pytest.approx(np.ones(10))


def test_the_cautious_form_never_goes_against_the_gradient():
    p = nn.Parameter(torch.randn(6, 9))
    optimizer = presets.c_muon(weight_decay=0.0).optimizer([p])
    for _ in range(5):
        before, p.grad = p.detach().clone(), torch.randn(6, 9)
        optimizer.step()
        assert ((before - p) * p.grad >= 0).all()


# a whole model


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def fit(net, optimizer, steps, scheduler=None):
    random = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(32, 5, generator=random)
        loss = (net(x) - x[:, :2].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


def test_a_whole_model_in_one_optimizer_with_one_state_dict_and_a_cycle():
    net = model()
    optimizer = presets.muon_adamw(lr=0.01).optimizer(net.named_parameters())
    labels = {name: group["label"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name for name, label in labels.items() if label == "muon"} == {"0.weight", "2.weight", "4.weight"}
    scheduler = OneCycleLR(optimizer, max_lr=[0.02, 0.01], total_steps=60, cycle_momentum=False)
    losses = fit(net, optimizer, 30, scheduler)
    file = io.BytesIO()
    torch.save((net.state_dict(), optimizer.state_dict(), scheduler.state_dict()), file)
    fit(net, optimizer, 30, scheduler)
    assert losses[-1] < 0.6 * losses[0]
    file.seek(0)
    saved, twin = torch.load(file, weights_only=True), model()
    other = MuonAdamW(twin.named_parameters(), lr=0.01)
    again = OneCycleLR(other, max_lr=[0.02, 0.01], total_steps=60, cycle_momentum=False)
    for part, state in zip((twin, other, again), saved, strict=True):
        part.load_state_dict(state)
    fit(twin, other, 30, again)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_it_equals_two_optimizers():
    one, two = model(), model()
    fit(one, presets.muon_adamw(lr=0.01).optimizer(one.named_parameters()), 10)
    matrices = [p for p in two.parameters() if p.dim() == 2]
    rest = [p for p in two.parameters() if p.dim() < 2]
    muon = presets.muon(lr=0.01, adjust_lr_fn="match_rms_adamw").optimizer(matrices)
    adamw = presets.adamw(lr=0.01, betas=(0.9, 0.95), weight_decay=0.1).optimizer(rest)

    class Both:
        def zero_grad(self):
            muon.zero_grad(), adamw.zero_grad()

        def step(self):
            muon.step(), adamw.step()

    fit(two, Both(), 10)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# trust ratios and clipping


def test_a_step_of_lamb_is_as_long_as_the_tensor_times_the_rate():
    for scale in (1e-3, 1.0, 1e3):
        p = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
        before, p.grad = p.detach().clone(), scale * torch.randn(4, 5, dtype=torch.float64)
        presets.lamb(lr=0.01).optimizer([p]).step()
        assert (p - before).norm().item() == pytest.approx(0.01 * before.norm().item())


def test_lamb_sees_the_direction_of_an_update_only_and_of_a_tensor_of_zeros_nothing():
    u, w = (torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(2))

    def stepped(factor, start):
        p = nn.Parameter(start.clone())
        p.grad = factor * u
        chain(t.TrustRatio(), t.LearningRate(lr=1.0)).optimizer([p]).step()
        return start - p.detach()

    torch.testing.assert_close(stepped(1e-4, w), stepped(1.0, w), rtol=1e-12, atol=0)
    torch.testing.assert_close(stepped(3.0, 0 * w), 3 * u)


def test_stable_adamw_starts_as_adamw_and_never_steps_further():
    """Of one moment: the ratio of the gradient to its own root mean square is 1 in the first step."""
    links = (t.Moments(betas=(0.9, 0.99)), t.Normalize(eps=1e-6))
    found = []
    for more in ((), (t.ClipNormalizedRMS(rms_eps=1e-6),)):
        p = nn.Parameter(torch.zeros(30, dtype=torch.float64))
        optimizer, lengths = chain(*links, *more, t.LearningRate(lr=0.1)).optimizer([p]), []
        for step in range(30):
            before = p.detach().clone()
            p.grad = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) * 1.2**step
            optimizer.step()
            lengths.append((before - p).norm().item())
        found.append(np.array(lengths))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-9) and (found[1] <= found[0] * (1 + 1e-12)).all()
    assert found[1][-1] < 0.9 * found[0][-1]


@pytest.mark.parametrize("preset", [presets.lamb, presets.lars, presets.stable_adamw, presets.muon, presets.came_muon])
def test_zeros_and_extremes_leave_finite_parameters(preset):
    for start in (0.0, 1.0, 1e-30, 1e18):
        for size in (0.0, 1e-30, 1.0, 1e15):
            params = [nn.Parameter(torch.full(shape, start)) for shape in ((3, 4), (2,), (), (0,))]
            optimizer = preset().optimizer(params)
            for _ in range(3):
                for p in params:
                    p.grad = torch.full_like(p, size)
                optimizer.step()
            assert all(p.isfinite().all() for p in params)


def test_a_surge_of_gradients_shrinks_the_step():
    found = []
    for preset in (presets.adamw, presets.stable_adamw):
        p = nn.Parameter(torch.zeros(50))
        optimizer = preset(betas=(0.9, 0.99), weight_decay=0.0).optimizer([p])
        for size in (*[1e-3] * 200, 1.0):
            before, p.grad = p.detach().clone(), torch.full_like(p, size)
            optimizer.step()
        found.append((p - before).abs().max().item())
    assert found[1] < 0.2 * found[0]


# the authors' programs


def test_lamb_is_timms():
    timm = pytest.importorskip("timm.optim.lamb", exc_type=ImportError)
    given = {"lr": 0.01, "weight_decay": 0.1}
    theirs = trained(lambda params: timm.Lamb(params, **given, max_grad_norm=None), dtype=torch.float64)
    assert apart(trained(presets.lamb(**given).optimizer, dtype=torch.float64), theirs) < 1e-9


def test_lars_is_timms():
    timm = pytest.importorskip("timm.optim.lars", exc_type=ImportError)
    given = {"lr": 0.5, "weight_decay": 0.1, "momentum": 0.9}
    theirs = trained(lambda params: timm.Lars(params, **given, eps=0.0), dtype=torch.float64)
    assert apart(trained(presets.lars(**given).optimizer, dtype=torch.float64), theirs) < 1e-9


def test_stable_adamw_is_optimis():
    optimi = pytest.importorskip("optimi")
    given = {"lr": 0.01, "weight_decay": 0.1}
    theirs = trained(lambda params: optimi.StableAdamW(params, **given, decouple_lr=False), dtype=torch.float64)
    assert apart(trained(presets.stable_adamw(**given).optimizer, dtype=torch.float64), theirs) < 1e-9
