"""Saved and live parameters are matched by name where both sides have names, by position otherwise."""

import copy

import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, partition, presets
from gradchain.chains import matrices

ADAM = presets.adam(lr=0.1)
NAMES = ("a", "b", "c", "d")


def named(names=NAMES, prefix=""):
    """All of one shape, so that only a name tells them apart."""
    seeds = {name: torch.Generator().manual_seed(ord(name)) for name in names}
    return [(prefix + name, nn.Parameter(torch.randn(3, generator=seeds[name]))) for name in names]


def trained(groups, recipe=ADAM):
    optimizer = recipe.optimizer(groups)
    steps(optimizer, 3)
    return optimizer


def by_name(optimizer):
    groups = optimizer.param_groups
    pairs = [(n.removeprefix("module."), p) for g in groups for n, p in zip(g["param_names"], g["params"], strict=True)]
    return {name: copy.deepcopy(optimizer.state[p]) for name, p in pairs if p in optimizer.state}


def test_a_reordered_model_goes_on_as_the_old_one():
    first = trained(named())
    second = presets.adam(lr=0.1).optimizer(other := named("dbca"))
    assert second.load_state_dict(first.state_dict(), strict=True).clean
    assert identical(by_name(second), by_name(first)) and second.param_groups[0]["param_names"] == list("dbca")
    for name, p in other:
        p.data.copy_(dict(zip(NAMES, first.param_groups[0]["params"], strict=True))[name].detach())
    steps(first, 3, start=3)
    steps(second, 3, start=3)
    assert all(torch.equal(dict(other)[n], p) for n, p in zip(NAMES, first.param_groups[0]["params"], strict=True))
    again = presets.adam(lr=0.1).optimizer(named())
    assert again.load_state_dict(second.state_dict(), strict=True).clean and identical(by_name(again), by_name(first))


@pytest.mark.parametrize("prefixes", [("", "module."), ("module.", ""), ("_orig_mod.", "module._orig_mod.")], ids=str)
def test_what_wrappers_of_models_put_in_front_does_not_count(prefixes):
    first = trained(named(prefix=prefixes[0]))
    second = presets.adam(lr=0.1).optimizer(named("dcba", prefix=prefixes[1]))
    assert second.load_state_dict(first.state_dict(), strict=True).clean
    states = [list(o.state.values()) for o in (first, second)]
    assert identical(states[0], states[1][::-1])


def test_parameters_may_change_groups_and_groups_their_order():
    first = trained([{"params": named("ab"), "lr": 0.1}, {"params": named("cd"), "lr": 0.2}])
    swapped = presets.adam().optimizer([{"params": named("dc")}, {"params": named("ba")}])
    assert swapped.load_state_dict(first.state_dict(), strict=True).clean
    assert identical(by_name(swapped), by_name(first)) and [g["lr"] for g in swapped.param_groups] == [0.2, 0.1]
    moved = presets.adam().optimizer([{"params": named("a")}, {"params": named("bcd")}])
    assert moved.load_state_dict(first.state_dict(), strict=True).clean
    assert identical(by_name(moved), by_name(first)) and [g["lr"] for g in moved.param_groups] == [0.1, 0.2]


def test_parameters_that_came_or_went_are_reported_and_start_afresh():
    first = trained(named("abc"))
    second = presets.adam().optimizer(named("dba"))
    before = snapshot(second)
    with pytest.raises(ChainError, match="missing: d; unused: c"):
        second.load_state_dict(first.state_dict(), strict=True)
    assert identical(snapshot(second), before)
    with pytest.warns(ChainWarning, match="kept: moments; dropped: none; fresh: none; missing: d; unused: c"):
        report = second.load_state_dict(first.state_dict())
    assert report.missing == ("d",) and report.unused == ("c",)
    assert identical(by_name(second), {name: by_name(first)[name] for name in "ba"})
    steps(second)
    assert [second.state[p]["step"] for p in second.param_groups[0]["params"]] == [1, 4, 4]
    with pytest.warns(ChainWarning, match="missing: d"):
        presets.adam().optimizer(named("abcd")).load_state_dict(first.state_dict())


