"""Properties of AdaptiveHina over several parameters: importance, relations, the preset as a whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import hina_scales as scales

from gradchain import chain, presets
from gradchain import transforms as t


def model(*shapes, seed=0, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(scale * torch.randn(shape, generator=random, dtype=torch.float64)) for shape in shapes]


def train(optimizer, steps, scale=1.0, seed=1):
    """Random gradients of the parameters' own sizes; the gradients of each step, then the parameters before it."""
    random, seen = torch.Generator().manual_seed(seed), []
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(steps):
        for i, p in enumerate(params):
            p.grad = scale * (i + 1) * torch.randn(p.shape, generator=random, dtype=torch.float64)
        seen.append([[x.detach().numpy().copy() for x in xs] for xs in ([p.grad for p in params], params)])
        optimizer.step()
    return [list(xs) for xs in zip(*seen, strict=True)]


def state(optimizer, key):
    return np.array([optimizer.state[p][key].item() for group in optimizer.param_groups for p in group["params"]])


SHAPES = [(4, 5), (7,), (1,), (3, 2, 2)]
SCORED = chain(t.Importance(importance_interval=3, importance_decay=0.8), t.ApplyScale(), t.LearningRate(lr=0.05))


def test_importance_is_relative_over_all_groups_and_refreshed_at_intervals():
    params = model(*SHAPES)
    optimizer = SCORED.optimizer([{"params": params[:1]}, {"params": params[1:]}])
    grads, before = train(optimizer, 20)
    *_, wanted = scales.scores(grads[::3], before[::3], 0.8)
    found = state(optimizer, "importance/score")
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert abs(found.mean() - 1) < 1e-12 and found.max() - found.min() > 0.2
    figures = optimizer.report().figures["importance"]
    np.testing.assert_allclose(list(figures["factor"].values()), np.clip(found, 0.1, 3))


def test_the_units_of_loss_and_gradients_do_not_matter_to_importance():
    found = []
    for scale in (1.0, 1e6):
        optimizer = SCORED.optimizer(model(*SHAPES), lr=0.05 / scale)
        train(optimizer, 10, scale)
        found.append(state(optimizer, "importance/score"))
    np.testing.assert_allclose(*found, rtol=1e-7)


def test_one_bad_gradient_spoils_no_other_parameter():
    params = model(*SHAPES)
    optimizer = SCORED.optimizer(params)
    for value in (float("nan"), float("inf")):
        for p in params:
            p.grad = torch.ones_like(p)
        params[0].grad.fill_(value)
        optimizer.step()
        optimizer.step()
        optimizer.step()
        assert np.isfinite(state(optimizer, "importance/score")).all()
        assert all(p.isfinite().all() for p in params[1:])


def test_a_stronger_adaptation_spreads_the_factors_and_none_leaves_them_at_one():
    spreads = []
    for strength in (0.0, 0.5, 1.0):
        link = t.Importance(importance_interval=1, importance_decay=0.0, adaptation_strength=strength)
        optimizer = chain(link, t.ApplyScale(), t.LearningRate(lr=0.01)).optimizer(model(*SHAPES))
        train(optimizer, 2)
        factor = list(optimizer.report().figures["importance"]["factor"].values())
        spreads.append(max(factor) - min(factor))
    assert spreads[0] == 0 < spreads[1] < spreads[2]


# relations

MATRICES = [(4, 5), (5, 4), (6,), (4, 5), (7, 8), (3, 4), (1, 1)]


def related(shapes=MATRICES, seed=0, steps=1, threshold=0.2, interval=10, published=False, **kwargs):
    kind = t.LastPartnerRelations if published else t.Relations
    link = kind(compatibility_threshold=threshold, relationship_discovery_interval=interval, name="relations")
    params = model(*shapes, seed=seed, **kwargs)
    optimizer = chain(link, t.ApplyScale(), t.LearningRate(lr=0.01)).optimizer(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.02}]
    )
    return optimizer, params, train(optimizer, steps)[1][-1]


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), threshold=st.sampled_from([0.0, 0.2, 0.36, 0.5]))
def test_the_partner_is_the_best_of_all_groups(seed, threshold):
    optimizer, _, before = related(seed=seed, threshold=threshold)
    for i, own in enumerate(before):
        fits = [scales.fit(own, other) if own.ndim == other.ndim == 2 and i != j else 0 for j, other in enumerate(before)]
        best = int(np.argmax(fits))
        found = fits[best] > threshold
        partner, compatibility, factor = (
            state(optimizer, f"relations/{key}")[i] for key in ("partner", "compatibility", "factor")
        )
        assert partner == (best if found else -1)
        np.testing.assert_allclose(compatibility, fits[best] if found else 0, rtol=1e-12)
        np.testing.assert_allclose(factor, scales.worth(own, before[best], fits[best]) if found else 1, rtol=1e-12)


