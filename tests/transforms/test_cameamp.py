"""What the links of CAME, Automagic and CameAMP must do, whatever the numbers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from links import Flow, run

from gradchain import ParamInfo, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.transforms._eight_bits import dynamic_map, eight_bits
from gradchain.types import Carry, Context

MASK = {"min_lr": 0.1, "max_lr": 2.0, "lr_bump": 0.25, "mask_start": 1.0}


def flows(*updates, residuals=None, lr=0.5):
    arrays = [np.array(u, dtype=float) for u in updates]
    residuals = arrays if residuals is None else [np.array(r, dtype=float) for r in residuals]
    return [Flow(u, u, np.ones_like(u), u**2, lr, r) for u, r in zip(arrays, residuals, strict=True)]


def last(link, given):
    *_, found = run(link, given)
    return found


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def came_update(gradients, scale=1.0):
    """The root mean square of CAME's update after these gradients."""
    p = torch.nn.Parameter(torch.zeros(gradients[0].shape, dtype=torch.float64))
    optimizer = presets.came(lr=1.0).optimizer([p])
    for g in gradients:
        before = p.detach().clone()
        p.grad = torch.tensor(scale * g)
        optimizer.step()
    return (p.detach() - before).square().mean().sqrt().item()


def test_came_starts_eleven_times_too_large_and_grows_with_a_gradient_that_never_changes():
    g = noise(30, 40)
    assert came_update([g]) == pytest.approx(11.1, rel=0.02)
    assert came_update([g] * 100) == pytest.approx(49, rel=0.02)


def test_came_does_not_see_the_scale_of_the_gradient():
    gradients = [noise(5, 6, seed=i) for i in range(4)]
    assert came_update(gradients, scale=1e6) == pytest.approx(came_update(gradients), rel=1e-9)


def test_a_vector_has_no_confidence_in_came():
    assert came_update([np.ones(7)]) == pytest.approx(0.1, rel=1e-9)  # the momentum of an update clipped at 1


def test_came_on_a_vector_is_an_average_of_clipped_rmsprop_and_its_averages_know_no_rate():
    links = (t.FactoredMeanSquare(), t.Normalize(eps=0.0), t.ClipUpdateRMS(), t.ResidualMomentum())
    for shape, ours, theirs in (
        ((7,), presets.came(lr=0.01), chain(*links, t.LearningRate(lr=0.01))),
        ((4, 5), presets.came(lr=0.01), presets.came(lr=10.0)),
    ):
        kept = []
        for recipe in (ours, theirs):
            p = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
            optimizer = recipe.optimizer([p])
            for i in range(6):
                p.grad = torch.tensor(noise(*shape, seed=i))
                optimizer.step()
            kept.append((p.detach(), {key: v for key, v in optimizer.state[p].items() if "confidence" not in key}))
            assert all((v >= 0).all() for key, v in optimizer.state[p].items() if "mean_square" in key or "confidence" in key)
        assert torch.equal(kept[0][0], kept[1][0]) == (shape == (7,))
        assert all(torch.equal(v, kept[1][1][key]) for key, v in kept[0][1].items())


@pytest.mark.parametrize("link", [t.Confidence(beta3=0.9), t.FactoredConfidence(beta3=0.9)], ids=lambda link: link.label)
def test_what_missed_its_average_more_counts_less(link):
    missed = [[[1, 4], [2, 8]]] * 3
    u = last(link, flows(*[np.ones((2, 2))] * 3, residuals=missed))["update"]
    assert (np.argsort(u.ravel()) == np.argsort(-np.ravel(missed[0]))).all()


def test_the_corrected_confidence_starts_at_the_size_that_it_keeps():
    sizes = [np.abs(out["update"]).mean() for out in run(t.Confidence(), flows(*[[1.0, -1.0]] * 50))]
    assert sizes == pytest.approx([1.0] * 50)
    sizes = [np.abs(out["update"]).mean() for out in run(t.PublishedConfidence(), flows(*[[1.0, -1.0]] * 50))]
    assert sizes[0] == pytest.approx(100) and sizes[49] == pytest.approx(100 / math.sqrt(50), rel=0.01)


