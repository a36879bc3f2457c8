"""Names of parameters: where they are looked for, and what is said where they do not fit."""

import copy

import pytest
import torch
from training import param

from gradchain import ChainError, chain, presets
from gradchain import transforms as t
from gradchain.transforms import LearningRate

RECIPE = chain(LearningRate(lr=0.1))


class Asking(LearningRate):
    traits = frozenset({"names"})


def names(optimizer):
    return [group.get("param_names") for group in optimizer.param_groups]


def adapter(rank=2, wide=5, high=4):
    """A of a LoRA pair with numbers in it, B with zeros, as they are before training."""
    return param(rank, wide), torch.nn.Parameter(torch.zeros(high, rank))


def kohya():
    """Two groups as sd-scripts hands them over: views of dicts, B in a group of its own with more learning rate."""
    a, b = adapter()
    lora, plus = {"lora_unet_q.lora_down.weight": a}, {"lora_unet_q.lora_up.weight": b}
    return [{"params": lora.values(), "lr": 0.1}, {"params": plus.values(), "lr": 1.6}]


def test_pairs_of_name_and_tensor_are_torch_s():
    model = torch.nn.Linear(2, 3)
    assert names(RECIPE.optimizer(model.named_parameters())) == [["weight", "bias"]]
    assert names(RECIPE.optimizer(model.parameters())) == [None]
    assert RECIPE.optimizer(model.parameters()).name_of(model.bias) == "0.1"


def test_a_list_beside_the_tensors_is_taken_under_either_key():
    for key in ("param_names", "named"):
        optimizer = RECIPE.optimizer([{"params": [param(2), param(3)], key: ["a", "b"]}])
        assert names(optimizer) == [["a", "b"]]


def test_the_keys_of_a_dict_s_view_are_names():
    optimizer = RECIPE.optimizer(kohya())
    assert names(optimizer) == [["lora_unet_q.lora_down.weight"], ["lora_unet_q.lora_up.weight"]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.6]
    assert names(RECIPE.optimizer({"w": param(2)}.values())) == [["w"]]


def test_an_attribute_of_every_tensor_is_its_name():
    tensors = [param(2), param(3)]
    tensors[0].param_name = "a"
    assert names(RECIPE.optimizer(tensors)) == [None]
    tensors[1].param_name = "b"
    assert names(RECIPE.optimizer(tensors)) == [["a", "b"]]


def test_what_is_stated_goes_before_what_is_found():
    a = param(2)
    a.param_name = "attribute"
    group = {"params": {"key": a}.values(), "named": ["named"], "param_names": ["param_names"]}
    for wanted in ("param_names", "named"):
        assert names(RECIPE.optimizer([dict(group)])) == [[wanted]]
        del group[wanted]
    assert names(RECIPE.optimizer([dict(group)])) == [["key"]]
    assert names(RECIPE.optimizer([{**group, "params": [a]}])) == [["attribute"]]


def test_groups_with_and_without_names_go_together_where_the_names_were_found():
    view = {"w": param(2)}.values()
    optimizer = RECIPE.optimizer([{"params": [param(3), param(2)]}, {"params": view}])
    optimizer.add_param_group({"params": param(7)})
    optimizer.add_param_group({"params": (param(n) for n in (1, 2))})
    assert names(optimizer) == [["0.0", "0.1"], ["w"], ["2.0"], ["3.0", "3.1"]]
    assert len(optimizer.param_groups[3]["params"]) == 2


def test_groups_with_and_without_names_are_refused_where_torch_refuses_them():
    optimizer = RECIPE.optimizer([("w", param(2))])
    with pytest.raises(ValueError, match="cannot add param group without names"):
        optimizer.add_param_group({"params": [param(3)]})
    with pytest.raises(ValueError, match="cannot add param group with names"):
        RECIPE.optimizer([param(2)]).add_param_group({"params": [("w", param(2))]})


def test_a_group_that_torch_refuses_leaves_the_others_as_they_were():
    a = param(2)
    optimizer = RECIPE.optimizer([a])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": {"w": a}.values()})
    assert names(optimizer) == [None]


@pytest.mark.parametrize("key", ["param_names", "named"])
def test_names_that_do_not_fit_are_refused(key):
    with pytest.raises(
        ChainError, match=rf"group 0: '{key}' must hold one name for each of its 2.*found 1 entries.*in the order"
    ):
        RECIPE.optimizer([{"params": [param(2), param(3)], key: ["a"]}])
    with pytest.raises(ChainError, match="found 7"):
        RECIPE.optimizer([{"params": [param(2), param(3)], key: ["a", 7]}])


