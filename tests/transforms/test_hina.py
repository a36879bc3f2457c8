"""Properties of the links of AdaptiveHina on one parameter: masks of learning rates, damping, moments, pull, decay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from links import Flow, run

from gradchain import ChainError
from gradchain import transforms as t

SIGNS = st.lists(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=3, max_size=3), min_size=2, max_size=12)
RATES = {"lr_bump": 0.01, "min_lr": 0.02, "max_lr": 0.15, "warmup_steps": 8}


def flow(update, grad=None, param=None, lr=0.1):
    u = np.array(update, dtype=float)
    grad, param = (u if x is None else np.array(x, dtype=float) for x in (grad, param))
    return Flow(u, grad, param, u**2, lr)


def factors(link, gradients, lrs=None):
    flows = [flow(g, lr=lr) for g, lr in zip(gradients, lrs or [0.1] * len(gradients), strict=True)]
    return np.array([out["scale"] * np.ones(3) for out in run(link, flows)])


def update_of(link, flows):
    *_, out = run(link, flows)
    return out["update"]


# masks


@given(signs=SIGNS)
def test_a_mask_stays_within_its_rates_and_does_not_care_which_sign_is_which(signs):
    found = factors(t.LRMask(**RATES), signs)
    assert (found * 0.1 >= 0.02 - 1e-12).all() and (found * 0.1 <= 0.15 + 1e-12).all()
    assert np.array_equal(found, factors(t.LRMask(**RATES), [[-x for x in step] for step in signs]))
    assert (found[7:] == found[min(7, len(found)) - 1]).all()  # settled


def test_a_sign_that_stays_raises_the_rate_one_that_turns_lowers_it_and_none_holds_it():
    found = factors(t.LRMask(**RATES), [[1, (-1) ** i, 0] for i in range(5)])
    np.testing.assert_allclose(found * 0.1, [[0.1 + 0.01 * i, 0.1 - 0.01 * i, 0.1] for i in range(5)])


def test_a_mask_follows_the_learning_rate_down_and_up_again():
    lrs = [0.1, 0.1, 0.05, 0.01, 0.2]
    found = factors(t.LRMask(**{**RATES, "max_lr": 1.0}), [[1.0] * 3] * 5, lrs)
    np.testing.assert_allclose(found[:, 0], [1, 1.1, 1.2, 1.3, 1.35])  # the last bump is one of 0.01 in 0.2


@pytest.mark.parametrize("kind", [t.LRMask, t.ElementLRMask, t.TensorLRMask])
def test_a_mask_waits_for_a_learning_rate_and_outlives_gradients_that_are_not_finite(kind):
    found = factors(kind(**RATES), [[1.0] * 3, [np.nan, np.inf, -np.inf], [1.0] * 3], [0.0, 0.1, 0.1])
    assert np.isfinite(found).all() and (found[0] == 1).all()


@pytest.mark.parametrize("kind", [t.LRMask, t.ElementLRMask, t.TensorLRMask])
def test_rates_in_the_wrong_order_are_refused(kind):
    with pytest.raises(ChainError, match=r"min_lr must be at most max_lr; found 1\.0 and 0\.001\. Swap them"):
        kind(min_lr=1.0)


def test_the_published_mask_takes_the_first_step_and_zeros_for_negative_signs():
    found = factors(t.ElementLRMask(**RATES), [[1, -1, 0]] * 3)
    np.testing.assert_allclose(found * 0.1, [[0.09, 0.11, 0.11], [0.1, 0.12, 0.12], [0.11, 0.13, 0.13]])


def test_a_published_mask_without_warm_up_is_one():
    settled = {**RATES, "warmup_steps": 1}
    assert (factors(t.TensorLRMask(**settled), [[1.0] * 3] * 4, [0.1, 0.05, 0.2, 0.1]) == 1).all()


# damping, moments, pull, decay


def test_torque_damping_starts_at_a_half_and_takes_its_time():
    """The figures of a constant gradient at the published decay."""
    outs = [out["update"] for out in run(t.TorqueDamping(), [flow([3.0, 4.0])] * 3000)]
    found = [outs[i - 1][0] / 3 for i in (1, 100, 1000, 3000)]
    np.testing.assert_allclose(found, [0.5005, 0.548, 0.816, 0.975], atol=5e-4)


@given(length=st.sampled_from([1e-150, 1e-3, 1e3, 1e150]))
def test_damping_does_not_care_for_lengths(length):
    flows = [flow([3, 4], grad=[length * 4, length * 2]), flow([1, -4], grad=[length, length])]
    unit = [flow([3, 4], grad=[4, 2]), flow([1, -4], grad=[1, 1])]
    for link in (t.TorqueDamping(tam_beta=0.5), t.AlignmentDamping(alignment_threshold=0.95)):
        np.testing.assert_allclose(update_of(link, flows), update_of(link, unit))


def test_moments_with_a_monotone_second_one_are_at_most_the_root_of_beta_shorter():
    random = np.random.default_rng(0)
    flows = [flow(random.standard_normal(20) * random.uniform(0, 2)) for _ in range(30)]
    for ours, adam in zip(
        run(t.MonotoneMoments(betas=(0.9, 0.8)), flows), run(t.Moments(betas=(0.9, 0.8)), flows), strict=True
    ):
        ratio = np.sqrt(adam["second_moment"] / ours["second_moment"])
        assert (ratio <= 1).all() and (ratio >= 0.8**0.5 - 1e-12).all()
        assert (ours["update"] == adam["update"]).all()


def test_nothing_pulls_at_the_start_and_what_arrives_at_zero_stays_there():
    assert (update_of(t.PullToStart(spd_lambda=9.0), [flow([0, 0], param=[1, 2])] * 3) == 0).all()
    assert (update_of(t.PullToStart(spd_lambda=9.0), [flow([1, 2], param=[1, 2])]) == [1, 2]).all()


def decay_at(kind, step, **kwargs):
    link = kind(weight_decay=1.0, **kwargs)
    flows = [flow([0.0], param=[1.0], lr=1.0)]
    *_, out = run(link, flows * step)
    return out["update"][0]


def test_fading_decay_reaches_the_milestones_of_its_documents_and_the_published_one_does_not():
    steps = {"wd_transition_steps": 10}
    kept = [decay_at(t.DynamicWeightDecay, step, **steps) for step in (1, 10, 20, 50, 70, 100)]
    np.testing.assert_allclose(kept, [1, 1, 0.7, 0.7**4, 0.7**6, 0.1])  # 24 % after five transitions, 12 % after seven
    published = [decay_at(t.DynamicWeightDecayAfterStep, step, **steps) for step in (10, 30, 50, 100)]
    np.testing.assert_allclose(published, [1, 0.49, 0.49, 0.49])


def test_a_ceiling_changes_lengths_only_where_they_are_above_it():
    assert (update_of(t.NormCeiling(norm_ceiling=5.0), [flow([3, 4])]) == [3, 4]).all()
    np.testing.assert_allclose(update_of(t.NormCeiling(), [flow([3e150, 4e150])]), [0.6, 0.8])
    assert np.isnan(update_of(t.NormCeiling(), [flow([np.nan, 1])])).all()