def test_the_published_momentum_falls_to_a_tenth_at_half_of_the_warm_up_and_the_sound_one_does_not():
    steady = flows(*[[1.0, 1.0, 1.0]] * 80)
    published = [out["update"][0] for out in run(t.TorqueMomentum(torque_steps=60, momentum=0.1, momentum_floor=0.1), steady)]
    assert published[58] / published[59] > 2.5
    sound = [out["update"][0] for out in run(t.FallingMomentum(), steady)]
    assert all(0.98 < later / earlier < 1.02 for earlier, later in pairwise(sound[20:]))


def test_falling_momentum_forgets_faster_and_faster():
    link = t.FallingMomentum(momentum=0.9, beta1_decay=0.9, momentum_floor=0.2)
    weights = [out["update"][0] / 1.0 for out in run(link, flows([1.0], *[[0.0]] * 20))]
    ratios = [later / earlier for earlier, later in pairwise(weights)]
    assert ratios[0] == pytest.approx(0.9 * 0.9**2) and ratios[-1] == pytest.approx(0.2)
    assert all(b <= a + 1e-12 for a, b in pairwise(ratios))


def test_rows_have_their_own_torque():
    swinging = flows(*[[[1.0, 0.0], [(-1.0) ** i, 0.0]] for i in range(40)])
    (kept, _), (damped, _) = last(t.RowTAM(tam_beta=0.5), swinging)["update"]
    assert kept == pytest.approx(1, abs=0.02) and abs(damped) < 0.1


def masks(link, gradients, lr=0.5):
    return [out["update"] * lr for out in run(link, flows(*gradients, lr=lr))]


@pytest.mark.parametrize("link", [t.PublishedLRMask(**MASK), t.Int8LRMask(**MASK), t.EightBitLRMask(**MASK)])
def test_masks_rise_while_the_sign_stays_fall_while_it_turns_and_keep_their_bounds(link):
    values = masks(link, [[1.0, (-1.0) ** i] for i in range(12)])
    steady, turning = np.abs([v[0] for v in values]), np.abs([v[1] for v in values])
    assert (np.diff(steady) >= -1e-12).all() and steady[-1] == pytest.approx(2.0)
    assert (np.diff(turning) <= 1e-12).all() and turning[-1] == pytest.approx(0.1)


def test_a_mask_in_8_bits_stands_still_once_a_bump_is_less_than_half_of_its_step():
    """The first element stays at the largest rate, so a step is 1 / 127; the second should fall by 0.003 every time."""
    link = t.Int8LRMask(mask_start=1.0, min_lr=0.0, max_lr=1.0, lr_bump=0.003)
    values = np.abs([v[1] for v in masks(link, [[-1.0, (-1.0) ** i] for i in range(30)])])
    assert values == pytest.approx([0.997] * 30)
    link = t.PublishedLRMask(mask_start=1.0, min_lr=0.0, max_lr=1.0, lr_bump=0.003, lr_max_start=0.5)
    values = np.abs([v[1] for v in masks(link, [[-1.0, (-1.0) ** i] for i in range(30)])])
    assert values[-1] == pytest.approx(1 - 30 * 0.003)


def test_a_schedule_shrinks_the_settled_published_mask_to_its_floor():
    def steps(floor):
        link = t.PublishedLRMask(**MASK, mask_steps=3, mask_floor=floor)
        given = [flow for lr in (0.5, 0.5, 0.5, 0.05, 0.005) for flow in flows([1.0], lr=lr)]
        return [out["update"][0] * flow.lr for out, flow in zip(run(link, given), given, strict=True)]

    assert np.divide(steps(0.0)[2:], steps(0.0)[2]) == pytest.approx([1, 0.1, 0.01])
    assert np.divide(steps(0.2)[2:], steps(0.2)[2]) == pytest.approx([1, 0.2, 0.2])


