"""The steps of the optimizer, which links can see beside those of each parameter: counted, saved, copied, taken back."""

import copy
import pickle
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from gradchain import Transform, chain, presets
from gradchain import transforms as t

DRIVERS = pytest.mark.parametrize("driver", ["reference", "eager", "compiled"])
KEY = "optimizer_step"


class Seen(NamedTuple):
    total: Tensor
    refreshed: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Clock(Transform[Seen]):
    """Keeps the optimizer's steps as it saw them last, and as it was refreshed last."""

    State = Seen
    traits = frozenset({"optimizer_step"})
    refreshes_by = "optimizer_step"

    interval: Annotated[int, "[1, inf)"] = 3

    @property
    def refresh_schedule(self):
        return self.interval, self.interval

    def init(self, param):
        return Seen(param.new_zeros(()), param.new_zeros(()))

    def refresh(self, carry, state, ctx):
        return state._replace(refreshed=ctx.total.to(state.refreshed))

    def update(self, carry, state, ctx):
        return carry._replace(update=carry.update * ctx.total), state._replace(total=ctx.total.to(state.total))


@dataclass(frozen=True, kw_only=True, repr=False)
class Reader(Transform):
    """Multiplies by the optimizer's steps, and is refreshed by nothing."""

    traits = frozenset({"optimizer_step"})

    def update(self, carry, state, ctx):
        return carry._replace(update=carry.update * ctx.optimizer_step), state


RECIPE = chain(Clock(), t.LearningRate(lr=1.0))


def parameters(count=4):
    return [torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(count)]


def step(optimizer, params, having, value=1.0):
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, value) if i in having else None
    optimizer.step()


def clocks(optimizer, params, name="total"):
    return [optimizer.state[p][f"clock/{name}"].item() for p in params if p in optimizer.state]


@DRIVERS
def test_every_parameter_sees_the_same_count_whether_or_not_it_had_gradients(driver):
    params = parameters()
    optimizer = RECIPE.optimizer(params, driver=driver)
    moved = np.zeros(4)
    for k in range(1, 8):
        having = {0, 1} | ({2} if k % 2 else set()) | ({3} if k > 4 else set())
        step(optimizer, params, having)
        moved[list(having)] += k
    np.testing.assert_array_equal([-p.detach()[0].item() for p in params], moved)
    assert clocks(optimizer, params) == [7, 7, 7, 7]
    assert all(group[KEY] == 7 for group in optimizer.param_groups)


@DRIVERS
def test_a_refresh_by_the_optimizer_s_steps_falls_due_for_parameters_without_a_gradient_too(driver):
    params = parameters()
    params[3].requires_grad_(False)
    optimizer = RECIPE.optimizer(params, driver=driver)
    for k in range(1, 8):
        before = [p.detach().clone() for p in params]
        having = {0} if k in (3, 6) else {0, 1}
        steps = [optimizer.state[p]["step"].item() if p in optimizer.state else 0 for p in params]
        step(optimizer, params, having)
        if k == 6:
            assert clocks(optimizer, params, "refreshed") == [6, 6, 6]
            assert clocks(optimizer, params, "total") == [6, 5, 0]
            assert torch.equal(params[1], before[1])
            assert [optimizer.state[p]["step"].item() for p in params[:3]] == [6, steps[1], 0]
    assert clocks(optimizer, params) == [7, 7, 0] and params[3] not in optimizer.state


def test_other_optimizers_have_no_such_key():
    for recipe in (presets.adamw(), presets.adaptive_hina(), presets.adaptive_hina(published=True)):
        optimizer = recipe.optimizer(parameters(1))
        step(optimizer, optimizer.param_groups[0]["params"], {0})
        counted = any(KEY in link.traits for link in recipe.links)
        assert (KEY in optimizer.param_groups[0]) == counted
    assert counted


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle of the state"])
def test_the_count_is_saved_copied_and_loaded(way):
    params = parameters()
    optimizer = RECIPE.optimizer(params)
    for _ in range(5):
        step(optimizer, params, {0})
    if way == "deepcopy":
        other = copy.deepcopy(optimizer)
        others = other.param_groups[0]["params"]
    else:
        others = parameters()
        other = RECIPE.optimizer(others)
        saved = optimizer.state_dict() if way == "state_dict" else pickle.loads(pickle.dumps(optimizer.state_dict()))
        assert other.load_state_dict(saved).clean
        step(optimizer, params, {0})  # the saved count is not the live one
        assert saved["param_groups"][0][KEY] == 5
    step(other, others, {1})
    assert clocks(other, others)[1] == 6


