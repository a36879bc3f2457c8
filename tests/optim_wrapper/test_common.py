"""Numbers that exist once for all parameters: what joins late goes by those of the others."""

import copy

import numpy as np
import pytest
import torch

from gradchain import chain, presets
from gradchain import transforms as t

DRIVERS = pytest.mark.parametrize("driver", ["reference", "eager", "compiled"])
UNCOMPILED = pytest.mark.parametrize("driver", ["reference", "eager"])
SHAPES = [(4,), (4,), (3, 2), ()]
STEPS = 40


class Prodigy:
    """prodigyopt 1.1.2: d, its bound and the sum of products are numbers of the optimizer, the rest is each parameter's."""

    def __init__(self, params, d0=1e-3, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, growth_rate=np.inf):
        self.params, self.states = [p.copy() for p in params], [{} for _ in params]
        self.d = self.bound = self.d0 = d0
        self.lr, self.betas, self.eps, self.decay, self.growth = lr, betas, eps, weight_decay, growth_rate
        self.products = 0.0

    def step(self, grads):
        d, (b1, b2), b3 = self.d, self.betas, self.betas[1] ** 0.5
        self.products *= b3
        size = 0.0
        for p, g, state in zip(self.params, grads, self.states, strict=True):
            if g is None:
                continue
            if not state:
                state.update(start=p.copy(), s=0.0, m=0.0, v=0.0)
            weight = d / self.d0 * d * self.lr
            self.products += weight * (g * (state["start"] - p)).sum()
            state["m"] = b1 * state["m"] + (1 - b1) * d * g
            state["v"] = b2 * state["v"] + (1 - b2) * d * d * g * g
            state["s"] = b3 * state["s"] + weight * g
            size += np.abs(state["s"]).sum()
        if size == 0:
            return
        found = self.products / size
        self.bound = max(self.bound, found)
        self.d = min(self.bound, (max(d, found) if d == self.d0 else d) * self.growth)
        for i, (g, state) in enumerate(zip(grads, self.states, strict=True)):
            if g is not None:
                p = self.params[i] * (1 - d * self.lr * self.decay)
                self.params[i] = p - d * self.lr * state["m"] / (np.sqrt(state["v"]) + self.d * self.eps)


def tensors(values):
    return [torch.nn.Parameter(torch.tensor(value)) for value in values]


def deal(params, grads):
    for p, g in zip(params, grads, strict=False):
        p.grad = None if g is None else torch.tensor(g)


def problem(seed=0):
    """Starts, and a function of step and parameters that gives gradients towards targets."""
    random = np.random.default_rng(seed)
    start, targets = ([random.standard_normal(shape) * scale for shape in SHAPES] for scale in (1.0, 4.0))
    present = random.random((STEPS, len(SHAPES))) < 0.6
    present[:, 0] |= ~present.any(1)

    def gradients(k, values, there=present):
        return [v - w if there[k][i] else None for i, (v, w) in enumerate(zip(values, targets, strict=True))]

    return start, gradients


def worst(params, values):
    return max(np.abs(p.detach().numpy() - v).max() for p, v in zip(params, values, strict=True))


def joining(late, first):
    """Which parameters have a gradient, where some join later."""
    return [[i not in late or k >= first for i in range(len(SHAPES))] for k in range(STEPS)]


@DRIVERS
@pytest.mark.parametrize("settings", [{}, {"growth_rate": 1.3, "weight_decay": 0.01}], ids=["plain", "bounded"])
@pytest.mark.parametrize("there", [joining([1, 3], 15), None], ids=["late", "at random"])
def test_prodigy_runs_as_its_rule_where_gradients_are_missing(driver, settings, there):
    start, gradients = problem(2)
    rule, params = Prodigy(start, **settings), tensors(start)
    optimizer = presets.prodigy(d0=1e-3, **settings).optimizer(params, driver=driver)
    for k in range(STEPS):
        grads = gradients(k, rule.params, *([there] if there else []))
        deal(params, grads)
        optimizer.step()
        rule.step(grads)
        assert worst(params, rule.params) < 1e-9
    assert rule.d > 10 * rule.d0


