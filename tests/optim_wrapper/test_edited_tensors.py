"""Parameters, gradients and states that change their memory or form between steps, under every driver."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs, tiles

DRIVERS = ["reference", "eager", "auto", "compiled"]
RECIPES = {
    "adamw": lambda: presets.adamw(lr=0.1),
    "ladam": lambda: presets.ladam(lr=0.1, c2=0.01),
    "lion": lambda: presets.lion(lr=0.1),
    "adafactor": lambda: presets.adafactor(lr=0.1),
    "clipped": lambda: chain(t.ClipGlobalNorm(), presets.adamw(lr=0.1)),
}
every_driver = pytest.mark.parametrize("driver", DRIVERS)
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    """The graphs for inductor, run as they are; and tiles small enough for tests."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    monkeypatch.setattr(tiles, "TILE", 1 << 8)


def several(shape=(3, 3), count=3):
    return [param(*shape, seed=i) for i in range(count)]


def unchanged_by(optimizer, error, act=None, match=None):
    """The step raises the error, and neither parameters nor state nor groups have changed."""
    before = snapshot(optimizer)
    with pytest.raises(error, match=match):
        (act or optimizer.step)()
    assert identical(snapshot(optimizer), before)


@every_driver
@every_recipe
@pytest.mark.parametrize("shape", [(5, 3), (2, 3), (9,), (3, 3, 1)])
def test_a_state_that_no_longer_fits_its_parameter_is_refused(recipe, driver, shape):
    params = several()
    optimizer = recipe().optimizer([(f"layer{i}.weight", p) for i, p in enumerate(params)], driver=driver)
    steps(optimizer, 2)
    params[1].grad = None
    params[1].data = torch.ones(shape)
    params[1].grad = torch.ones(shape)
    unchanged_by(optimizer, ChainError, match="of .layer1.weight. has shape")


@every_driver
@every_recipe
def test_a_resized_parameter_goes_on_afresh_when_its_state_is_deleted(recipe, driver):
    params, others = several(), several()
    ours, theirs = recipe().optimizer(params, driver=driver), recipe().optimizer(others, driver="reference")
    for optimizer, own in ((ours, params), (theirs, others)):
        steps(optimizer, 2)
        own[1].grad, own[1].data = None, torch.ones(5, 3)
        del optimizer.state[own[1]]
        steps(optimizer, 2)
    assert ours.state[params[1]]["step"] == 2 and ours.state[params[0]]["step"] == 4
    torch.testing.assert_close(params, others)


@every_driver
def test_a_parameter_without_gradient_may_be_resized_until_it_gets_one(driver):
    params = several()
    optimizer = presets.adamw(lr=0.1).optimizer(params, driver=driver)
    steps(optimizer, 2)
    params[1].requires_grad_(False)
    params[1].grad, params[1].data = None, torch.ones(5, 3)
    steps(optimizer, 2)
    assert optimizer.state[params[0]]["step"] == 4
    params[1].grad = torch.ones(5, 3)
    unchanged_by(optimizer, ChainError, match="has shape")


@every_driver
@every_recipe
@pytest.mark.parametrize("size", [4, 60])
def test_another_view_of_the_same_memory_is_stepped_as_the_loop_does(recipe, driver, size):
    def run(driver):
        params = several((size, size))
        optimizer = recipe().optimizer(params, driver=driver)
        for k in range(4):
            if k == 2:
                params[0].grad, params[0].data = None, params[0].data.t()
            for i, p in enumerate(params):
                p.grad = torch.sin(torch.arange(1.0 * size * size) * (k + i + 1)).view(size, size)
            optimizer.step()
        return [p.detach().clone() for p in params]

    torch.testing.assert_close(run(driver), run("reference"), rtol=1e-5, atol=1e-6)


@every_driver
def test_a_gradient_of_another_shape_is_refused(driver):
    params = several()
    optimizer = presets.adamw(lr=0.1).optimizer([(f"{i}.weight", p) for i, p in enumerate(params)], driver=driver)
    steps(optimizer, 2)
    params[2].data = torch.ones(3, 4)  # the gradient stays
    unchanged_by(optimizer, ChainError, match=r"gradient of '2.weight' has shape \(3, 3\), the parameter \(3, 4\)")


@every_driver
@pytest.mark.parametrize("value", [torch.ones(2, 2), torch.ones(()), 1.0], ids=["smaller", "scalar", "number"])
def test_a_state_of_another_form_is_refused(driver, value):
    params = several()
    optimizer = presets.adamw(lr=0.1).optimizer(params, driver=driver)
    steps(optimizer, 2)
    optimizer.state[params[1]]["moments/first"] = value
    unchanged_by(optimizer, ChainError, match="the state 'moments/first' of '0.1'")


