"""Hooks and parameter groups: what torch's optimizer suite asks of them, asked of every preset class."""

import copy
import importlib
from ast import literal_eval

import pytest
import torch
from harness import CLASSES, make, over
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from training import identical, param, steps

from gradchain import SharedTransform


def params():
    return [param(3, 4), param(4, seed=1)]


def state(optimizer):
    return [dict(optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]]


@over(every_input=False)
def test_step_hooks_run_once_in_order_and_change_no_bit(entry, case):
    calls = []

    def note(word):
        return lambda optimizer, args, kwargs: calls.append(word)

    hooked, plain = make(entry, case, ps := params(), driver="reference"), make(entry, case, qs := params(), driver="reference")
    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        hooked.register_step_pre_hook(note("pre")),
        hooked.register_step_post_hook(note("post")),
    ]
    try:
        steps(hooked, 2)
        assert calls == ["global pre", "pre", "post", "global post"] * 2
    finally:
        for handle in handles:
            handle.remove()
    steps(hooked, 2, start=2)
    steps(plain, 4)
    assert len(calls) == 8 and all(map(torch.equal, ps, qs)) and identical(state(hooked), state(plain))


@over(every_input=False)
def test_a_step_pre_hook_may_change_what_the_step_is_given(entry, case):
    optimizer, seen = make(entry, case, params()), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: seen.append("hook's") or 2.0), kwargs))
    assert optimizer.step(lambda: 1.0) == 2.0 and seen == ["hook's"]


@over(every_input=False)
def test_hooks_around_saving_and_loading_see_and_change_what_goes_through(entry, case):
    optimizer, order = make(entry, case, params()), []
    steps(optimizer, 2)
    optimizer.register_state_dict_pre_hook(lambda o: order.append("before saving"))
    optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "note": order.append("saved")})
    saved = optimizer.state_dict()
    assert order == ["before saving", "saved"] and set(saved) == {"state", "param_groups", "note"}

    other = make(entry, case, params())

    def slower(o, loaded):
        order.append("second")
        loaded = copy.copy(loaded)
        loaded["param_groups"] = [{**group, "lr": 0.5} for group in loaded["param_groups"]]
        return loaded

    other.register_load_state_dict_pre_hook(slower)
    other.register_load_state_dict_pre_hook(lambda o, loaded: order.append("first"), prepend=True)
    other.register_load_state_dict_post_hook(lambda o: order.append(("filled", o.param_groups[0]["lr"], len(o.state))))
    other.load_state_dict(saved)
    assert order[2:] == ["first", "second", ("filled", 0.5, 2)]
    assert identical(state(other), state(optimizer)) and saved["param_groups"][0]["lr"] != 0.5


@over(every_input=False)
@pytest.mark.parametrize("key", ["lr", "weight_decay", "eps"])
def test_a_group_s_keyword_is_the_optimizer_s_for_its_parameters(entry, case, key):
    """As if each group had an optimizer of its own, where no link sees several parameters."""
    plain = make(entry, case, params())
    if key not in plain.param_groups[0] or any(isinstance(link, SharedTransform) for link in plain.chain.links):
        return
    value = {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-3}[key]
    ps, (alone, other) = params(), params()
    together = make(entry, case, [{"params": [ps[0]], key: value}, {"params": [ps[1]]}])
    apart = [make(entry, case, [{"params": [alone], key: value}]), make(entry, case, [other])]
    for optimizer in (together, *apart):
        steps(optimizer, 3)
    assert together.param_groups[0][key] == value != together.param_groups[1][key]
    assert torch.equal(ps[0], alone) and torch.equal(ps[1], other)


def kohya(name, weights, biases):
    return getattr(importlib.import_module("gradchain.optim_wrapper"), name)([*weights, *biases], lr=0.01, **literal_eval("{}"))


def transformers(name, weights, biases):
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]
    return CLASSES[name](groups, lr=0.01)