def test_decay_of_a_group_looks_at_all_of_it():
    """Mean sizes 1 and 3, deviation 1 over the elements: z = -1 for the first, 1 for the second."""
    link = t.GroupAdaDecay(weight_decay=0.5, decay_slope=math.log(3))
    grads, group = [torch.tensor([1.0, -1.0]), torch.tensor([3.0, 3.0])], {}
    ctx = Context(step=torch.tensor(1.0), lr=torch.tensor(0.1), shared=None, layout=WHOLE)
    carries = [Carry(grad=g, param=torch.ones(2), update=torch.zeros(2)) for g in grads]
    measured = [link.measure(carry, (), ctx) for carry in carries]
    shared = link.share(measured, [ParamInfo(str(i), g, group) for i, g in enumerate(grads)])
    found = [link.update(c, (), ctx._replace(shared=s))[0].update[0].item() for c, s in zip(carries, shared, strict=True)]
    assert found == pytest.approx([0.25, 0.75])


def test_projection_to_zero_never_raises_the_norm_where_it_fires_in_full():
    w, u = noise(4, 5), noise(4, 5, seed=1)
    flow = Flow(u, w, w, u**2)  # the gradient points along w, so that SPD is open
    out = last(t.OriginSPD(spd_lambda=1.0), [flow])["update"]
    assert np.linalg.norm(w - out) <= max(np.linalg.norm(w), np.linalg.norm(w - u)) + 1e-12
    uphill = Flow(-w, w, w, w**2)
    assert np.linalg.norm(w - last(t.OriginSPD(spd_lambda=1.0), [uphill])["update"]) == pytest.approx(np.linalg.norm(w))


def test_rounding_to_8_bits_is_within_its_step_and_done_once_for_all():
    x = noise(64, 64)
    x[0, 0] = x[40, 0] = 5.0  # the map has 1, but not -1
    kept = last(t.EightBitMomentum(momentum=0.5), flows(2 * x, np.zeros_like(x)))["update"] * 2
    assert np.abs(kept - x).max() <= 5.0 * 0.9 / 128 + 1e-9
    again = last(t.EightBitMomentum(momentum=0.5), flows(2 * kept, np.zeros_like(x)))["update"] * 2
    assert np.array_equal(again, kept)


def test_previous_mean_square_leaves_the_first_step_to_measure():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = chain(t.PreviousMeanSquare(), t.Normalize(eps=0.0), t.LearningRate(lr=0.1)).optimizer([p])
    p.grad = torch.tensor([1.0, 2.0, 4.0])
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("link", [t.PublishedLRMask(**MASK), t.Int8LRMask(**MASK), t.EightBitLRMask(**MASK)])
def test_from_the_second_step_on_masks_do_not_care_which_sign_is_which(link):
    gradients = [np.sign(noise(20, seed=i)) for i in range(2)]
    rates = [np.abs(masks(link, [sign * g for g in gradients])) for sign in (1, -1)]
    ours, theirs = (second - first for first, second in rates)
    level = np.abs(rates[0][0] - rates[1][0])
    assert np.sign(ours).tolist() == np.sign(theirs).tolist() and (level > 0).all()  # the first step has its own opinion


def test_the_map_of_8_bits_has_one_zero_and_blocks_know_nothing_of_each_other():
    values = dynamic_map()
    assert len(values) == 256 and (values.diff() > 0).all() and values[127] == 0
    assert (values[0].item(), values[-1].item()) == pytest.approx((-0.99297, 1.0), abs=1e-5)
    assert values.abs()[values != 0].min().item() == pytest.approx(5.5e-7, rel=1e-6)
    x = torch.tensor(noise(3, 40))
    kept = eight_bits(x, 50, WHOLE)  # blocks of 50, 50 and 20
    assert torch.equal(eight_bits(0 * x, 50, WHOLE), 0 * x)
    for start in (0, 50, 100):
        alone = eight_bits(x.flatten()[start : start + 50], 50, WHOLE)
        assert (
            torch.equal(kept.flatten()[start : start + 50], alone)
            and alone.abs().max() <= x.flatten()[start : start + 50].abs().max()
        )
