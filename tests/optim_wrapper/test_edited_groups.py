"""Groups edited by hand: names, masks and chains belong to parameters and labels, not to places in a group."""

import copy

import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, chain, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms

SCHEDULED = chain(t.Momentum(momentum=lambda step: 0.5 / step), t.LearningRate(lr=0.3))
every_driver = pytest.mark.parametrize("driver", ["reference", "eager", "auto"])
NAMES = ["a.weight", "a.bias", "b.weight", "b.bias"]


def decayed(driver, names=NAMES):
    """Weights are decayed by half in a step, biases are not; gradients are 0."""
    recipe = chain(masked(t.WeightDecay(weight_decay=0.5), by=~biases_and_norms), t.LearningRate(lr=1.0))
    params = {name: nn.Parameter(torch.ones(2, 2)) for name in names}
    params = {name: p if "weight" in name else nn.Parameter(torch.ones(2)) for name, p in params.items()}
    return params, recipe.optimizer(list(params.items()), driver=driver)


def stepped(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()


def check(params, left_out=()):
    for name, p in params.items():
        wanted = 1.0 if "bias" in name or name in left_out else 0.5
        assert torch.equal(p, torch.full_like(p, wanted)), name


@every_driver
@pytest.mark.parametrize("stepped_before", [False, True])
@pytest.mark.parametrize("with_names", [False, True])
def test_masks_follow_parameters_that_are_removed_or_reversed(driver, stepped_before, with_names):
    params, optimizer = decayed(driver)
    if stepped_before:
        stepped(optimizer)
        for p in params.values():
            p.data.fill_(1)
    group = optimizer.param_groups[0]
    for key in ("params", "param_names") if with_names else ("params",):
        group[key] = group[key][:0:-1]
    stepped(optimizer)
    check(params, left_out=["a.weight"])
    assert group["param_names"] == NAMES[:0:-1]


@every_driver
def test_a_list_that_is_changed_in_place_is_noticed(driver):
    params, optimizer = decayed(driver)
    stepped(optimizer)
    for p in params.values():
        p.data.fill_(1)
    optimizer.param_groups[0]["params"].reverse()
    stepped(optimizer)
    check(params)
    assert optimizer.param_groups[0]["param_names"] == NAMES[::-1]


@every_driver
def test_a_replaced_parameter_has_the_name_of_the_one_before(driver):
    _, optimizer = decayed(driver)
    stepped(optimizer)
    new = nn.Parameter(torch.ones(2, 2))
    optimizer.param_groups[0]["params"][2] = new
    stepped(optimizer)
    assert optimizer.name_of(new) == "b.weight" and torch.equal(new, torch.full((2, 2), 0.5))
    assert optimizer.state[new]["step"] == 1


@every_driver
def test_an_inserted_parameter_takes_no_name_of_another(driver):
    params, optimizer = decayed(driver)
    new = nn.Parameter(torch.ones(2, 2))
    optimizer.param_groups[0]["params"].insert(0, new)
    stepped(optimizer)
    check(params)
    names = optimizer.param_groups[0]["param_names"]
    assert names[1:] == NAMES and names[0] not in NAMES


@every_driver
def test_a_group_that_is_popped_leaves_the_others_theirs(driver):
    recipe = chain(masked(t.WeightDecay(weight_decay=0.5), by="*.weight"), t.LearningRate(lr=1.0))
    weight, bias = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [("a.bias", bias)]}, {"params": [("a.weight", weight)], "weight_decay": 0.25}]
    optimizer = recipe.optimizer(groups, driver=driver)
    stepped(optimizer)
    assert torch.equal(weight, torch.full((2,), 0.75)) and torch.equal(bias, torch.ones(2))
    optimizer.param_groups.pop(0)
    stepped(optimizer)
    assert torch.equal(weight, torch.full((2,), 0.5625)) and torch.equal(bias, torch.ones(2))


@every_driver
def test_a_parameter_that_moves_to_another_group_takes_its_values(driver):
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = chain(t.LearningRate(lr=0.5)).optimizer([{"params": [a, b]}, {"params": [c], "lr": 0.25}], driver=driver)
    steps(optimizer)
    moved = optimizer.param_groups[0]["params"].pop(1)
    optimizer.param_groups[1]["params"].append(moved)
    before = moved.detach().clone()
    moved.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(moved, before - 0.25)


def two_chains(driver):
    recipe = partition({"fast": chain(t.LearningRate(lr=1.0)), "adam": presets.adam(lr=0.1)})
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [p], "label": "fast"}, {"params": [q], "label": "adam"}]
    return p, q, recipe.optimizer(groups, driver=driver)