def cleared(optimizer):
    optimizer.state.clear()


def replaced(optimizer):
    optimizer.state = defaultdict(dict)


def emptied(optimizer):
    for state in optimizer.state.values():
        state.clear()


def deleted(optimizer):
    for p in list(optimizer.state)[:2]:
        del optimizer.state[p]


def zeroed(optimizer):
    for state in optimizer.state.values():
        for key in state:
            state[key] = torch.zeros_like(state[key])


def zeroed_in_place(optimizer):
    for state in optimizer.state.values():
        for value in state.values():
            value.zero_()


def zeroed_past_autograd(optimizer):
    for state in optimizer.state.values():
        for value in state.values():
            value.data = torch.zeros_like(value)


EDITS = [cleared, replaced, emptied, deleted, zeroed, zeroed_in_place, zeroed_past_autograd]


@every_driver
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("flatten", [False, True])
def test_state_that_the_user_resets_is_reset(driver, edit, flatten):
    if flatten and driver == "reference":
        pytest.skip("the loop does not flatten")
    params, others = several(), several()
    ours = presets.adamw(lr=0.1, weight_decay=0.01).optimizer(params, driver=driver, flatten=flatten)
    theirs = torch.optim.AdamW(others, lr=0.1)
    for optimizer in (ours, theirs):
        steps(optimizer, 3)
        edit(optimizer)
        steps(optimizer, 3, start=7)
    torch.testing.assert_close(params, others)
    assert len(ours.state_dict()["state"]) == 3


@every_driver
@every_recipe
def test_one_piece_of_state_that_is_missing_starts_afresh(recipe, driver):
    params, others = several(), several()
    ours, theirs = recipe().optimizer(params, driver=driver), recipe().optimizer(others, driver="reference")
    for optimizer, own in ((ours, params), (theirs, others)):
        steps(optimizer, 3)
        key = next(key for key in optimizer.state[own[0]] if key != "step")
        del optimizer.state[own[0]][key]
        steps(optimizer, 2)
        assert key in optimizer.state[own[0]]
    torch.testing.assert_close(params, others, rtol=1e-5, atol=1e-6)


def tied(p):
    return [nn.Parameter(p), nn.Parameter(p)]


def tied_through_data(p):
    one, other = nn.Parameter(p), nn.Parameter(p.clone())
    other.data = one.data
    return [one, other]


def overlapping_slices(p):
    flat = p.flatten()
    return [nn.Parameter(flat[:8]), nn.Parameter(flat[4:12]), nn.Parameter(flat[8:16])]


def transposed(p):
    return [nn.Parameter(p), nn.Parameter(p.t())]


def repeated_rows(p):
    return [nn.Parameter(p[0:2]), nn.Parameter(p[1:3])]


SHARING = [tied, tied_through_data, overlapping_slices, transposed, repeated_rows]
CLASSICS = {
    "sgd": (lambda: presets.sgd(lr=0.1, momentum=0.9), lambda ps: torch.optim.SGD(ps, 0.1, 0.9, foreach=False)),
    "adamw": (
        lambda: presets.adamw(lr=0.1, weight_decay=0.1),
        lambda ps: torch.optim.AdamW(ps, 0.1, weight_decay=0.1, foreach=False),
    ),
    "adagrad": (lambda: presets.adagrad(lr=0.1), lambda ps: torch.optim.Adagrad(ps, 0.1, foreach=False)),
    "rmsprop": (lambda: presets.rmsprop(lr=0.1), lambda ps: torch.optim.RMSprop(ps, 0.1, foreach=False)),
}


@every_driver
@pytest.mark.parametrize("share", SHARING)
@pytest.mark.parametrize(("ours", "theirs"), CLASSICS.values(), ids=CLASSICS)
@pytest.mark.parametrize("flatten", [False, True])
def test_parameters_that_share_memory_each_take_their_update(driver, share, ours, theirs, flatten):
    if flatten and driver == "reference":
        pytest.skip("the loop does not flatten")
    params, others = (share(torch.sin(torch.arange(16.0)).view(4, 4)) for _ in range(2))
    more, more_others = several((4, 4), 2), several((4, 4), 2)
    optimizer, other = (
        ours().optimizer([*params, *more], driver=driver, **({"flatten": True} if flatten else {})),
        theirs([*others, *more_others]),
    )
    for k in range(4):
        for p, q in zip([*params, *more], [*others, *more_others], strict=True):
            p.grad = torch.cos(torch.arange(1.0 * p.numel()) + k).view(p.shape)
            q.grad = p.grad.clone()
        optimizer.step()
        other.step()
    torch.testing.assert_close([*params, *more], [*others, *more_others])