def test_state_that_was_saved_without_the_count_goes_on_from_the_most_steps():
    params = parameters()
    optimizer = RECIPE.optimizer(params)
    for k in range(5):
        step(optimizer, params, {0, 1} if k else {0})
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group[KEY]
    optimizer.load_state_dict(saved)
    step(optimizer, params, {1})
    assert clocks(optimizer, params)[:2] == [5, 6]


def test_a_group_that_is_added_counts_on():
    params = parameters()
    optimizer = RECIPE.optimizer(params[:2])
    for _ in range(4):
        step(optimizer, params, {0, 1})
    optimizer.add_param_group({"params": params[2:]})
    step(optimizer, params, {2})
    assert clocks(optimizer, params)[2] == 5 and [group[KEY] for group in optimizer.param_groups] == [5, 5]


@DRIVERS
def test_a_step_that_the_gate_takes_back_does_not_count(driver):
    params = parameters(2)
    optimizer = RECIPE.optimizer(params, driver=driver, finite_gate=True)
    step(optimizer, params, {0, 1}, float("nan"))
    optimizer.state_dict()
    assert optimizer.param_groups[0][KEY] == 0
    for value in (1.0, float("inf"), 1.0):
        step(optimizer, params, {0, 1}, value)
    assert clocks(optimizer, params) == [2, 2] and optimizer.param_groups[0][KEY] == 2


@DRIVERS
def test_calls_that_accumulate_count_once_a_step(driver):
    params = parameters(2)
    optimizer = RECIPE.optimizer(params, driver=driver, accumulate=3)
    for _ in range(6):
        step(optimizer, params, {0})
    assert clocks(optimizer, params)[0] == 2


def test_a_step_that_raises_does_not_count():
    @dataclass(frozen=True, kw_only=True, repr=False)
    class Stumble(Transform):
        def update(self, carry, state, ctx):
            raise RuntimeError("stumbled")

    params = parameters(1)
    optimizer = chain(Reader(), Stumble(), t.LearningRate(lr=1.0)).optimizer(params, driver="reference")
    with pytest.raises(RuntimeError, match="stumbled"):
        step(optimizer, params, {0})
    assert optimizer.param_groups[0].get(KEY, 0) == 0


def test_the_functional_form_counts_its_calls_for_every_parameter():
    params = {"a": torch.zeros(2, dtype=torch.float64), "b": torch.zeros(2, dtype=torch.float64)}
    state = RECIPE.init(params)
    for k in range(1, 8):
        grads = {"a": torch.ones(2), "b": torch.ones(2) if k in (2, 5) else None}
        updates, state = RECIPE.update(grads, state, params)
        assert updates["a"][0] == k and updates["b"][0] == (k if k in (2, 5) else 0)
        assert state["a"][KEY] == state["b"][KEY] == k
    assert state["b"]["clock/refreshed"] == 6 and state["b"]["clock/total"] == 5 and state["b"]["step"] == 2


def test_the_functional_form_goes_on_from_state_without_the_count():
    params = [torch.zeros(2), torch.zeros(2)]
    state = [{k: v for k, v in one.items() if k != KEY} for one in RECIPE.init(params)]
    state[0]["step"] = torch.tensor(4.0)
    updates, state = RECIPE.update([None, torch.ones(2)], state, params)
    assert updates[1][0] == 5 and state[0][KEY] == state[1][KEY] == 5


def test_members_of_a_mapped_step_may_have_taken_different_numbers_of_steps():
    recipe = chain(Reader(), t.LearningRate(lr=1.0))
    params = [torch.zeros(3, 2), torch.zeros(3, 2)]
    state = [{"step": torch.zeros(3), KEY: torch.tensor([0.0, 4.0, 9.0])} for _ in params]

    def mapped(state, params):
        return recipe.update([torch.ones(2), None], state, params)

    updates, new = torch.func.vmap(mapped)(state, params)
    assert updates[0][:, 0].tolist() == [1, 5, 10] and new[1][KEY].tolist() == [1, 5, 10]


def test_a_step_that_is_compiled_as_a_whole_counts():
    params = parameters(2)
    optimizer = chain(Reader(), t.LearningRate(lr=1.0)).optimizer(params)
    whole = torch.compile(lambda: optimizer.step(), backend="eager")
    for _ in range(4):
        for p in params:
            p.grad = torch.ones_like(p)
        whole()
    assert params[0][0].item() == -10 and optimizer.param_groups[0][KEY] == 4
