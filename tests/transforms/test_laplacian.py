"""Laplacian smoothing: the stencil, and the three links that use it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.transforms import Laplacian, UpdateLaplacian, WeightDiffusion
from gradchain.transforms._stencil import LARGEST_C2, laplacian
from gradchain.types import Carry, Context

STENCILS = pytest.mark.parametrize("stencil", ["9point", "5point"])
KERNELS = {
    "9point": torch.tensor([[1.0, 4, 1], [4, -20, 4], [1, 4, 1]], dtype=torch.float64) / 6,
    "5point": torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64),
}


def field(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def context(lr=0.1):
    one = torch.tensor(1.0, dtype=torch.float64)
    return Context(step=one, lr=one * lr, shared=None, layout=WHOLE)


def flow(x):
    return Carry(grad=x, param=x + 1, update=x, second_moment=x.abs())


def test_three_numbers_by_hand():
    a = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    assert laplacian(a, WHOLE, "9point").tolist() == [1.0, -2.0, 1.0, 0.0]


@STENCILS
def test_it_is_the_kernel_with_wrapped_borders(stencil):
    a = field(5, 7)
    wanted = sum(KERNELS[stencil][i + 1, j + 1] * torch.roll(a, (-i, -j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    torch.testing.assert_close(laplacian(a, WHOLE, stencil), wanted, rtol=1e-13, atol=1e-14)


@STENCILS
@pytest.mark.parametrize("shape", [(9,), (5, 7), (4, 3, 3, 3)], ids=str)
def test_constants_vanish_sums_are_kept_and_shifts_commute(stencil, shape):
    a = field(*shape)
    assert laplacian(torch.full_like(a, 3.0), WHOLE, stencil).abs().max() < 1e-14
    assert laplacian(a, WHOLE, stencil).sum().abs() < 1e-12
    shifted = laplacian(torch.roll(a, 1, 0), WHOLE, stencil)
    torch.testing.assert_close(shifted, torch.roll(laplacian(a, WHOLE, stencil), 1, 0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 20), (20, 2), (1, 9)], ids=str)
def test_where_neighbours_would_fold_there_is_no_smoothing(shape):
    a = field(*shape)
    assert torch.equal(laplacian(a, WHOLE, "9point"), torch.zeros_like(a))


def test_more_dimensions_are_a_matrix_of_the_first_and_all_others():
    a = field(4, 3, 3, 3)
    assert torch.equal(laplacian(a, WHOLE, "9point").reshape(4, 27), laplacian(a.reshape(4, 27), WHOLE, "9point"))


@STENCILS
@given(seed=st.integers(0, 10**6), rows=st.integers(3, 6), columns=st.integers(3, 6), sparsity=st.floats(0, 1))
def test_up_to_the_limit_a_variance_stays_between_its_extremes(stencil, seed, rows, columns, sparsity):
    v = field(rows, columns, seed=seed).square()
    v = torch.where(torch.rand(v.shape, generator=torch.Generator().manual_seed(seed)) < sparsity, 0, v)
    smoothed = v + LARGEST_C2[stencil] * laplacian(v, WHOLE, stencil)
    assert smoothed.min() >= v.min() - 1e-14 and smoothed.max() <= v.max() + 1e-14


@STENCILS
def test_beyond_the_limit_it_need_not(stencil):
    v = torch.zeros(4, 4, dtype=torch.float64)
    v[1, 1] = 1.0
    assert (v + (LARGEST_C2[stencil] + 0.01) * laplacian(v, WHOLE, stencil)).min() < 0
    link = Laplacian(c2=0.5, bounded=False, stencil=stencil)
    assert link.update(flow(v), link.init(v), context())[0].second_moment.min() == 0


def test_each_link_smooths_its_slot():
    x = field(5, 7)
    out = {
        kind: kind(c2=0.1).update(flow(x), kind().init(x), context())[0]
        for kind in (Laplacian, UpdateLaplacian, WeightDiffusion)
    }
    torch.testing.assert_close(out[Laplacian].second_moment, x.abs() + 0.1 * laplacian(x.abs(), WHOLE, "9point"))
    torch.testing.assert_close(out[UpdateLaplacian].update, x + 0.1 * laplacian(x, WHOLE, "9point"))
    arrived = (x + 1) - out[WeightDiffusion].update
    stepped = (x + 1) - x
    torch.testing.assert_close(arrived, stepped + 0.1 * laplacian(stepped, WHOLE, "9point"))


def test_small_parameters_are_left_alone_and_so_are_weights_at_rate_zero():
    x = field(3, 5)
    for kind in (Laplacian, UpdateLaplacian, WeightDiffusion):
        link, given = kind(c2=0.1, min_spatial_size=16), flow(x)
        assert link.update(given, link.init(x), context())[0] is given
    link = WeightDiffusion(c2=0.1, min_spatial_size=1)
    assert torch.equal(link.update(flow(x), link.init(x), context(lr=0.0))[0].update, x)