def test_a_repeated_parameter_takes_its_name_with_it():
    a, b = param(2), param(3)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = RECIPE.optimizer([{"params": [a, a, b], "named": ["a", "again", "b"]}])
    assert names(optimizer) == [["a", "b"]] and optimizer.name_of(b) == "b"


def test_names_can_be_given_afterwards():
    model, other = torch.nn.Linear(2, 3), param(2)
    optimizer = RECIPE.optimizer([*model.parameters(), other])
    optimizer.bind_names(model.named_parameters())
    assert names(optimizer) == [["weight", "bias", "0.2"]] and optimizer.name_of(model.bias) == "bias"
    with pytest.raises(ChainError, match="none of the 2 named tensors is a parameter of the optimizer"):
        optimizer.bind_names(torch.nn.Linear(2, 3).named_parameters())


def test_a_zero_matrix_behind_its_partner_is_a_pair_where_a_link_asks():
    asking = chain(Asking(lr=0.1))
    (a, b), (c, d) = adapter(), adapter()
    tensors = [a, b, param(3), d, c]  # a zero matrix before its partner is none
    assert names(asking.optimizer(tensors)) == [["0.0.lora_A", "0.0.lora_B", "0.2", "0.3", "0.4"]]
    assert names(RECIPE.optimizer(tensors)) == [None]
    assert names(asking.optimizer([{"params": tensors, "named": list("abcde")}])) == [list("abcde")]


@pytest.mark.parametrize(
    "tensors",
    [
        [param(2, 5), param(4, 2)],  # not zero: after training, or a plain network
        [torch.nn.Parameter(torch.zeros(2, 5)), torch.nn.Parameter(torch.zeros(4, 2))],
        [param(8, 5), torch.nn.Parameter(torch.zeros(4, 8))],  # no lower rank: a network whose last layer starts at zero
        [param(2, 5), torch.nn.Parameter(torch.zeros(4, 3))],
        [param(2, 5), torch.nn.Parameter(torch.zeros(2))],
        [torch.nn.Parameter(torch.empty(2, 5, device="meta")), torch.nn.Parameter(torch.empty(4, 2, device="meta"))],
    ],
)
def test_other_neighbors_are_no_pair(tensors):
    assert names(chain(Asking(lr=0.1)).optimizer(tensors)) == [None]


def test_names_found_by_structure_outlive_the_zeros():
    """They stand in the checkpoint, and a resumed run in which B is no longer zero takes them from there."""
    asking = chain(t.Moments(), Asking(lr=0.1))
    a, b = adapter()
    optimizer = asking.optimizer([a, b])
    saved = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        b.add_(1)
    resumed = asking.optimizer([a, b])
    assert names(resumed) == [None]
    resumed.load_state_dict(saved)
    assert names(resumed) == names(optimizer) == [["0.0.lora_A", "0.0.lora_B"]]


def test_a_copy_keeps_the_names():
    optimizer = RECIPE.optimizer(kohya())
    assert names(copy.deepcopy(optimizer)) == names(optimizer)


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [0, 1, 0]], ids=str)
def test_an_empty_group_goes_with_groups_that_have_names(order):
    groups = [{"params": []}, {"params": [("w", param(2))]}]
    optimizer = presets.adam().optimizer([dict(groups[i]) for i in order])
    full = order.index(1)
    p = optimizer.param_groups[full]["params"][0]
    assert optimizer.name_of(p) == "w"
    p.grad = torch.ones_like(p)
    optimizer.step()
    twin = presets.adam().optimizer([dict(groups[i]) for i in order])
    assert twin.load_state_dict(optimizer.state_dict()).clean and twin.state[p]["step"] == 1


@pytest.mark.parametrize("recipe", [presets.adamw(), presets.muon_adamw()], ids=["chain", "partition"])
def test_what_torch_refuses_as_parameters_is_refused_before_and_after_a_split(recipe):
    p, q = param(2, 2), param(2)
    for mixed in ([p, ("b", q)], [("a", p), q]):
        with pytest.raises(ValueError, match="Some param names are missing"):
            recipe.optimizer(mixed)
    for strange in ([p, 3], [("a", p), ("b", 3)]):
        with pytest.raises(TypeError, match="optimizer can only optimize Tensors, but one of the params is int"):
            recipe.optimizer(strange)
    with pytest.raises(TypeError, match="se a list instead"):
        recipe.optimizer([{"params": {p, q}}])
