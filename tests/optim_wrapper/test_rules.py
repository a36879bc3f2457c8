"""Rules that take no parameter or see no names, adapters that are not found: one warning each, at the first step."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from training import param, steps

from gradchain import ChainWarning, chain, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms, hidden_matrices, in_modules, matrices
from gradchain.optim_wrapper import HinaAdamW, MuonAdamW
from gradchain.optim_wrapper.in_backward import step_in_backward

RATE = t.LearningRate(lr=0.1)


def of(by):
    return chain(masked(t.L2(weight_decay=0.1), by=by), masked(t.Momentum(), by=by), RATE)


def two(by):
    return partition({"a": presets.sgd(lr=0.1), "b": presets.sgd(lr=0.1)}, by=by)


def warned(optimizer, count=2):
    """The warnings of some steps."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        steps(optimizer, count)
    assert all(issubclass(one.category, ChainWarning) for one in seen)
    return [str(one.message) for one in seen]


def named():
    return [("w", param(3, 2)), ("b", param(3))]


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize(
    "by",
    ["*.bias", in_modules(nn.Sequential(nn.Linear(2, 2)), nn.Linear), lambda name, p: False, ~hidden_matrices & matrices],
    ids=["pattern", "modules", "function", "hidden"],
)
def test_a_mask_that_takes_no_parameter_warns_once(by, driver):
    (told,) = warned(of(by).optimizer(named(), driver=driver))
    assert told.startswith("'l2', 'momentum': the rule ") and "takes none of 2 parameters. Change the rule" in told


def test_a_label_to_which_no_parameter_falls_warns_once():
    (told,) = warned(two({"a": "*.bias"}).optimizer(named()))
    assert told.startswith("no parameter falls to 'a': its rule '*.bias' takes none of 2. Change the rule")
    (told,) = warned(two(lambda name, p: "b").optimizer(named()))
    assert told.startswith("no parameter falls to 'a': <function") and "gives it to none of 2" in told


@pytest.mark.parametrize("by", [matrices, ~biases_and_norms])
def test_rules_on_shapes_may_take_none_and_need_no_names(by):
    assert not warned(of(by).optimizer([param(3)]))
    assert not warned(two({"a": by}).optimizer([param(3)]))
    assert not warned(two({"a": "*"}).optimizer(named())), "what no rule takes may be nothing"
    assert not warned(presets.mars().optimizer([param(3)]))


def test_a_mask_by_name_that_sees_no_names_warns_once():
    (told,) = warned(of("*.bias").optimizer([param(3), param(2)]))
    assert "goes by names, but found 2 parameters without names. Pass named_parameters() or call bind_names()" in told


def test_names_that_come_before_the_first_step_are_in_time():
    net = nn.Sequential(nn.Linear(3, 2))
    optimizer = of("*.bias").optimizer(net.parameters())
    optimizer.bind_names(net.named_parameters())
    assert not warned(optimizer)
    late = of("new").optimizer(named())
    late.add_param_group({"params": [("new", param(2))]})
    assert not warned(late)


def test_a_partition_by_names_over_nameless_parameters_warns_when_it_is_made():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    with pytest.warns(ChainWarning, match=r"by rules on names \(hidden_matrices for 'muon'\), but found 3 parameters without"):
        optimizer = MuonAdamW(net.parameters())
    assert not warned(optimizer)
    assert not warned(MuonAdamW(net.named_parameters()))
    labeled = [{"params": [net[0].weight], "label": "adamw"}, {"params": [net[1].weight], "label": "muon"}]
    assert not warned(MuonAdamW(labeled))
    with pytest.warns(ChainWarning, match="1 parameters without names"):
        presets.muon_adamw().init([param(3, 3)])


@pytest.mark.parametrize("link", [t.ALoRA(), t.PublishedALoRA(), t.LoRAPlus(), t.LoKrScale(), t.PublishedLoKrScale()])
def test_a_link_for_adapters_that_finds_none_warns_once(link):
    (told,) = warned(chain(link, RATE).optimizer(named()))
    assert told.startswith(f"{link.label!r}: found no pair of adapters; the 2 parameters have no names of adapters.")
    (told,) = warned(chain(link, RATE).optimizer([param(3)]))
    assert "parameters have no names." in told


def test_links_for_different_adapters_warn_together_and_only_where_none_finds_any():
    (told,) = warned(HinaAdamW(named()))
    assert told.startswith("'alora', 'lokr_scale': found no pair")
    lora = [("x.lora_A", param(2, 4)), ("x.lora_B", param(3, 2))]
    assert not warned(HinaAdamW(lora))
    assert not warned(chain(t.LoRAPlus(), RATE).optimizer([lora[0], lora[1], *named()]))
    assert not warned(chain(t.AdapterWeightDecay(weight_decay=0.1), RATE).optimizer(named())), "it decays the others too"


def test_a_near_miss_is_told():
    (told,) = warned(chain(t.ALoRA(), RATE).optimizer([("x.lora_A", param(2, 4))]))
    assert "have near misses (x.lora_A: no B (lora_B or lora_up) of the same name)" in told


def test_a_copy_does_not_warn_again():
    optimizer = of("*.bias").optimizer(named())
    assert len(warned(optimizer)) == 1
    assert not warned(copy.deepcopy(optimizer)) and not warned(pickle.loads(pickle.dumps(optimizer)))


def test_steps_in_the_backward_pass_judge_rules_by_all_parameters():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_in_backward(two({"a": "0.*"}), net.named_parameters())
        net(torch.ones(3)).sum().backward()
    with pytest.warns(ChainWarning, match="no parameter falls to 'a'"):
        step_in_backward(two({"a": "2.*"}), net.named_parameters())


def test_a_rule_is_told_when_warnings_are_errors_and_nothing_has_changed():
    p = param(3)
    optimizer = of("*.bias").optimizer([("w", p)])
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    with pytest.raises(ChainWarning):
        optimizer.step()
    assert torch.equal(p, before) and not optimizer.state


def test_the_report_counts_the_parameters_of_labels_and_masks():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    recipe = two({"a": "*.weight"}).map(lambda one: chain(masked(t.L2(weight_decay=0.1), by=matrices), *one.links[1:]))
    report = recipe.optimizer(net.named_parameters()).report()
    assert report.labels == {"a": {"parameters": 3, "elements": 44}, "b": {"parameters": 2, "elements": 6}}
    assert report.masked == {"a/l2": {"parameters": 3, "of": 3}, "b/l2": {"parameters": 0, "of": 2}}
    lines = str(report).splitlines()
    assert "a: 3 parameters, 44 elements" in lines and "b: 2 parameters, 6 elements" in lines
    assert "b/l2: works on 0 of 2 parameters" in lines
    assert of(biases_and_norms).optimizer(net.named_parameters()).report().masked["l2"] == {"parameters": 2, "of": 5}


def test_a_label_without_parameters_is_in_the_report():
    report = two({"a": matrices}).optimizer([("b", param(3))]).report()
    assert report.labels["a"] == {"parameters": 0, "elements": 0} and "a: 0 parameters, 0 elements" in str(report)