@every_driver
def test_a_group_whose_label_changes_runs_the_chain_of_the_new_one(driver):
    p, _, optimizer = two_chains(driver)
    steps(optimizer, 2)
    optimizer.param_groups[0]["label"] = "adam"
    steps(optimizer, 3)
    assert optimizer.state[p].keys() >= {"moments/first", "moments/since"} and optimizer.state[p]["moments/since"] == 2
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    optimizer.param_groups[0]["label"] = "fast"
    p.grad = torch.ones(2)
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, before - 1) and set(optimizer.state[p]) == {"step"}


@every_driver
def test_a_group_whose_label_changes_follows_the_schedules_of_the_new_chain(driver):
    recipe = partition({"plain": chain(t.Lion(betas=(0.9, 0.99)), t.LearningRate(lr=0.1)), "ball": SCHEDULED})
    p = nn.Parameter(torch.ones(2))
    optimizer = recipe.optimizer([{"params": [p], "label": "plain"}], driver=driver)
    steps(optimizer, 2)
    optimizer.param_groups[0]["label"] = "ball"
    for k in range(3):
        steps(optimizer)
        assert optimizer.param_groups[0]["momentum"] == 0.5 / (k + 1) and optimizer.param_groups[0]["lr"] == 0.1


@every_driver
def test_an_unknown_label_is_refused_before_anything_changes(driver):
    _, _, optimizer = two_chains(driver)
    steps(optimizer, 2)
    optimizer.param_groups[0]["label"] = "adm"
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match="labeled 'adm'"):
        optimizer.step()
    assert identical(snapshot(optimizer), before)


@every_driver
def test_a_group_that_was_put_into_the_list_by_hand_gets_the_chain_s_values(driver):
    p, q = param(3), param(3, seed=1)
    optimizer = presets.adamw(lr=0.1).optimizer([p], driver=driver)
    steps(optimizer)
    optimizer.param_groups.append({"params": [q], "lr": 0.2})
    steps(optimizer, 2)
    assert optimizer.state[q]["step"] == 2 and optimizer.param_groups[1]["betas"] == (0.9, 0.999)


@every_driver
def test_a_refused_step_leaves_the_state_of_the_label_before(driver):
    p, _, optimizer = two_chains(driver)
    optimizer.param_groups[0]["label"] = "adam"
    steps(optimizer, 2)
    kept = {key: value.clone() for key, value in optimizer.state[p].items()}
    optimizer.param_groups[0].update(label="fast", lr=-1.0)
    with pytest.raises(ChainError, match="lr must be"):
        optimizer.step()
    optimizer.param_groups[0].update(label="adam", lr=0.1)
    assert identical(optimizer.state[p], kept)


@every_driver
def test_groups_that_are_put_in_the_place_of_all_others_keep_names_and_what_was_noted(driver):
    recipe = chain(masked(t.WeightDecay(weight_decay=0.5), by="*weight"), t.LearningRate(lr=lambda step: 0.25 * step))
    params = {name: nn.Parameter(torch.ones(2)) for name in ("a.weight", "a.bias")}
    optimizer = recipe.optimizer(params.items(), driver=driver)
    stepped(optimizer)
    optimizer.param_groups = [{"params": [p]} for p in reversed(params.values())]
    stepped(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert optimizer.name_of(params["a.weight"]) == "a.weight"
    assert torch.equal(params["a.weight"], torch.full((2,), 0.875 * 0.75)) and torch.equal(params["a.bias"], torch.ones(2))


@pytest.mark.parametrize("edit", ["split", "replaced"])
def test_training_values_come_back_though_groups_were_edited_in_evaluation(edit):
    p, q = param(3), param(3, seed=1)
    optimizer = presets.schedule_free_adamw(lr=0.1).optimizer([p, q])
    steps(optimizer, 3)
    before = [p.detach().clone(), q.detach().clone()]
    optimizer.eval()
    if edit == "split":
        optimizer.add_param_group({"params": [optimizer.param_groups[0]["params"].pop()]})
    else:
        optimizer.param_groups = [{"params": [p, q], "lr": 0.1}]
    with pytest.raises(ChainError, match="hold the average"):
        optimizer.step()
    optimizer.train()
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])


def test_a_copy_knows_that_names_were_found():
    p, q = param(3), param(3, seed=1)
    p.param_name = "a.weight"
    optimizer = copy.deepcopy(presets.adamw().optimizer([p]))
    optimizer.add_param_group({"params": [q]})
    assert optimizer.param_groups[0]["param_names"] == ["a.weight"]


@pytest.mark.parametrize("options", [{"accumulate": 2}, {"finite_gate": True}, {}], ids=str)
def test_an_optimizer_without_groups_steps_in_silence(options):
    optimizer = presets.adamw().optimizer([param(3)], **options)
    steps(optimizer)
    optimizer.param_groups.clear()
    optimizer.step()