@UNCOMPILED
def test_a_parameter_whose_state_was_cleared_goes_by_the_distance_of_the_others(driver):
    start, gradients = problem()
    rule, params = Prodigy(start), tensors(start)
    optimizer = presets.prodigy(d0=1e-3).optimizer(params, driver=driver)
    for k in range(STEPS):
        if k == 20:
            del optimizer.state[params[2]]
            rule.states[2].clear()
        grads = gradients(k, rule.params, joining([], 0))
        deal(params, grads)
        optimizer.step()
        rule.step(grads)
    assert worst(params, rule.params) < 1e-9


@UNCOMPILED
def test_a_parameter_of_a_group_that_is_added_goes_by_the_distance_of_the_others(driver):
    start, gradients = problem()
    rule, params = Prodigy(start), tensors(start)
    optimizer = presets.prodigy(d0=1e-3).optimizer(params[:3], driver=driver)
    for k in range(STEPS):
        if k == 20:
            optimizer.add_param_group({"params": params[3:]})
        grads = gradients(k, rule.params, joining([3], 20))
        deal(params, grads)
        optimizer.step()
        rule.step(grads)
    assert worst(params, rule.params) < 1e-9


def test_a_run_that_is_saved_while_a_parameter_is_missing_goes_on_as_if_it_were_not():
    start, gradients = problem()
    there = joining([1], 30)
    runs = []
    for saved in (False, True):
        params = tensors(start)
        optimizer = presets.prodigy(d0=1e-3).optimizer(params)
        for k in range(STEPS):
            if saved and k == 20:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = presets.prodigy(d0=1e-3).optimizer(params)
                assert optimizer.load_state_dict(state).clean
            deal(params, gradients(k, [p.detach().numpy() for p in params], there))
            optimizer.step()
        runs.append(params)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        presets.prodigy(d0=1e-3),
        chain(t.ZClip(zclip_warmup_steps=4), t.LearningRate(lr=0.1)),
        chain(t.Signal(), t.BackgroundRegularization(background_threshold=0.5), t.LearningRate(lr=0.1)),
    ],
    ids=["prodigy", "zclip", "background"],
)
def test_a_function_of_tensors_runs_as_the_optimizer_where_gradients_are_missing(recipe):
    start, gradients = problem(5)
    params, values = tensors(start), [torch.tensor(p) for p in start]
    optimizer, state = recipe.optimizer(params, driver="reference"), recipe.init(values)
    for k in range(STEPS):
        grads = gradients(k, [p.detach().numpy() for p in params])
        deal(params, grads)
        optimizer.step()
        updates, state = recipe.update([None if g is None else torch.tensor(g) for g in grads], state, values)
        values = [p - u for p, u in zip(values, updates, strict=True)]
        assert all(torch.equal(p, v) for p, v in zip(params, values, strict=True))


