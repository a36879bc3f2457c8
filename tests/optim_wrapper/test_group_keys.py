"""Keys of parameter groups: honored as torch.optim honors them, or refused; never ignored without a word."""

import copy
import warnings

import pytest
import torch
from torch import nn, optim
from training import identical, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, optim_wrapper, partition, presets
from gradchain import transforms as t

SHARED = ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adafactor", "Muon"]
OTHER = {  # a value of each of torch's hyperparameters that is not the default anywhere
    "lr": 0.03,
    "momentum": 0.7,
    "dampening": 0.2,
    "weight_decay": 0.3,
    "nesterov": True,
    "maximize": True,
    "betas": (0.7, 0.8),
    "eps": 1e-3,
    "amsgrad": True,
    "decoupled_weight_decay": True,
    "momentum_decay": 0.02,
    "alpha": 0.8,
    "centered": True,
    "lr_decay": 0.1,
    "beta2_decay": -0.5,
    "d": 0.1,
    "differentiable": True,
    "ns_steps": 3,
    "ns_coefficients": (2.0, -1.5, 0.5),
}
SKIP = {"foreach", "fused", "capturable", "initial_accumulator_value"}  # torch's kernels, and its one value of the start alone


def params():
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(4, 3, generator=random, dtype=torch.float64))]


def keys():
    for name in SHARED:
        if hasattr(optim, name):
            for key in getattr(optim, name)(params()).defaults.keys() - SKIP:
                if key in OTHER or key == "adjust_lr_fn":
                    yield name, key


def values(name, key):
    if key == "adjust_lr_fn":
        return "match_rms_adamw"
    if (name, key) == ("Adafactor", "eps"):
        return (1e-4, 1e-2)
    return not getattr(optim, name)(params()).defaults[key] if isinstance(OTHER[key], bool) else OTHER[key]


@pytest.mark.parametrize(("name", "key"), sorted(keys()))
@pytest.mark.parametrize("late", [False, True], ids=["added", "by hand"])
def test_no_key_that_torch_honors_is_ignored(name, key, late):
    value, given = values(name, key), {"weight_decay": 0.1} if key == "decoupled_weight_decay" else {}

    def run(cls, ps):
        optimizer = cls([{"params": ps} if late else {"params": ps, key: value}], **given)
        steps(optimizer, 2)
        if late:
            optimizer.param_groups[0][key] = value
        before = snapshot(optimizer)
        try:
            steps(optimizer, 3, start=2)
        except (ChainError, RuntimeError):
            assert cls.__module__.startswith("torch") or identical(snapshot(optimizer), before)
            raise
        return optimizer

    theirs = params()
    try:
        run(getattr(optim, name), theirs)
    except (RuntimeError, ValueError, KeyError):  # differentiable steps on leaves; state that it makes at the start alone
        theirs = None
    try:
        run(getattr(optim_wrapper, name), ours := params())
    except ChainError as error:
        assert key in str(error) and ("Leave the key out" in str(error) or "must be one of" in str(error))
        return
    if theirs is not None:
        tolerance = 1e-7 if name == "NAdam" else 5e-2 if name == "Muon" else 1e-11  # torch's Muon computes in bfloat16
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


HONORED = {("SGD", "momentum"), ("SGD", "dampening"), ("SGD", "maximize"), ("RMSprop", "momentum"), ("AdamW", "maximize")}


@pytest.mark.parametrize(("name", "key"), sorted(HONORED))
def test_these_are_honored(name, key):
    getattr(optim_wrapper, name)([{"params": params(), key: OTHER[key]}])


