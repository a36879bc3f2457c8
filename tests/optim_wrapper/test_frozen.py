"""Frozen parameters: learning rate 0 or no gradient required; a gradient that is not finite does not reach them."""

import math

import pytest
import torch
from training import param

from gradchain import chain, partition, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers.registry import DRIVERS

BAD = [math.nan, math.inf, -math.inf]
RECIPES = {
    "sgd": presets.sgd(momentum=0.9),
    "adamw": presets.adamw(weight_decay=0.1),
    "muon": presets.muon(),
    "schedule free": presets.schedule_free_adamw(),
    "average": chain(presets.adamw(), t.WeightEMA(ema_decay=0.5)),
    "shared": chain(t.ClipGlobalNorm(max_norm=1.0), presets.sgd()),
}
QUICK = [pytest.param(name, marks=pytest.mark.slow if name == "compiled" else ()) for name in DRIVERS]


def step(optimizer, *grads):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, value in zip(params, grads, strict=True):
        p.grad = None if value is None else torch.full_like(p, value)
    optimizer.step()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("driver", QUICK)
@pytest.mark.parametrize("name", RECIPES)
def test_at_learning_rate_zero_no_gradient_moves_a_parameter(name, driver, bad):
    still, free, alone = param(3, 2), param(3, 2), param(3, 2)
    start = still.detach().clone()
    groups = [{"params": [("still", still)], "lr": 0.0}, {"params": [("free", free)], "lr": 0.1}]
    optimizer = RECIPES[name].optimizer(groups, driver=driver)
    other = RECIPES[name].optimizer([("free", alone)], driver=driver, lr=0.1)
    for _ in range(2):
        step(optimizer, bad, 1.0)
        step(other, 1.0)
        assert torch.equal(still, start) and still.grad.isnan().all() == math.isnan(bad)
        torch.testing.assert_close(free, alone)
    step(optimizer, 1.0, 1.0)
    assert torch.equal(still, start)
    optimizer.param_groups[0]["lr"] = 0.1
    step(optimizer, 1.0, 1.0)
    assert still.isfinite().all() and not torch.equal(still, start)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        assert still.isfinite().all()


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_label_may_freeze_its_parameters(lr):
    recipe = partition({"train": presets.adamw(), "frozen": presets.sgd(lr=0.0)}, by={"frozen": "*.base"})
    base, head = param(3), param(3)
    optimizer = recipe.optimizer([("x.base", base), ("head", head)], frozen={"lr": lr})
    start = base.detach().clone()
    for p in (base, head):
        p.grad = torch.full_like(p, math.nan) if p is base else torch.ones_like(p)
    optimizer.step()
    assert torch.equal(base, start) and head.isfinite().all() and not torch.equal(head, param(3))


def test_a_schedule_that_ends_at_zero_freezes():
    p = param(3)
    optimizer = presets.sgd(lr=lambda step: 0.1 if step < 2 else 0.0).optimizer([("p", p)])
    step(optimizer, 1.0)
    before = p.detach().clone()
    step(optimizer, math.nan)
    assert torch.equal(p, before)


def test_a_gradient_left_over_on_a_parameter_that_requires_none_is_used_only_where_it_is_finite():
    ours, theirs = param(3), param(3)
    optimizer, other = presets.sgd(lr=0.1).optimizer([("p", ours)]), torch.optim.SGD([theirs], lr=0.1)
    for p in (ours, theirs):
        p.requires_grad_(False)
    step(optimizer, 1.0)
    step(other, 1.0)
    assert torch.equal(ours, theirs)
    step(optimizer, math.nan)
    assert torch.equal(ours, theirs)


def test_a_frozen_parameter_does_not_send_the_others_uphill_to_nowhere():
    still, free = param(3), param(3, seed=1)
    groups = [{"params": [("still", still)], "lr": 0.0}, {"params": [("free", free)], "lr": 0.1}]
    optimizer = chain(t.SAM(rho=0.1), t.LearningRate()).optimizer(groups)
    start, before = still.detach().clone(), free.detach().clone()

    def closure():
        still.grad, free.grad = torch.full_like(still, math.nan), free.detach().clone()

    optimizer.step(closure)
    assert torch.equal(still, start) and free.isfinite().all() and not torch.equal(free, before)


def test_what_is_not_frozen_is_not_looked_after():
    p = param(3)
    step(presets.sgd(lr=0.1).optimizer([("p", p)]), math.nan)
    assert p.isnan().all()


def test_means_of_several_calls_are_looked_at_as_a_whole():
    p = param(3)
    start = p.detach().clone()
    optimizer = presets.sgd(lr=0.0).optimizer([("p", p)], accumulate=2)
    for value in (math.nan, 1.0, 1.0, 1.0):
        step(optimizer, value)
    assert torch.equal(p, start) and optimizer.state[p]["step"] == 1