@DRIVERS
def test_zclip_knows_one_history_of_norms_whoever_has_a_gradient(driver):
    """The rule by its formula, on the norm over all gradients that are there."""
    random = np.random.default_rng(3)
    settings = {"z_thresh": 1.0, "zclip_alpha": 0.8, "zclip_warmup_steps": 5, "zclip_eps": 1e-6}
    params = tensors([np.zeros(shape) for shape in SHAPES])
    values = [np.zeros(shape) for shape in SHAPES]
    optimizer = chain(t.ZClip(**settings), t.LearningRate(lr=1.0)).optimizer(params, driver=driver)
    seen, mean, variance, clips = [], 0.0, 0.0, 0
    for k in range(STEPS):
        there = [i < 2 or (k % 3 == 0 and k >= 10) for i in range(len(SHAPES))]
        there[0] = k % 4 != 1
        size = 1 + 5 * (random.random() < 0.2)
        grads = [random.standard_normal(shape) * size if there[i] else None for i, shape in enumerate(SHAPES)]
        deal(params, grads)
        optimizer.step()
        n = clipped = np.sqrt(sum((g**2).sum() for g in grads if g is not None))
        if len(seen) < 5:
            seen.append(n)
            mean, variance = np.mean(seen), np.var(seen)
        else:
            deviation = np.sqrt(variance)
            if (z := (n - mean) / (deviation + 1e-6)) > 1:
                clipped, clips = mean + deviation / z, clips + 1
            mean = 0.8 * mean + 0.2 * clipped
            variance = 0.8 * variance + 0.2 * (clipped - mean) ** 2
        values = [v if g is None else v - g * clipped / n for v, g in zip(values, grads, strict=True)]
        assert worst(params, values) < 1e-9
    assert clips > 3


@DRIVERS
def test_what_counts_as_background_is_told_by_the_group_and_not_by_when_a_parameter_joined(driver):
    link = t.BackgroundRegularization(background_threshold=0.5, background_decay=0.9)
    params = tensors([np.zeros(4), np.zeros(4), np.zeros(4)])
    optimizer = chain(t.Signal(), link, t.LearningRate(lr=1.0)).optimizer(
        [{"params": params[:2]}, {"params": params[2:]}], driver=driver
    )
    wave, scale = np.array([1.0, -1.0, 2.0, -2.0]), [0.0, 0.0]
    for k in range(12):
        grads = [10 * wave, wave if k >= 8 else None, wave if k >= 8 else None]
        deal(params, grads)
        optimizer.step()
        means = [np.mean([(g**2).mean() for g in some if g is not None] or [np.nan]) for some in (grads[:2], grads[2:])]
        scale = [s if np.isnan(m) else 0.9 * s + 0.1 * m for s, m in zip(scale, means, strict=True)]
    found = [optimizer.state[p]["background_regularization/scale"].item() for p in params]
    np.testing.assert_allclose(found, [scale[0], scale[0], scale[1]], rtol=1e-12)
    factors = [optimizer.state[p]["background_regularization/factor"].item() for p in params]
    assert factors == [1.0, 0.5, 1.0]


@UNCOMPILED
def test_a_step_that_is_not_finite_leaves_the_common_numbers_as_they_were(driver):
    params = tensors([np.ones(4), np.ones(4)])
    optimizer = chain(t.ZClip(), t.LearningRate(lr=0.1)).optimizer(params, driver=driver, finite_gate=True)
    for k in range(6):
        deal(params, [np.full(4, k + 1.0), np.full(4, np.nan) if k == 4 else None if k == 2 else np.ones(4)])
        kept = {key: value.clone() for key, value in optimizer.state[params[0]].items()}
        optimizer.step()
        if k == 4:
            assert all(torch.equal(optimizer.state[params[0]][key], value) for key, value in kept.items())
    assert optimizer.state[params[1]]["z_clip/seen"] == optimizer.state[params[0]]["z_clip/seen"] == 5


@UNCOMPILED
def test_the_chains_of_a_partition_have_their_own_numbers(driver):
    from gradchain import partition

    clip = chain(t.ZClip(), t.LearningRate(lr=0.1))
    params = tensors([np.ones((2, 2)), np.ones((2, 2)), np.ones(3), np.ones(3)])
    recipe = partition({"matrix": clip, "other": clip}, by=lambda name, p: "matrix" if p.dim() == 2 else "other")
    optimizer = recipe.optimizer(params, driver=driver)
    for k in range(5):
        deal(params, [np.full((2, 2), 3.0), None if k < 3 else np.zeros((2, 2)), np.ones(3), np.zeros(3)])
        optimizer.step()
    means = [optimizer.state[p]["z_clip/mean"].item() for p in params]
    assert means == pytest.approx([6, 6, 3**0.5, 3**0.5])