@pytest.mark.parametrize("name", SHARED)
def test_the_very_groups_of_torch_s_optimizer_are_taken(name):
    if not hasattr(optim, name):
        pytest.skip("this torch has no such optimizer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = getattr(optim_wrapper, name)([dict(g) for g in getattr(optim, name)(params()).param_groups])
        steps(optimizer, 2)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("key", ["foreach", "fused", "capturable"])
@pytest.mark.parametrize("value", [None, True, False])
def test_how_torch_computes_is_no_matter(name, key, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(getattr(optim_wrapper, name)([{"params": params(), key: value}]))


OWN = {
    "name": "decoder",
    "group_name": "head",
    "lr_scale": 0.5,
    "lr_mult": 2.0,
    "initial_lr": 0.1,
    "max_lr": 0.2,
    "min_lr": 0.0,
    "base_momentum": 0.8,
    "max_momentum": 0.9,
    "swa_lr": 0.1,
    "layer_decay": 0.7,
    "weight_decay_scale": 1.0,
    "base_weight_decay": 0.1,
    "wd_mult": 0.0,
    "alpha": 16,
    "rank": 4,
    "d": 1e-6,
    "k": 3,
    "apply_weight_decay": True,
}


@pytest.mark.parametrize("key", OWN)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_keys_of_trainers_and_schedulers_are_let_be(name, key):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = getattr(optim_wrapper, name)([{"params": params(), key: OWN[key]}])
        steps(optimizer, 2)
    assert optimizer.param_groups[0][key] == OWN[key]


NEAR = {"weigth_decay": "weight_decay", "weightdecay": "weight_decay", "Betas": "betas", "beta": "betas", "epss": "eps"}


@pytest.mark.parametrize(("key", "meant"), NEAR.items())
@pytest.mark.parametrize("late", [False, True], ids=["added", "by hand"])
def test_a_misspelled_key_is_told_once(key, meant, late):
    def run():
        optimizer = presets.adamw().optimizer([{"params": params(), **({} if late else {key: 0.1})}])
        optimizer.param_groups[0].setdefault(key, 0.1)
        for i in range(3):
            steps(optimizer, start=i)
            optimizer.param_groups[0]["other"] = i

    with pytest.warns(ChainWarning, match=f"{key!r}, which no link reads. Did you mean {meant!r}") as seen:
        run()
    assert len(seen) == 1


@pytest.mark.parametrize("key", ["driver", "accumulate", "finite_gate", "flatten"])
def test_an_option_in_a_group_is_told(key):
    with pytest.warns(ChainWarning, match=f"{key!r} is an option of the whole optimizer"):
        presets.adamw().optimizer([{"params": params(), key: True}])


def test_a_part_that_runs_another_chain_need_not_know_a_key():
    recipe = partition({"a": presets.sgd(momentum=0.9), "b": presets.adamw()}, by={"a": lambda name, p: p.dim() > 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ps = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
        steps(recipe.optimizer([{"params": ps, "momentum": 0.5, "betas": (0.8, 0.9)}]), 2)
    with pytest.raises(ChainError, match="amsgrad"):
        recipe.optimizer([{"params": [nn.Parameter(torch.ones(2, 2))], "amsgrad": True}])


def test_a_switch_without_effect_is_let_be():
    steps(presets.sgd().optimizer([{"params": params(), "nesterov": True}]))  # as momentum is 0
    optimizer = presets.adam().optimizer([{"params": params(), "decoupled_weight_decay": True}])
    steps(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ChainError, match="decoupled_weight_decay"):
        steps(optimizer)


DRIVERS = ["reference", "eager", "compiled"]
LATE = [(0.0, 3), (0.9, 3), (0.0, 2), (0.5, 3)]  # momentum and for how many steps


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kwargs", [{}, {"dampening": 0.3}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_momentum_that_begins_and_rests_is_torch_s(driver, kwargs, dtype):
    results = []
    for make in (lambda p: optim.SGD(p, lr=0.1, **kwargs), lambda p: presets.sgd(lr=0.1, **kwargs).optimizer(p, driver=driver)):
        random = torch.Generator().manual_seed(0)
        ps = [nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in ((4, 3), (4, 3), (5,))]
        optimizer, at = make(ps), 0
        for momentum, count in LATE:
            optimizer.param_groups[0]["momentum"] = momentum
            steps(optimizer, count, start=at)
            at += count
        results.append([p.detach() for p in ps])
    limit = 1e-13 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(*results, rtol=limit, atol=limit)


@pytest.mark.parametrize("recipe", [presets.sgd(), presets.rmsprop(), presets.lrmsprop()], ids=["sgd", "rmsprop", "lrmsprop"])
@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_without_momentum_there_is_no_buffer(recipe, driver):
    optimizer = recipe.optimizer(ps := params(), driver=driver)
    steps(optimizer, 2)
    assert not any(key.startswith("momentum") for key in optimizer.state[ps[0]])
    optimizer.param_groups[0]["momentum"] = 0.9
    steps(optimizer, 2, start=2)
    assert "momentum/buffer" in optimizer.state[ps[0]]
    report = recipe.optimizer(params()).load_state_dict(optimizer.state_dict(), strict=True)
    assert report.clean


@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_sgd_without_momentum_is_torch_s_to_the_bit(driver):
    for fused in (False, True) if driver == "eager" else (False,):
        theirs = optim.SGD(a := [nn.Parameter(p.detach().float()) for p in params()], lr=0.1, fused=fused)
        ours = presets.sgd(lr=0.1).optimizer(b := [nn.Parameter(p.detach().float()) for p in params()], driver=driver)
        steps(theirs, 20)
        steps(ours, 20)
        assert all(map(torch.equal, a, b)) if fused else torch.allclose(a[0], b[0], rtol=1e-6)


def test_a_run_resumes_across_the_beginning_of_its_momentum():
    straight, first = presets.sgd(lr=0.1).optimizer(a := params()), presets.sgd(lr=0.1).optimizer(b := params())
    for optimizer in (straight, first):
        steps(optimizer, 3)
        optimizer.param_groups[0]["momentum"] = 0.9
    steps(first, 2, start=3)
    resumed = presets.sgd(lr=0.1).optimizer(c := [nn.Parameter(p.detach().clone()) for p in b])
    assert resumed.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    steps(resumed, 3, start=5)
    steps(straight, 5, start=3)
    assert all(map(torch.equal, a, c))


def test_the_functional_form_keeps_no_idle_buffer_and_begins_one():
    recipe = chain(t.Momentum(momentum=0.0), t.LearningRate(lr=0.1))
    ps = {"w": torch.ones(3, dtype=torch.float64)}
    state = recipe.init(ps)
    assert set(state["w"]) == {"step"}
    optimizer = recipe.optimizer([p := nn.Parameter(ps["w"].clone())])
    for momentum in (0.0, 0.0, 0.9, 0.9):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = torch.sin(p.detach())
        optimizer.step()
        updates, state = recipe.update({"w": torch.sin(ps["w"])}, state, ps, momentum=momentum)
        ps = {"w": ps["w"] - updates["w"]}
    torch.testing.assert_close(ps["w"], p.detach())