@pytest.mark.parametrize("which", [(False, False), (False, True), (True, False)], ids=str)
def test_without_names_on_both_sides_the_position_counts(which):
    def given(names, wanted):
        return named(names) if wanted else [p for _, p in named(names)]

    first = trained(given("abcd", which[0]))
    second = presets.adam().optimizer(given("dcba", which[1]))
    assert second.load_state_dict(first.state_dict(), strict=True).clean
    assert identical(list(second.state.values()), list(first.state.values()))
    with pytest.raises(ValueError, match="doesn't match the size"):
        presets.adam().optimizer(given("abc", which[1])).load_state_dict(first.state_dict())


def test_names_that_have_nothing_in_common_are_matched_by_position():
    first = trained(named("abc"))
    second = presets.adam().optimizer(named("xyz"))
    assert second.load_state_dict(first.state_dict(), strict=True).clean
    assert identical(list(second.state.values()), list(first.state.values()))


def test_another_number_of_groups_is_torch_s_to_refuse():
    first = trained(named())
    second = presets.adam().optimizer([{"params": named("ab")}, {"params": named("cd")}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        second.load_state_dict(first.state_dict())


def test_a_checkpoint_of_torch_is_matched_by_name_too():
    first = torch.optim.Adam(named(), lr=0.1)
    steps(first, 3)
    second = presets.adam().optimizer(other := named("cadb"))
    assert second.load_state_dict(first.state_dict(), strict=True).clean
    theirs = dict(zip(NAMES, first.state.values(), strict=True))
    assert all(torch.equal(second.state[p]["moments/first"], theirs[name]["exp_avg"]) for name, p in other)


# placeholders: names that the library made up


def adapters(zero=True, seed=0):
    """Two pairs of LoRA matrices without names; the second is found by its zeros, if it still has them."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(2, 6), (6, 2), (2, 6), (6, 2)]
    tensors = [nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    with torch.no_grad():
        for p in tensors[1::2] if zero else tensors[1:2]:
            p.zero_()
    return tensors


HINA = presets.hina_adamw(lr=1e-2)


def names(optimizer):
    return [group.get("param_names") for group in optimizer.param_groups]


def test_adapters_whose_pairs_are_no_longer_found_by_zeros_keep_their_state_and_their_names():
    first = HINA.optimizer(a := adapters())
    assert names(first) == [["0.0.lora_A", "0.0.lora_B", "0.2.lora_A", "0.2.lora_B"]]
    steps(first, 3)
    for which in ([], [0, 1], [2, 3], [0, 1, 2, 3]):  # those of which B is zero when the second run starts
        tensors = [nn.Parameter(p.detach().clone()) for p in a]
        for i in which:
            tensors[i].data.mul_(i % 2 == 0)
            tensors[i].data.add_(i % 2 == 0)
        second = HINA.optimizer(tensors)
        assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
        assert identical(list(second.state.values()), list(first.state.values())) and names(second) == names(first)
        assert identical(second.state_dict(), first.state_dict())


def test_placeholders_yield_to_names_and_names_stay():
    first, second = trained([p for _, p in named()]), trained(named())
    second.load_state_dict(first.state_dict(), strict=True)
    assert names(second) == [list(NAMES)]
    guessed = HINA.optimizer(adapters())
    steps(guessed, 2)
    real = HINA.optimizer(list(zip(NAMES, adapters(), strict=True)))
    assert real.load_state_dict(copy.deepcopy(guessed.state_dict()), strict=True).clean and names(real) == [list(NAMES)]
    assert "placeholder_names" not in real.param_groups[0]
    again = HINA.optimizer(adapters())
    assert again.load_state_dict(copy.deepcopy(real.state_dict()), strict=True).clean and names(again) == [list(NAMES)]
    assert "placeholder_names" not in again.param_groups[0]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]], ids=str)
def test_names_that_look_made_up_are_compared_by_name_if_a_caller_gave_them(order):
    model = nn.ModuleList([nn.ParameterList([p for _, p in named("ab")]), nn.ParameterList(adapters()[:2])])
    pairs = list(model.named_parameters())
    assert [name for name, _ in pairs] == ["0.0", "0.1", "1.0", "1.1"]
    first = trained(pairs)
    second = presets.adam().optimizer([pairs[i] for i in order])
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    states = list(first.state.values())
    assert identical([second.state[pairs[i][1]] for i in range(4)], states)


def test_given_names_of_nested_layers_go_by_name():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    pairs = list(model.named_parameters())
    first = trained(pairs)
    second = presets.adam().optimizer(pairs[::-1])
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    assert all(identical(second.state[p], first.state[p]) for _, p in pairs)


def test_some_parameters_go_by_name_and_those_without_by_position():
    pairs, rest = named(), [p for _, p in named("xyz")]
    first = presets.adam().optimizer([*(p for _, p in pairs), *rest])
    first.bind_names(pairs)
    steps(first, 3)
    assert names(first) == [[*NAMES, "0.4", "0.5", "0.6"]] and first.param_groups[0]["placeholder_names"] == [
        "0.4",
        "0.5",
        "0.6",
    ]
    turned = [p for _, p in pairs[::-1]]
    second = presets.adam().optimizer([*rest, *turned])
    second.bind_names(pairs)
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    assert all(identical(second.state[p], first.state[p]) for p in [*rest, *turned])
    fewer = presets.adam().optimizer([*rest[1:], *turned])
    fewer.bind_names(pairs)
    with pytest.warns(ChainWarning, match="missing: 0.0, 0.1; unused: 0.4, 0.5, 0.6"):
        fewer.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(identical(fewer.state[p], first.state[p]) for p in turned) and len(fewer.state) == 4


def test_a_group_without_names_beside_a_group_with_them_goes_by_position_where_the_groups_are_turned():
    def groups():
        view = dict(named("ab")).values()
        return [{"params": view, "lr": 0.1}, {"params": [p for _, p in named("cd")], "lr": 0.2}]

    first = trained(groups())
    assert names(first) == [["a", "b"], ["1.0", "1.1"]]
    turned = groups()[::-1]
    second = presets.adam().optimizer(turned)
    assert names(second) == [["0.0", "0.1"], ["a", "b"]]
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    assert identical([second.state[p] for g in turned[::-1] for p in g["params"]], list(first.state.values()))
    assert [group["lr"] for group in second.param_groups] == [0.2, 0.1] and names(second) == [["1.0", "1.1"], ["a", "b"]]


def test_names_that_occur_twice_do_not_tell_parameters_apart():
    def groups(order):
        return [{"params": [p for _, p in named(two)], "param_names": ["q", "k"]} for two in order]

    first, second = trained(groups(["ab", "cd"])), presets.adam().optimizer(groups(["ab", "cd"]))
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    assert identical(list(second.state.values()), list(first.state.values()))


def test_numbers_of_a_distributed_checkpoint_tell_the_order_of_its_names():
    """set_optimizer_state_dict brings the parameters into the live order, and not the names beside them."""
    first = trained(named())
    saved = copy.deepcopy(first.state_dict())
    by_fqn = {"state": dict(zip(NAMES, saved["state"].values(), strict=True))}
    by_fqn["param_groups"] = [{**saved["param_groups"][0], "params": list("dcba")}]
    second = presets.adam().optimizer(named("dcba"))
    assert second.load_state_dict(by_fqn, strict=True).clean and identical(by_name(second), by_name(first))


def test_a_partition_compares_what_it_found_by_structure_by_position():
    recipe = partition({"lora": HINA, "rest": ADAM}, by={"lora": matrices})
    first = recipe.optimizer([param(3), *adapters()])
    steps(first, 2)
    found = [["0.1.lora_A", "0.1.lora_B", "0.3.lora_A", "0.3.lora_B"], ["0.0"]]
    assert names(first) == found and [group["placeholder_names"] for group in first.param_groups] == found
    second = recipe.optimizer([param(3), *adapters(zero=False)])
    assert second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True).clean
    assert identical(list(second.state.values()), list(first.state.values())) and names(second) == found