def torchtitan(name, weights, biases):
    more = {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.1, "fused": True, "foreach": False}
    return CLASSES[name]([{"params": [*weights, *biases], "param_names": ["w", "b"], **more}])


def torchtune(name, weights, biases):
    return CLASSES[name](params=[*weights, *biases], lr=0.01)


def lightning(name, weights, biases):
    made = CLASSES[name]([*weights, *biases], lr=0.01)
    wrapper = object.__new__(type(f"Lightning{name}", (CLASSES[name],), {}))
    wrapper.__dict__ = {key: value for key, value in vars(made).items() if key != "step"}
    wrapper.step = made.step
    return wrapper


@over(every_input=False)
@pytest.mark.parametrize("trainer", [kohya, transformers, torchtitan, torchtune, lightning])
def test_trainers_make_it_in_their_ways_and_load_what_they_have_moved(entry, case, trainer):
    """The calls as in the sources of sd-scripts, Trainer, torchtitan, torchtune and Lightning."""
    weights, biases = [param(3, 4)], [param(4, seed=1)]
    optimizer = trainer(entry.name, weights, biases)
    assert isinstance(optimizer, entry.optim_cls) and all(group["lr"] == 0.01 for group in optimizer.param_groups)
    steps(optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for held in saved["state"].values():
        held.update({key: value.to("cpu") for key, value in held.items() if key != "step"})
    optimizer.load_state_dict(saved)
    assert identical(optimizer.state_dict(), saved)
    steps(optimizer, 1, start=2)
    assert all(p.isfinite().all() and optimizer.state[p]["step"] == 3 for p in (*weights, *biases))


@over(every_input=False)
def test_foreign_keys_of_frameworks_pass_through(entry, case):
    """What HF, timm, torchtitan, kohya and schedulers put into groups, and a group added late, which starts at step 1."""
    foreign = {"fused": True, "foreach": None, "initial_lr": 0.1, "max_lr": 1.0, "swa_lr": 0.1, "lr_scale": 0.5, "who": "me"}
    ours, plain = make(entry, case, [{"params": (ps := params()), **foreign}]), make(entry, case, qs := params())
    late, (later, _) = params()[0], params()
    for optimizer, p in ((ours, late), (plain, later)):
        steps(optimizer, 2)
        optimizer.add_param_group({"params": [p]})
        steps(optimizer, 2, start=2)
    assert all(map(torch.equal, (*ps, late), (*qs, later))) and ours.state[late]["step"] == 2
    saved = ours.state_dict()["param_groups"][0]
    assert foreign.items() <= saved.items()


@over(every_input=False)
def test_a_frozen_parameter_and_one_without_gradient_have_no_state(entry, case):
    """torch's test_non_empty_state the other way round: state appears with the first gradient, for all that have one."""
    frozen, idle, p = nn.Parameter(torch.ones(2), requires_grad=False), param(2), param(2)
    optimizer = make(entry, case, [frozen, idle, p])
    p.grad = torch.ones(2)
    optimizer.step()
    assert list(optimizer.state) == [p] and optimizer.state[p]["step"] == 1
    before = optimizer.state_dict()
    assert set(before["state"]) == {2}
    twin = make(entry, case, [frozen, idle, p])
    twin.load_state_dict(before)
    assert list(twin.state) == [p] and torch.equal(frozen, torch.ones(2))


@over(every_input=False)
def test_the_init_step_of_torch_s_checkpoints_is_a_no_op_that_makes_the_state(entry, case):
    optimizer, before = make(entry, case, ps := params()), params()
    rng = torch.get_rng_state()
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], torch.Tensor) else 0.0
    for p in ps:
        p.grad = torch.zeros_like(p)
    optimizer.step(closure=None)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    assert all(map(torch.equal, ps, before)) and torch.equal(torch.get_rng_state(), rng)
    assert all(optimizer.state[p]["step"] == 0 for p in ps)
    plain = make(entry, case, before)
    steps(optimizer, 3)
    steps(plain, 3)
    assert all(map(torch.equal, ps, before)) and identical(state(optimizer), state(plain))