def test_relations_stand_between_discoveries_and_are_found_anew_then():
    optimizer, _, before = related(steps=3, interval=3)
    first = state(optimizer, "relations/factor")
    train(optimizer, 1)
    assert not np.array_equal(state(optimizer, "relations/factor"), first)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    start = related(steps=1)[0]
    assert np.array_equal(state(start, "relations/factor"), first)
    assert len(before) == len(params)


def test_published_relations_take_the_last_partner_of_the_group_for_the_earlier_one_only():
    optimizer, *_ = related(steps=2, interval=2, threshold=0.17, published=True)
    assert list(state(optimizer, "relations/partner")) == [1, -1, -1, 5, -1, -1, -1]


def test_published_relations_are_kept_when_nobody_fits_any_more():
    optimizer, params, _ = related([(2, 3), (4, 5), (2, 2), (2, 2)], steps=1, interval=1, threshold=0.3, published=True)
    assert list(state(optimizer, "relations/partner")) == [-1, -1, 3, -1]
    optimizer.param_groups[1]["compatibility_threshold"] = 1.0
    train(optimizer, 1)
    assert state(optimizer, "relations/partner")[2] == 3
    assert state(optimizer, "relations/factor")[2] != 1
    assert params[2].isfinite().all()


@pytest.mark.parametrize("published", [False, True])
def test_degenerate_matrices_have_no_correlation_and_finite_factors(published):
    shapes = [(3, 3), (3, 3), (0, 3), (3, 0), (1, 1), (1, 1), ()]
    for scale in (0.0, 1e-300, 1e150):
        optimizer, params, _ = related(shapes, scale=scale, interval=1, published=published)
        assert np.isfinite(state(optimizer, "relations/factor")).all() and (state(optimizer, "relations/factor") >= 0).all()
    with torch.no_grad():
        for p in params:
            p.fill_(0.1)
    train(optimizer, 1)
    assert state(optimizer, "relations/compatibility")[0] == pytest.approx(0.7)


def test_the_report_tells_who_is_related_to_whom():
    params = model((4, 3), (3, 4), (9,))
    optimizer = presets.adaptive_hina().optimizer(list(zip(("down", "up", "bias"), params, strict=True)))
    assert optimizer.report().findings["relations"] == {"relations": []}
    train(optimizer, 1)
    first, second = optimizer.report().findings["relations"]["relations"]
    assert (first["parameter"], first["partner"], first["shapes"]) == ("down", "up", [[4, 3], [3, 4]])
    assert (second["parameter"], second["partner"], second["product"]) == ("up", "down", "A B")
    assert first["compatibility"] == pytest.approx(scales.fit(*(p.detach().numpy() for p in params[:2])), abs=0.05)
    assert "relations: relations: 2" in str(optimizer.report())


# the preset


def steps_of(recipe, count=8):
    params = model((4, 5), (6,), ())
    optimizer = recipe.optimizer(params)
    train(optimizer, count)
    return params


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(steps_of(first), steps_of(second), strict=True))


def test_with_every_technique_off_it_is_adamw():
    off = {key: False for key in ("spd", "cautious", "adopt_stability", "grams", "agr", "tam", "dynamic_adaptation", "lr_mask")}
    switches = {f"use_{key}": value for key, value in off.items()} | {"dynamic_weight_decay": False}
    assert presets.adaptive_hina(**switches) == presets.adamw()
    params, theirs = model((4, 5), (6,)), model((4, 5), (6,))
    ours = presets.adaptive_hina(**switches, weight_decay=0.0, published=True).optimizer(params)
    torchs = torch.optim.AdamW(theirs, weight_decay=0.0)
    for optimizer in (ours, torchs):
        train(optimizer, 20)
    torch.testing.assert_close(params, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["general", "large_model", "sd_lora", "low_memory"])
@pytest.mark.parametrize("published", [False, True])
def test_a_configuration_is_the_preset_with_other_numbers_and_gives_way_to_keywords(name, published):
    configured = getattr(presets, f"adaptive_hina_{name}")
    groups = [make(published=published).hyperparameters for make in (presets.adaptive_hina, configured)]
    assert groups[0].keys() == groups[1].keys() or name == "low_memory"
    assert configured(published=published) != presets.adaptive_hina(published=published)
    assert configured(lr=0.5, warmup_steps=7, published=published)["learning_rate"].lr == 0.5
    assert all(p.isfinite().all() for p in steps_of(configured(published=published), 3))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e18, 1e37])
def test_degenerate_parameters_and_gradients_leave_finite_parameters(published, size):
    recipe = presets.adaptive_hina(published=published, relations=True, relationship_discovery_interval=2, warmup_steps=3)
    params = [torch.nn.Parameter(torch.full(s, size)) for s in [(3, 4), (4, 3), (1,), (), (0,), (2, 2, 2)]]
    optimizer = recipe.optimizer(params)
    for value in (0.0, size, 1.0, -size, 0.0):
        for p in params:
            p.grad = torch.full_like(p, value)
        optimizer.step()
        assert all(p.isfinite().all() for p in params)
