"""A step gives the same numbers whatever the caller's mode is, and goes on counting whatever the count is."""

import pytest
import torch
from table import PRESETS
from training import identical, param, snapshot, steps

from gradchain import ChainError, chain, presets
from gradchain import transforms as t
from gradchain.transforms import Phase

every_driver = pytest.mark.parametrize("driver", ["reference", "eager", "auto"])
SHAPES = [(16, 16), (16, 16), (8,), ()]
MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
}


def trained(recipe, driver, mode=None, count=3):
    params = [param(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    optimizer = recipe.optimizer([(f"layer{i}.weight", p) for i, p in enumerate(params)], driver=driver)
    for k in range(count):
        for i, p in enumerate(params):
            p.grad = torch.sin(torch.arange(1.0 * p.numel()) + i + k).view(p.shape)
        if mode is None:
            optimizer.step()
        else:
            with mode():
                optimizer.step()
    return params, optimizer


@every_driver
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", ["adamw", "muon", "ladam", "came", "adafactor", "lamb", "cameamp", "prodigy"])
def test_a_step_does_not_depend_on_the_caller_s_mode(name, mode, driver):
    recipe = getattr(presets, name)()
    inside, optimizer = trained(recipe, driver, mode)
    outside, other = trained(recipe, driver)
    for p, q in zip(inside, outside, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == other.state[q].keys()
        assert all(torch.equal(value, other.state[q][key]) for key, value in optimizer.state[p].items())
        assert not any(value.is_inference() or value.requires_grad for value in optimizer.state[p].values())


def test_steps_inside_and_outside_inference_mode_alternate():
    def run(inside):
        p = param(4, 4)
        optimizer = presets.adamw(lr=0.1).optimizer([p])
        for k in range(4):
            p.grad = torch.full((4, 4), 1.0 + k)
            with torch.inference_mode(inside and k % 2 == 0):
                optimizer.step()
        return p.detach()

    assert torch.equal(run(True), run(False))


def test_a_closure_runs_in_the_caller_s_autocast():
    seen = []
    p = param(3)
    optimizer = presets.adamw(lr=0.1).optimizer([p])

    def closure():
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_grad_enabled()))
        p.grad = torch.ones(3)
        return torch.tensor(1.0)

    with torch.autocast("cpu", torch.float16):
        optimizer.step(closure)
        assert torch.is_autocast_enabled("cpu")
    assert seen == [(True, torch.float16, True)]


LONG = 2**24


@every_driver
@pytest.mark.parametrize("count", [LONG, LONG + 1, 2**31])
def test_steps_are_counted_beyond_what_float32_counts(driver, count):
    p = param(4)
    optimizer = presets.adamw(lr=0.1).optimizer([p], driver=driver)
    steps(optimizer)
    optimizer.state[p]["step"].fill_(count)
    steps(optimizer, 3)
    assert optimizer.state[p]["step"].item() == count + 3
    saved = optimizer.state_dict()
    other = presets.adamw(lr=0.1).optimizer([q := param(4)], driver=driver)
    other.load_state_dict(saved)
    assert other.state[q]["step"].item() == count + 3


@every_driver
def test_lookahead_windows_and_refreshes_go_on_beyond_what_float32_counts(driver):
    def moved(recipe, key):
        p = param(4, 4)
        optimizer = recipe.optimizer([p], driver=driver)
        steps(optimizer)
        optimizer.state[p]["step"].fill_(LONG)
        found = []
        for k in range(6):
            before = {name: value.clone() for name, value in optimizer.state[p].items()}
            steps(optimizer, start=k)
            found.append(not torch.equal(before[key], optimizer.state[p][key]))
        return found

    slow = moved(chain(t.LearningRate(lr=0.1), t.Lookahead(la_steps=3)), "lookahead/slow")
    assert slow == [(LONG + 1 + k) % 3 == 0 for k in range(6)]
    window = Phase(t.Momentum(momentum=0.9), start=LONG + 3, stop=LONG + 5)
    assert moved(chain(window, t.LearningRate(lr=0.1)), "momentum/buffer") == [False, False, True, True, False, False]


@every_driver
def test_a_failed_call_leaves_what_was_accumulated(driver):
    recipe = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=0.1))
    params = [param(3, seed=i) for i in range(2)]
    others = [param(3, seed=i) for i in range(2)]
    ours = recipe.optimizer(params, accumulate=3, driver=driver)
    theirs = recipe.optimizer(others, accumulate=3, driver="reference")
    for optimizer in (ours, theirs):
        steps(optimizer, 2)
    before = snapshot(ours)
    params[1].grad = torch.ones(3)
    params[1].data = torch.ones(4)
    with pytest.raises(ChainError):
        ours.step()
    params[1].data = others[1].detach().clone()
    assert identical(snapshot(ours), before)
    for optimizer in (ours, theirs):
        steps(optimizer, 4, start=2)
    torch.testing.assert_close(params, others)


@pytest.mark.parametrize("driver", ["reference", "auto"])
def test_a_step_that_raises_leaves_schedules_and_the_sum_as_they_were(driver):
    p = param(3)
    optimizer = presets.adamw(lr=lambda step: 0.1 / step).optimizer([p], accumulate=2, driver=driver)
    steps(optimizer, 3)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="stop"):
        optimizer._drive.prepare = lambda optimizer: None
        run = type(optimizer._drive).__call__
        try:
            type(optimizer._drive).__call__ = lambda *_: (_ for _ in ()).throw(RuntimeError("stop"))
            p.grad = torch.ones(3)
            optimizer.step()
        finally:
            type(optimizer._drive).__call__ = run
    assert identical(snapshot(optimizer), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_depends_on_autocast(name):
    shapes = [(8, 6), (8, 6), (6,)]

    def run(mode):
        params = [param(*shape, seed=i) for i, shape in enumerate(shapes)]
        optimizer = PRESETS[name].optimizer(params)
        for k in range(3):
            for i, p in enumerate(params):
                p.grad = torch.sin(torch.arange(1.0 * p.numel()) + i + k).view(p.shape)
            with torch.autocast("cpu", torch.bfloat16, enabled=mode):
                optimizer.step()
        return params

    assert all(torch.equal(p, q) for p, q in zip(run(True), run(False), strict=True))
