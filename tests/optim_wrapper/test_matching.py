"""Saved and live parameters are matched by name where both sides have names, by position otherwise."""

import copy

import pytest
import torch
from torch import nn
from training import identical, snapshot, steps

from gradchain import ChainError, ChainWarning, presets

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
