"""maximize=True: the same numbers as torch.optim, in every driver, with every way of calling step()."""

import copy

import pytest
import torch
from torch import nn, optim
from training import identical, snapshot, steps

from gradchain import ChainError, chain, from_torch, optim_wrapper, presets
from gradchain import transforms as t

SHAPES = [(4, 6), (5,), (3, 2, 2), (), (5,)]
CLASSICS = {
    "SGD": [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "nesterov": True}],
    "Adam": [{"weight_decay": 0.1}, {"amsgrad": True}],
    "AdamW": [{"weight_decay": 0.1}],
    "NAdam": [{"weight_decay": 0.1}],
    "RAdam": [{"weight_decay": 0.1}],
    "RMSprop": [{"weight_decay": 0.1, "momentum": 0.9, "centered": True}],
    "Adagrad": [{"weight_decay": 0.1}],
    "Adafactor": [{"weight_decay": 0.1}],
}
ROWS = [(name, kwargs) for name, all_ in CLASSICS.items() for kwargs in all_]


def params(dtype=torch.float64, shapes=SHAPES):
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in shapes]


def trained(optimizer, ps, count=12):
    steps(optimizer, count)
    return [p.detach() for p in ps]


@pytest.mark.parametrize(("name", "kwargs"), ROWS, ids=str)
@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_it_climbs_as_torch_s_optimizer_does(name, kwargs, driver):
    theirs = trained(getattr(optim, name)(a := params(), lr=0.02, maximize=True, **kwargs), a)
    ours = trained(getattr(optim_wrapper, name)(b := params(), lr=0.02, maximize=True, driver=driver, **kwargs), b)
    tolerance = 1e-8 if name == "NAdam" else 1e-12  # torch keeps NAdam's product of momenta in float32
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    downhill = trained(getattr(optim_wrapper, name)(c := params(), lr=0.02, driver=driver, **kwargs), c)
    assert not torch.allclose(ours[0], downhill[0])


@pytest.mark.parametrize("driver", ["reference", "eager", "compiled"])
def test_every_driver_climbs_alike(driver):
    recipe = presets.adamw(lr=0.02, weight_decay=0.1)
    expected = trained(optim.AdamW(a := params(shapes=[(4, 6), (4, 6)]), lr=0.02, weight_decay=0.1, maximize=True), a, 3)
    found = trained(recipe.optimizer(b := params(shapes=[(4, 6), (4, 6)]), maximize=True, driver=driver), b, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_a_group_may_go_uphill_beside_others(driver):
    def groups(ps):
        return [{"params": ps[:2], "maximize": True}, {"params": ps[2:]}]

    theirs = trained(optim.AdamW(groups(a := params()), lr=0.02), a)
    ours = trained(presets.adamw(lr=0.02).optimizer(groups(b := params()), driver=driver), b)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_group_turned_by_hand_turns_at_the_next_step():
    theirs, ours = optim.AdamW(a := params(), lr=0.02), presets.adamw(lr=0.02).optimizer(b := params())
    for flag in (False, True, False):
        for optimizer in (theirs, ours):
            optimizer.param_groups[0]["maximize"] = flag
            steps(optimizer, 2)
    torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_delivered_after_the_step():
    optimizer = presets.adamw().optimizer(ps := params(), maximize=True)
    grads = [torch.sin(p.detach()) for p in ps]
    for p, grad in zip(ps, grads, strict=True):
        p.grad = grad
    kept = copy.deepcopy(grads)
    optimizer.step()
    assert all(p.grad is grad for p, grad in zip(ps, grads, strict=True)) and all(map(torch.equal, grads, kept))


def test_gradients_are_those_delivered_after_a_step_that_raises():
    optimizer = chain(Raising(), t.LearningRate(lr=0.1)).optimizer(ps := params(), maximize=True, driver="reference")
    with pytest.raises(ZeroDivisionError):
        steps(optimizer)
    assert all(torch.equal(p.grad, torch.sin(p.detach())) for p in ps)


class Raising(t.Signal):
    def update(self, carry, state, ctx):
        raise ZeroDivisionError


def negated(loss):
    return lambda ps: -loss(ps)


def loss_of(ps):
    return sum((torch.sin(2 * p) + 0.1 * p.square()).sum() for p in ps)


def closure_of(optimizer, ps, loss):
    def closure():
        optimizer.zero_grad()
        value = loss(ps)
        value.backward()
        return value

    return closure


RECIPES = {
    "sam": chain(t.SAM(rho=0.05), t.Moments(), t.Normalize(), t.WeightDecay(weight_decay=0.1), t.LearningRate(lr=0.02)),
    "lbfgs": chain(from_torch(optim.LBFGS, lr=0.5, max_iter=4, line_search_fn="strong_wolfe")),
    "adamw": presets.adamw(lr=0.02),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_with_a_closure_it_is_the_descent_on_the_negated_loss(recipe, driver):
    up = recipe.optimizer(a := params(), maximize=True, driver=driver)
    down = recipe.optimizer(b := params(), driver=driver)
    for _ in range(3):
        rising = up.step(closure_of(up, a, loss_of))
        falling = down.step(closure_of(down, b, negated(loss_of)))
        torch.testing.assert_close(rising, -falling, rtol=1e-12, atol=1e-12)  # the loss is the closure's own
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_one_solver_cannot_go_both_ways():
    ps = params()
    optimizer = RECIPES["lbfgs"].optimizer([{"params": ps[:1], "maximize": True}, {"params": ps[1:]}])
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match="maximize=True in some groups only"):
        optimizer.step(closure_of(optimizer, ps, loss_of))
    assert identical(snapshot(optimizer), before)


def test_accumulated_gradients_climb_by_their_mean():
    up = presets.adamw(lr=0.02).optimizer(a := params(), maximize=True, accumulate=2)
    once = presets.adamw(lr=0.02).optimizer(b := params(), maximize=True)
    for grads in ([1.0, 3.0], [-2.0, 1.0]):
        for value in grads:
            for p in a:
                p.grad = torch.full_like(p, value)
            up.step()
        for p in b:
            p.grad = torch.full_like(p, sum(grads) / 2)
        once.step()
    assert all(map(torch.equal, a, b))


def test_the_gate_on_finite_gradients_holds_uphill():
    optimizer = presets.adamw(lr=0.02).optimizer(ps := params(), maximize=True, finite_gate=True)
    steps(optimizer, 2)
    before = [p.detach().clone() for p in ps]
    for p in ps:
        p.grad = torch.full_like(p, torch.inf)
    optimizer.step()
    assert all(map(torch.equal, before, ps))


def test_a_checkpoint_keeps_the_direction():
    optimizer = presets.adamw(lr=0.02).optimizer(a := params(), maximize=True)
    steps(optimizer, 3)
    b = [nn.Parameter(p.detach().clone()) for p in a]
    resumed = presets.adamw(lr=0.02).optimizer(b)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, resumed, copied := copy.deepcopy(resumed)):
        steps(one, 2, start=3)
    assert all(map(torch.equal, a, b)) and all(map(torch.equal, a, copied.param_groups[0]["params"]))


@pytest.mark.parametrize("flag", ["yes", None, 2, 0.5])
def test_the_flag_is_a_bool(flag):
    with pytest.raises(ChainError, match="maximize must be a bool"):
        presets.sgd().optimizer(params(), maximize=flag)
    with pytest.raises(ChainError, match="maximize must be a bool"):
        presets.sgd().optimizer([{"params": params(), "maximize": flag}])