@every_driver
def test_tied_half_precision_parameters_under_a_shared_link_each_take_their_update(driver):
    def run(driver):
        a, b = tied(torch.ones(4, dtype=torch.bfloat16))
        optimizer = chain(t.ClipGlobalNorm(max_norm=1e3), t.LearningRate(lr=0.5)).optimizer([a, b], driver=driver)
        for _ in range(2):
            a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
            optimizer.step()
        return a.detach()

    assert torch.equal(run(driver), torch.full((4,), -1.0, dtype=torch.bfloat16))


@every_driver
def test_a_parameter_that_was_put_twice_into_a_group_is_stepped_twice_as_by_torch(driver):
    p, q = param(3), param(3)
    ours, theirs = (
        presets.adamw(lr=0.1, weight_decay=0.01).optimizer([p], driver=driver),
        torch.optim.AdamW([q], 0.1, foreach=False),
    )
    for optimizer, one in ((ours, p), (theirs, q)):
        optimizer.param_groups[0]["params"].append(one)
        steps(optimizer, 3)
    torch.testing.assert_close(p, q)
    assert ours.state[p]["step"] == theirs.state[q]["step"] == 6


def swapped(state):
    """The same tensors under other keys, in the same order."""
    a, b, *_ = list(state)
    sa, sb = state.pop(a), state.pop(b)
    state[b], state[a] = sa, sb


def taken_over(state):
    a, b, *_ = list(state)
    state.pop(a)
    state[a] = state.pop(b)


def exchanged(state):
    one = next(iter(state.values()))
    first, second, step = (one.pop(key) for key in list(one)[-2:] + list(one)[:1])
    keys = ("moments/first", "moments/second")
    one.update(zip(("step", *keys), (step, second.abs(), first.abs()), strict=True))


@every_driver
@pytest.mark.parametrize("edit", [swapped, taken_over, exchanged])
@pytest.mark.parametrize("recipe", [RECIPES["adamw"], RECIPES["ladam"]], ids=["adamw", "ladam"])
def test_states_under_other_keys_are_those_of_the_keys(recipe, driver, edit):
    params, others = several(), several()
    ours, theirs = recipe().optimizer(params, driver=driver), recipe().optimizer(others, driver="reference")
    for optimizer in (ours, theirs):
        steps(optimizer, 3)
        edit(optimizer.state)
        steps(optimizer, 3, start=5)
    torch.testing.assert_close(params, others)


@every_driver
def test_a_count_that_is_written_past_autograd_is_followed(driver):
    params, others = several(), several()
    ours, theirs = presets.adamw(lr=0.1, weight_decay=0.01).optimizer(params, driver=driver), torch.optim.AdamW(others, lr=0.1)
    for optimizer in (ours, theirs):
        steps(optimizer, 3)
        for state in optimizer.state.values():
            state["step"].data.zero_()
        steps(optimizer, 3, start=5)
    torch.testing.assert_close(params, others)


@every_driver
@pytest.mark.parametrize("flatten", [False, True])
def test_parameters_over_one_array_each_take_their_update(driver, flatten):
    if flatten and driver == "reference":
        pytest.skip("the loop does not flatten")
    array = np.zeros(16, dtype=np.float32)
    params = [nn.Parameter(torch.from_numpy(array[:12])), nn.Parameter(torch.from_numpy(array[4:]))]
    optimizer = presets.lion(lr=0.1).optimizer(params, driver=driver, **({"flatten": True} if flatten else {}))
    for _ in range(2):
        for p in params:
            p.grad = torch.ones(12)
        optimizer.step()
    np.testing.assert_allclose(array, [-0.2] * 4 + [-0.4] * 8 + [-0.2] * 4, rtol=1e-6)


def test_flatten_leaves_a_parameter_that_something_else_shares_memory_with():
    params = several((4,), 3)
    optimizer = presets.lion(lr=0.1).optimizer(params, flatten=True)
    steps(optimizer)
    seen = params[0].detach()
    optimizer.param_groups[0]["params"].pop()
    steps(optimizer, 2)
    assert torch.equal(seen, params[0])


@every_driver
def test_a_whole_number_in_place_of_a_state_is_refused(driver):
    params = several()
    optimizer = presets.adamw(lr=0.1).optimizer(params, driver=driver)
    steps(optimizer, 2)
    optimizer.state[params[1]]["moments/first"] = torch.ones(3, 3, dtype=torch.int64)
    unchanged_by(optimizer, ChainError, match="has dtype torch.int64")
