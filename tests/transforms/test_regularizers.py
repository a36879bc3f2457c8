"""Filters and regularizers of matrices: projections, spectra, ranks, scales, and what passes through."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from links import Flow, run
from training import param, snapshot, steps

from gradchain import chain
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.transforms._subspace import first_basis, follow, leading, mean_rank_decay

SIZES = pytest.mark.parametrize("shape", [(8, 8), (7, 9), (8, 5), (1, 6), (6, 1)], ids=str)
BEYOND_MATRICES = pytest.mark.parametrize("shape", [(1,), (7,), (4, 3, 5, 5)], ids=str)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def flow(update, grad=None, param=None):
    u = np.array(update, dtype=float)
    grad, param = (u if x is None else np.array(x, dtype=float) for x in (grad, param))
    return Flow(u, grad, param, u**2)


def last(link, flows):
    *_, found = run(link, flows)
    return found


def once(link, *args, **kwargs):
    return last(link, [flow(*args, **kwargs)])["update"]


def fast_part(g):
    return g - once(t.FrequencyPenalty(frequency_penalty=1.0), g)


def checkerboard(h, w):
    return (-1.0) ** np.add.outer(np.arange(h), np.arange(w))


@SIZES
def test_the_high_pass_is_a_projection_and_keeps_the_phase(shape):
    g, other = noise(*shape), noise(*shape, seed=1)
    fast = fast_part(g)
    np.testing.assert_allclose(fast_part(fast), fast, atol=1e-14)
    np.testing.assert_allclose(np.sum(fast * (g - fast)), 0, atol=1e-13)
    np.testing.assert_allclose(fast_part(2 * g - other), 2 * fast - fast_part(other), atol=1e-14)
    for axis in (0, 1):
        np.testing.assert_allclose(fast_part(np.roll(g, 1, axis)), np.roll(fast, 1, axis), atol=1e-14)


@SIZES
def test_the_high_pass_kills_constants(shape):
    np.testing.assert_allclose(fast_part(np.full(shape, 3.0)), 0, atol=1e-14)


@pytest.mark.parametrize("shape", [(8, 8), (6, 4), (2, 10)], ids=str)
def test_the_high_pass_keeps_a_checkerboard_and_the_published_one_spares_it(shape):
    board = checkerboard(*shape)
    np.testing.assert_allclose(fast_part(board), board, atol=1e-14)
    published = t.PublishedFrequencyPenalty(frequency_penalty=0.3)
    np.testing.assert_allclose(once(published, board), board, atol=1e-14)
    np.testing.assert_allclose(once(published, np.ones(shape)), 0.7, atol=1e-14)


@SIZES
def test_half_of_the_spectrum_is_as_good_as_all_of_it(shape):
    g, (h, w) = noise(*shape), shape
    k, l = h * np.fft.fftfreq(h)[:, None], w * np.fft.fftfreq(w)  # noqa: E741
    whole = np.fft.ifft2(np.fft.fft2(g) * (np.hypot(k, l) > 0.3 * min(h, w))).real
    np.testing.assert_allclose(fast_part(g), whole, atol=2e-15 * np.abs(g).max() * 4)


def test_the_published_frequency_penalty_does_not_know_where_a_pattern_stands():
    g = noise(6, 7)
    link = t.PublishedFrequencyPenalty()
    np.testing.assert_allclose(g - once(link, g), np.roll(g, 2, 0) - once(link, np.roll(g, 2, 0)), atol=1e-15)


def test_the_published_difference_penalty_only_lowers():
    g = noise(5, 6)
    assert (once(t.DifferencePenalty(), g) <= g).all()


def matrix(gap, rows=96, columns=64):
    """Singular values 1, gap, gap^2, ... in random directions, and the part beyond the tenth."""
    (u, _), (v, _) = np.linalg.qr(noise(rows, columns, seed=1)), np.linalg.qr(noise(columns, columns, seed=2))
    s = gap ** np.arange(columns)
    beyond = np.where(np.arange(columns) < 10, 0, s)
    return torch.tensor(u * s @ v.T), torch.tensor(u * beyond @ v.T)


def test_the_tail_converges_at_the_rate_of_the_gap():
    """Its relative error shrinks by the square of the gap at each renewal; slow gaps as measured with another start."""
    errors = {}
    for gap in (0.5, 0.9, 0.98):
        w, tail = matrix(gap)
        basis = first_basis(w, 10)
        for i in range(1, 12):
            basis = follow(w, basis, WHOLE)
            errors[gap, i] = ((w - leading(w, basis, WHOLE) - tail).norm() / tail.norm()).item()
    assert errors[0.5, 8] / errors[0.5, 4] == pytest.approx(0.5**8, rel=0.05)
    assert errors[0.5, 11] / errors[0.5, 8] == pytest.approx(0.5**6, rel=0.05)
    slow = [errors[gap, i] for gap in (0.9, 0.98) for i in (1, 4, 8, 11)]
    assert (np.array(slow) < 1.4 * np.array([1.0, 0.66, 0.28, 0.15, 0.66, 0.39, 0.27, 0.25])).all()


@pytest.mark.parametrize("shape", [(30, 14), (14, 30)], ids=str)
def test_the_penalty_is_the_gradient_of_the_tail_s_energy(shape):
    w, _ = matrix(0.4, 30, 14)
    w = (w if shape == (30, 14) else w.T).contiguous().requires_grad_()
    energy = 0.2 / 2 * torch.linalg.svdvals(w)[10:].square().sum()
    (expected,) = torch.autograd.grad(energy, w)
    link = t.RankPenalty(rank_penalty_strength=0.2, rank_penalty_interval=1)
    found = last(link, [flow(np.zeros(shape), param=w.detach().numpy())] * 40)["update"]
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.abs().max())


def test_the_penalty_vanishes_in_the_followed_subspace_whatever_it_is():
    w = torch.tensor(noise(30, 20))
    basis = first_basis(w, 10)
    rest = w - leading(w, basis, WHOLE)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(10, dtype=w.dtype))
    torch.testing.assert_close(rest @ basis, torch.zeros(30, 10, dtype=w.dtype), rtol=0, atol=1e-14)
    assert rest.norm() <= w.norm() and (rest * w).sum() >= 0


def test_a_matrix_of_low_rank_is_not_penalized_and_mere_l2_would():
    w = noise(30, 3) @ noise(3, 20, seed=1)
    small = dict(update=np.zeros((30, 20)), param=w)
    assert np.abs(once(t.RankPenalty(rank_penalty_strength=1.0), **small)).max() < 1e-13
    np.testing.assert_allclose(once(t.MatrixL2(rank_penalty_strength=1.0), **small), w)


@pytest.mark.parametrize("spoilt", [0.0, float("nan"), float("inf"), 1e300, 1e-300])
def test_the_basis_stays_orthonormal_whatever_the_matrix_holds(spoilt):
    w = torch.full((20, 12), spoilt, dtype=torch.float64)
    w[0, 0] *= 2
    basis = follow(w, first_basis(w, 4), WHOLE)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4, dtype=w.dtype))


def test_the_basis_is_renewed_at_its_interval_only():
    p = param(20, 14)
    optimizer = chain(t.RankPenalty(rank_penalty_interval=3), t.LearningRate(lr=0.1)).optimizer([p])
    bases = []
    for i in range(8):
        steps(optimizer, start=i)
        bases.append(optimizer.state[p]["rank_penalty/basis"].clone())
    renewed = [not torch.equal(a, b) for a, b in pairwise(bases)]
    assert renewed == [False, False, True, False, False, True, False]


def test_emphasis_enlarges_the_leading_part_and_keeps_the_rest():
    w, tail = (x.numpy() for x in matrix(0.3, 30, 14))
    link = t.LowRankEmphasis(low_rank_emphasis=3.0, low_rank_emphasis_interval=1)
    np.testing.assert_allclose(last(link, [flow(w)] * 20)["update"], 3 * w - 2 * tail, atol=1e-12)


def test_rank_aware_decay_with_no_excess_is_weight_decay():
    w, u = noise(30, 14), noise(30, 14, seed=1)
    plain = once(t.WeightDecay(weight_decay=0.3), u, param=w)
    np.testing.assert_allclose(once(t.RankAwareDecay(weight_decay=0.3, rank_decay_excess=0.0), u, param=w), plain, atol=1e-15)


@pytest.mark.parametrize("extents", [(5, 6), (20, 12), (1, 9)], ids=str)
def test_the_published_factor_of_the_shape_is_a_mean_over_ranks(extents):
    assert mean_rank_decay(extents) == pytest.approx(np.exp(-0.1 * np.arange(min(extents))).mean(), rel=1e-14)


@pytest.mark.parametrize(
    "link",
    [
        t.FrequencyPenalty(frequency_penalty=1.0),
        t.PublishedFrequencyPenalty(),
        t.DifferencePenalty(),
        t.RankPenalty(rank_penalty_rank=1),
        t.LowRankEmphasis(low_rank_emphasis_rank=1),
        t.MatrixL2(),
        t.TopEigenvalueL2(),
        t.EdgeDamping(edge_threshold=0.0),
    ],
    ids=lambda link: link.label,
)
@BEYOND_MATRICES
def test_what_is_made_for_matrices_lets_everything_else_pass(link, shape):
    u = noise(*shape)
    assert (once(link, u, param=noise(*shape, seed=1)) == u).all()


@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (1, 30)], ids=str)
def test_matrices_without_a_tail_pass(shape):
    u = noise(*shape)
    assert (once(t.RankPenalty(), u, param=noise(*shape, seed=1)) == u).all()
    assert (once(t.LowRankEmphasis(), u) == u).all()


@pytest.mark.parametrize("shape", [(7,), (1, 1), (2, 2)], ids=str)
def test_shapes_without_an_inside_have_no_edges(shape):
    u = noise(*shape)
    for link in (t.EdgeSuppression(edge_threshold=0.0), t.PublishedEdgeHistory(edge_history_threshold=0.0)):
        assert (last(link, [flow(u)] * 3)["update"] == u).all()


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6])
def test_edges_are_found_whatever_the_scale_and_the_published_ones_are_not(scale):
    u = noise(8, 9)
    wanted = last(t.EdgeSuppression(), [flow(u)] * 5)["update"]
    assert not np.allclose(wanted, u)
    np.testing.assert_allclose(last(t.EdgeSuppression(), [flow(scale * u)] * 5)["update"], scale * wanted, rtol=1e-12)
    published = last(t.PublishedEdgeHistory(), [flow(scale * u)] * 5)["update"] / scale
    assert not np.allclose(published, last(t.PublishedEdgeHistory(), [flow(u)] * 5)["update"], rtol=1e-3)


def test_edges_need_both_axes_only_in_the_published_form():
    u = np.array([[0.0, 1, 0, 0], [0, 1, 0, 0]])
    assert not np.allclose(last(t.EdgeSuppression(), [flow(u)] * 3)["update"], u)
    assert (last(t.PublishedEdgeHistory(), [flow(u)] * 3)["update"] == u).all()


def test_a_damped_element_keeps_a_tenth_at_least():
    u = np.zeros((5, 5))
    u[2, 2] = 1.0
    link = t.EdgeSuppression(edge_penalty=100.0)
    np.testing.assert_allclose(last(link, [flow(u)] * 5)["update"], 0.1 * u)


def test_a_smooth_slope_is_no_edge():
    u = np.add.outer(np.arange(6.0), np.arange(7.0))
    assert (last(t.EdgeSuppression(edge_threshold=1e-9), [flow(u)] * 3)["update"] == u).all()


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_detail_is_relative_and_slows_a_row_down(scale):
    g = np.array([[1.0, -1, 1, -1], [3, -3, 3, -3]])
    factors = last(t.SpatialAwareness(), [flow(g)] * 30)["bump_scale"]
    assert (factors[0] > 1).all() and (factors[1] < 1).all()
    np.testing.assert_allclose(last(t.SpatialAwareness(), [flow(scale * g)] * 30)["bump_scale"], factors, rtol=1e-12)
    published = last(t.PublishedSpatialAwareness(), [flow(g)] * 30)["bump_scale"]
    assert (published[0] <= published[1]).all()
    assert (last(t.PublishedSpatialAwareness(), [flow(1e-6 * g)] * 30)["bump_scale"] == 0.5).all()


def test_detail_preservation_reaches_the_link():
    g = np.array([[1.0, -1, 1, -1], [3, -3, 3, -3]])
    gentle, strong = (last(t.SpatialAwareness(detail_preservation=d), [flow(g)] * 30)["bump_scale"][1, 0] for d in (0.2, 0.6))
    assert strong < gentle < 1
    assert (last(t.SpatialAwareness(detail_preservation=0.0), [flow(g)] * 30)["bump_scale"] == 1).all()


def group_run(*links, scales=(1.0, 1.0), lr=1.0):
    """Two parameters whose gradients are even, and of these sizes."""
    params = [torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)) for _ in scales]
    for p, scale in zip(params, scales, strict=True):
        p.grad = scale * torch.tensor([1.0, 1.0, 1.0, 1.001], dtype=torch.float64)
    chain(*links, t.LearningRate(lr=lr)).optimizer(params).step()
    return [(-p.detach() / p.grad).mean().item() for p in params]


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_background_is_what_is_small_and_even_beside_its_group(scale):
    link = t.BackgroundRegularization(background_threshold=1e-6)
    assert group_run(link, scales=(scale, scale)) == pytest.approx([0.5, 0.5])  # relative variance 2.5e-7
    assert group_run(link, scales=(scale, 1e-3 * scale)) == pytest.approx([0.5, 0.5])
    strict = t.BackgroundRegularization(background_threshold=1e-8)
    assert group_run(strict, scales=(scale, scale)) == pytest.approx([1, 1])
    assert group_run(strict, scales=(scale, 1e-3 * scale)) == pytest.approx([1, 0.5])
    published = t.PublishedBackgroundRegularization()
    assert group_run(published, scales=(scale, scale)) == pytest.approx([0.5, 0.5] if scale <= 1 else [1, 1])


@pytest.mark.parametrize("start", [1, 2, 30])
def test_what_is_background_is_so_from_the_first_step_of_a_late_phase(start):
    p, even = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)), torch.tensor([1.0, 1.0, 1.0, 1.001], dtype=torch.float64)
    optimizer = chain(t.Phase(t.BackgroundRegularization(), start=start), t.LearningRate(lr=1.0)).optimizer([p])
    for _ in range(start):
        before, p.grad = p.detach().clone(), even.clone()
        optimizer.step()
    torch.testing.assert_close(before - p.detach(), 0.5 * even)


def test_shares_are_of_the_group_each_parameter_is_in():
    params = [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(3)]
    for p in params:
        p.grad = torch.ones_like(p)
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    chain(t.GroupAGR(agr_eps=0.0), t.LearningRate(lr=1.0)).optimizer(groups).step()
    assert [-p.item() for p in params] == [0.5, 0.5, 0.0]


def test_a_group_without_any_gradient_stays_finite():
    assert (once(t.GroupAGR(agr_eps=0.0), np.zeros(3)) == 0).all()


def trajectory(*links, count=12, lr=0.1):
    p = param(3, 4, dtype=torch.float64)
    optimizer = chain(t.Momentum(), t.LearningRate(lr=lr), *links).optimizer([p], driver="reference")  # no fused kernel
    seen = []
    for i in range(count):
        steps(optimizer, start=i)
        seen.append(p.detach().clone())
    return seen


def test_lookahead_all_the_way_is_no_lookahead():
    assert all(map(torch.equal, trajectory(t.Lookahead(la_alpha=1.0)), trajectory()))


def test_lookahead_none_of_the_way_comes_back_accumulate_steps():
    start = param(3, 4, dtype=torch.float64).detach()
    for i, seen in enumerate(trajectory(t.Lookahead(la_alpha=0.0, la_steps=4)), 1):
        assert torch.allclose(seen, start, rtol=0, atol=1e-15) == (i % 4 == 0)


def test_between_meetings_lookahead_is_the_optimizer_itself():
    ahead, plain = trajectory(t.Lookahead(la_steps=5)), trajectory()
    assert all(map(torch.equal, ahead[:4], plain[:4])) and not torch.equal(ahead[4], plain[4])
    torch.testing.assert_close(ahead[4], 0.8 * plain[4] + 0.2 * param(3, 4, dtype=torch.float64).detach())


def test_layers_of_which_only_one_meets_are_the_paper_s_lookahead():
    single = t.MultilayerLookahead(la_layers=1, la_alphas=(0.8, 1.0, 1.0, 1.0), la_ks=(5, 1, 1, 1))
    for a, b in zip(trajectory(single), trajectory(t.Lookahead()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-15)


def test_slow_weights_start_where_the_parameter_is_when_the_link_sets_in():
    plain = trajectory()
    for link in (t.Lookahead(la_steps=4, la_alpha=0.5), t.MultilayerLookahead(la_ks=(4, 9, 9, 9), la_alphas=(0.5,) * 4)):
        ahead = trajectory(t.Phase(link, start=6, stop=9))
        assert all(map(torch.equal, ahead[:7], plain[:7]))
        torch.testing.assert_close(ahead[7], (plain[4] + plain[7]) / 2)


def test_a_meeting_at_learning_rate_zero_is_left_out():
    p = param(3, 4)
    optimizer = chain(t.Momentum(), t.LearningRate(lr=0.1), t.Lookahead(la_steps=2)).optimizer([p])
    steps(optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.0
    before = snapshot(optimizer)[1][0]
    steps(optimizer, start=3)
    assert torch.equal(p, before)


def test_figures_tell_what_the_links_do():
    p = param(20, 14)
    links = (
        t.FrequencyPenalty(),
        t.RankPenalty(),
        t.SpatialAwareness(),
        t.Momentum(),
        t.LowRankEmphasis(),
        t.EdgeSuppression(),
        t.BackgroundRegularization(),
        t.RankAwareDecay(weight_decay=0.1),
        t.LearningRate(lr=0.1),
        t.Lookahead(),
    )
    optimizer = chain(*links).optimizer([p])
    steps(optimizer, 3)
    state = optimizer.state[p]
    for link in links:
        own = link.State(*[state[f"{link.label}/{name}"] for name in getattr(link.State, "_fields", ())])
        assert all(value.dim() == 0 and value.isfinite() for value in link.figures(own).values())
        assert bool(link.figures(own)) == bool(own) or isinstance(link, t.Momentum)
    rest = p.detach() - leading(p.detach(), state["rank_penalty/basis"], WHOLE)
    assert 0.05 < state["rank_penalty/tail"] < 0.9 and state["rank_penalty/tail"] == pytest.approx(
        (rest.norm() / p.norm()).item() ** 2,
        rel=0.5,  # of the parameter before the step
    )


@pytest.mark.parametrize("field", ["edge_penalty", "edge_threshold", "edge_decay"])
def test_a_schedule_moves_the_edges_settings(field):
    link = replace(t.EdgeSuppression(), **{field: lambda step: 0.5 / step})
    p = param(5, 6)
    optimizer = chain(link, t.LearningRate(lr=0.1)).optimizer([p])
    steps(optimizer, 3)
    assert p.isfinite().all() and optimizer.param_groups[0][field] == pytest.approx(0.5 / 3)
