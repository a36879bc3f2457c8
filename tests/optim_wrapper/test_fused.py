"""Whole chains that a fused kernel of torch computes: which they are, and that they give the loop's numbers."""

import copy

import pytest
import torch
from table import WHOLE_CHAINS
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import chain, masked, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers.fused import Fused

SHAPES = [(4, 6), (300, 200), (5,), (4, 6), (3, 2, 2), ()]


def made(recipe, driver, dtype=torch.float32, **options):
    params = [param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]
    return recipe.optimizer(params, driver=driver, **options)


def run(optimizer, count=50, absent=None):
    """Steps on gradients that depend on the step alone; one parameter has none in the third."""
    random = torch.Generator().manual_seed(1)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for i in range(count):
        for at, p in enumerate(params):
            grad = torch.randn(p.shape, generator=random, dtype=torch.float64).to(p.dtype)
            p.grad = None if i == 2 and at == absent else grad
        optimizer.step()
    return params


def homes(optimizer):
    return [type(home) for home in optimizer._drive.plan.homes]


@pytest.mark.parametrize("driver", ["eager", "compiled"])
@pytest.mark.parametrize("recipe", list(WHOLE_CHAINS.values()), ids=WHOLE_CHAINS)
def test_these_chains_are_fused_and_give_the_reference_s_numbers(recipe, driver):
    ours, loop = made(recipe, driver, torch.float64), made(recipe, "reference", torch.float64)
    torch.testing.assert_close(run(ours, absent=1), run(loop, absent=1), rtol=1e-9, atol=1e-12)
    assert set(homes(ours)) == {Fused} and not ours._drive.plan.odd and not ours._drive.graphs
    for p, q in zip(ours.state.values(), loop.state.values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("recipe", list(WHOLE_CHAINS.values()), ids=WHOLE_CHAINS)
def test_in_single_precision_they_stay_within_rounding(recipe):
    ours, loop = made(recipe, "eager"), made(recipe, "reference")
    torch.testing.assert_close(run(ours), run(loop), rtol=1e-6, atol=1e-5)  # they are around 1, and move by 0.5
    assert homes(ours) == [Fused]


NOT_FUSED = {
    "one link more": presets.adamw().insert_before("learning_rate", t.Cautious()),
    "both decays": presets.adamw().insert_before("moments", t.L2(weight_decay=0.1, name="l2")),
    "decay behind the momentum": chain(t.Momentum(), t.WeightDecay(weight_decay=0.1), t.LearningRate()),
    "a window": presets.adamw().replace(weight_decay=t.Phase(t.WeightDecay(weight_decay=0.1), start=3)),
    "another order": chain(t.WeightDecay(weight_decay=0.1), t.Moments(), t.Normalize(), t.LearningRate()),
}


@pytest.mark.parametrize("recipe", list(NOT_FUSED.values()), ids=NOT_FUSED)
def test_other_chains_are_not(recipe):
    optimizer = made(recipe, "eager")
    run(optimizer, 2)
    assert Fused not in homes(optimizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_parameters_whose_state_has_another_dtype_are_not(dtype):
    p = param(4, 6, dtype=dtype)
    optimizer = presets.adamw().optimizer([p, param(4, 6)])
    steps(optimizer, 2)
    assert [len(home.infos) for home in optimizer._drive.plan.homes if isinstance(home, Fused)] == [1]


def test_a_link_that_joined_a_saved_run_counts_its_own_steps_and_is_not_fused():
    saved = made(chain(t.LearningRate(lr=0.1)), "eager")
    run(saved, 3)
    joined = {driver: made(presets.sgd(lr=0.1, momentum=0.9), driver) for driver in ("eager", "reference")}
    for optimizer in joined.values():
        with pytest.warns(UserWarning, match="fresh: momentum"):
            optimizer.load_state_dict(saved.state_dict())
    torch.testing.assert_close(run(joined["eager"], 3), run(joined["reference"], 3))
    assert Fused not in homes(joined["eager"])


def test_a_masked_decay_and_groups_with_values_of_their_own_are_fused_apart():
    def build(driver):
        recipe = presets.adamw(lr=0.01).replace(
            weight_decay=masked(t.WeightDecay(weight_decay=0.3), by=lambda _, p: p.dim() > 1)
        )
        params = [param(*shape, seed=i) for i, shape in enumerate(SHAPES)]
        groups = [{"params": params[:3]}, {"params": params[3:5], "lr": 0.1}, {"params": params[5:]}]
        return recipe.optimizer(groups, driver=driver)

    ours, loop = build("eager"), build("reference")
    torch.testing.assert_close(run(ours, absent=4), run(loop, absent=4), rtol=1e-6, atol=1e-5)
    assert set(homes(ours)) == {Fused}


def test_schedules_are_taken_each_step_as_numbers_or_tensors():
    for lr in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        found = []
        for driver in ("eager", "reference"):
            optimizer = made(presets.adamw(), driver, lr=copy.deepcopy(lr))  # the schedule writes into it
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            for _ in range(5):
                found.append(run(optimizer, 1)[0].detach().clone())
                schedule.step()
        torch.testing.assert_close(found[:5], found[5:], rtol=1e-5, atol=1e-6)


def test_without_momentum_for_a_while_the_buffer_is_kept_as_the_chain_has_it():
    found = []
    for driver in ("eager", "reference"):
        optimizer = made(presets.sgd(lr=0.1, momentum=0.9, dampening=0.5), driver)
        for momentum in (0.9, 0.0, 0.9):
            optimizer.param_groups[0]["momentum"] = momentum
            run(optimizer, 2)
        found.append([p.detach() for p in optimizer.param_groups[0]["params"]])
    torch.testing.assert_close(*found, rtol=1e-6, atol=2e-6)


def test_gradients_in_another_form_are_brought_into_their_parameter_s_and_none_is_marked_as_written():
    found = []
    for driver in ("eager", "reference"):
        optimizer = made(presets.adamw(lr=0.1), driver)
        run(optimizer, 1)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.sin(p.detach()).t().contiguous().t() if p.dim() == 2 else torch.full((), 0.1).expand(p.shape)
        differentiable = torch.ones(5, requires_grad=True)
        optimizer.param_groups[0]["params"][2].grad = differentiable
        optimizer.step()
        assert differentiable._version == 0
        found.append([p.detach() for p in optimizer.param_groups[0]["params"]])
    torch.testing.assert_close(*found, rtol=1e-6, atol=2e-6)


def test_a_state_in_another_memory_format_than_its_parameter_is_not_fused():
    """A kernel goes through memory; a state saved by a contiguous model has another order."""
    found = []
    for driver in ("eager", "reference"):
        plain, last = (
            nn.Parameter(param(2, 3, 4, 4).detach().to(memory_format=form))
            for form in (torch.contiguous_format, torch.channels_last)
        )
        saved, optimizer = (presets.adamw(lr=0.1).optimizer([p], driver=driver) for p in (plain, last))
        steps(saved, 2)
        optimizer.load_state_dict(saved.state_dict())
        steps(optimizer, 2)
        found.append(last.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_a_run_that_is_saved_and_loaded_goes_on_to_the_bit():
    whole, first, second = (made(presets.adamw(lr=0.1), "eager") for _ in range(3))
    run(whole, 4)
    run(whole, 3)
    for p, q in zip(run(first, 4), second.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)
    second.load_state_dict(first.state_dict())
    run(second, 3)
    assert identical(snapshot(whole), snapshot(second))


@pytest.mark.parametrize("recipe", list(WHOLE_CHAINS.values()), ids=WHOLE_CHAINS)
def test_many_tiny_parameters_go_to_the_kernel_as_one_tensor(recipe):
    """A stack of those of one shape, and a list of the others; where one has no gradient, a list for that step."""

    def tiny(driver):
        shapes = [(3, 4)] * 70 + [()] * 70 + [(5,)] * 2
        params = [param(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate(shapes)]
        return recipe.optimizer(params, driver=driver)

    ours, loop = tiny("eager"), tiny("reference")
    torch.testing.assert_close(run(ours, 6, absent=1), run(loop, 6, absent=1), rtol=1e-9, atol=1e-12)
    assert sorted((home.stacked, len(home.raw)) for home in ours._drive.plan.homes) == [
        (False, 1),
        (False, 2),
        (True, 69),
        (True, 70),
    ]
    for p, q in zip(ours.state.values(), loop.state.values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
