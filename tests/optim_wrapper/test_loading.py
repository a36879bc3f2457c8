"""Loading changes all or nothing, reports what it cannot use, and leaves an optimizer that can step."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training import Everything, identical, param, steps

from gradchain import ChainError, ChainWarning, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.checkpoint import SEEN, SUM

FREE = presets.schedule_free_adamw(lr=0.1)
EMA = chain(presets.adam(lr=0.1), t.WeightEMA(ema_decay=0.7))
ADAM = presets.adam(lr=0.1)


def trained(recipe=ADAM, *params, count=3, **options):
    optimizer = recipe.optimizer(list(params) or [param(4, 5), param(3)], **options)
    steps(optimizer, count)
    return optimizer


def saved_by(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def fails(optimizer, saved, complaint, error=ChainError, **options):
    before = Everything(optimizer)
    with pytest.raises(error, match=complaint):
        optimizer.load_state_dict(saved, **options)
    assert before.unchanged()


def test_a_tensor_without_values_is_refused_and_nothing_changes():
    saved = saved_by(trained())
    saved["state"][1]["moments/second"] = torch.zeros(3, device="meta")
    fails(trained(), saved, "'moments/second' of parameter '0.1' is on the meta device, without values")
    saved["state"][1]["moments/second"] = torch.ones(3).to_sparse()
    fails(trained(), saved, "is torch.sparse_coo, not dense")
    saved = saved_by(trained())
    saved["param_groups"][0]["lr"] = torch.tensor(0.1, device="meta")
    fails(trained(), saved, "the saved lr is a tensor on the meta device")


@pytest.mark.parametrize("recipe", [ADAM, FREE], ids=["adam", "schedule free in evaluation"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["pre", "post", "post, after writing to everything"])
def test_a_hook_that_raises_changes_nothing(recipe, error, when):
    optimizer, other = trained(recipe), trained(recipe, count=5)
    if recipe is FREE:
        optimizer.eval()

    def hook(o, *_):
        if "writing" in when:
            for own in o.state.values():
                for value in own.values():
                    value.zero_()
            o.state.clear()
            o.param_groups[0]["params"][0].data.zero_()
            o.param_groups.clear()
        raise error("no")

    kind = optimizer.register_load_state_dict_pre_hook if when == "pre" else optimizer.register_load_state_dict_post_hook
    handle = kind(hook)
    fails(optimizer, saved_by(other), "no", error)
    handle.remove()
    optimizer.load_state_dict(saved_by(other), strict=True)
    assert identical(optimizer.state_dict(), other.state_dict())


def test_a_hook_that_writes_before_the_checkpoint_is_refused_is_taken_back():
    optimizer = trained()

    def hook(o, saved):
        o.state[o.param_groups[0]["params"][0]]["moments/first"].zero_()
        o.param_groups[0]["lr"] = 7.0

    optimizer.register_load_state_dict_pre_hook(hook)
    fails(optimizer, {"state": {}, "param_groups": []}, "different number of parameter groups", ValueError)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_memory_that_runs_out_changes_nothing(monkeypatch, at):
    optimizer, saved = trained(), saved_by(trained(count=5))
    del optimizer.state[optimizer.param_groups[0]["params"][1]]  # so that it needs new tensors
    before, clone, calls = Everything(optimizer), torch.Tensor.clone, []

    def runs_out(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise torch.OutOfMemoryError("no memory")
        return clone(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "clone", runs_out)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.load_state_dict(saved)
    monkeypatch.undo()
    assert before.unchanged()
    optimizer.load_state_dict(saved, strict=True)
    assert identical(optimizer.state_dict(), saved)


def test_a_mask_that_raises_changes_nothing():
    broken = []

    def only(name, p):
        if broken:
            raise RuntimeError("no rule")
        return p.dim() == 2

    recipe = chain(t.Moments(only=only), t.LearningRate(lr=0.1))
    optimizer, saved = trained(recipe), saved_by(trained(recipe, count=5))
    broken.append(True)
    fails(optimizer, saved, "no rule", RuntimeError)


def test_live_tensors_in_a_checkpoint_are_read_before_they_are_written():
    optimizer = trained(ADAM, param(3), param(3, seed=1))
    a, b = (copy.deepcopy(optimizer.state[p]) for p in optimizer.param_groups[0]["params"])
    swapped = optimizer.state_dict()
    swapped["state"] = {0: swapped["state"][1], 1: swapped["state"][0]}
    optimizer.load_state_dict(swapped)
    now = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    assert identical(now, [b, a])


def test_state_made_in_inference_mode_can_be_loaded_over():
    p = param(3)
    optimizer, saved = presets.adam().optimizer([p]), saved_by(trained(ADAM, param(3)))
    p.grad = torch.ones(3)
    optimizer.state[p] = {key: torch.zeros_like(value) for key, value in saved["state"][0].items()}
    with torch.inference_mode():
        optimizer.state[p]["moments/first"] = torch.zeros(3)
    optimizer.load_state_dict(saved, strict=True)
    assert identical(dict(optimizer.state[p]), saved["state"][0])
    optimizer.step()


# what has another form than a state_dict


def group_of(saved):
    return saved["param_groups"][0]


FORMS = {
    "groups in a dict": (lambda s: s.update(param_groups={0: group_of(s)}), "'param_groups' must be a list; found dict"),
    "no groups": (lambda s: s.update(param_groups=None), "'param_groups' must be a list; found NoneType"),
    "a group in a list": (lambda s: s.update(param_groups=[[0, 1]]), "group 0 must be a dict; found list"),
    "no params": (lambda s: group_of(s).pop("params"), "group 0 has no 'params'; found .*'lr'"),
    "a number for params": (lambda s: group_of(s).update(params=2), "'params' of saved parameter group 0 must be a list .* 2"),
    "a tensor among params": (lambda s: group_of(s).update(params=[0, torch.ones(2)]), "'params' .* must be a list of numbers"),
    "a list among params": (lambda s: group_of(s).update(params=[0, [1]]), "'params' .* must be a list of numbers"),
    "a repeated number": (lambda s: group_of(s).update(params=[1, 1]), "list parameter 1 more than once"),
    "a list of states": (lambda s: s.update(state=[{}, {}]), "'state' must be a dict; found list"),
    "a tensor for a state": (lambda s: s["state"].update({0: torch.ones(2)}), "state of parameter 0 must be a dict of tensors"),
    "a number in a state": (lambda s: s["state"][0].update({3: torch.ones(2)}), "parameter 0 has the key 3, which is no name"),
    "no count": (lambda s: s["state"][0].pop("step"), "state of parameter '0.0' has no 'step'"),
    "a count below 0": (lambda s: s["state"][0].update(step=torch.tensor(-1.0)), "'step' of parameter '0.0' must be .* -1.0"),
    "half a count": (lambda s: s["state"][0].update(step=2.5), r"'step' .* must be a whole number in \[0, inf\); found 2.5"),
    "no number": (lambda s: s["state"][0].update(step=torch.tensor(float("nan"))), "'step' .* found nan"),
    "nan": (lambda s: group_of(s).update(lr=float("nan")), "lr must be a number .*; found nan"),
    "nan in a tensor": (lambda s: group_of(s).update(lr=torch.tensor(float("nan"))), "lr must be a number .*; found nan"),
    "infinity": (lambda s: group_of(s).update(lr=float("inf")), "lr must be a number .*; found inf"),
    "none": (lambda s: group_of(s).update(lr=None), "lr must be a number .*; found None"),
    "one of two": (lambda s: group_of(s).update(betas=[0.9]), "betas must be 2 numbers"),
    "a function": (lambda s: group_of(s).update(lr=len), "a schedule is part of the chain"),
    "numbers for names": (lambda s: group_of(s).update(param_names=[0, 1]), "'param_names' .* must be a list of names"),
    "a word for names": (lambda s: group_of(s).update(param_names="ab"), "'param_names' .* must be a list of names"),
    "a list for a label": (lambda s: group_of(s).update(label=["x"]), "'label' of saved parameter group 0 must be a word"),
    "a word for a mode": (lambda s: group_of(s).update(train_mode="no"), "'train_mode' .* must be True or False; found 'no'"),
    "schedules as a number": (lambda s: group_of(s).update(scheduled=1), "'scheduled' .* must be a list"),
    "a schedule's step": (lambda s: group_of(s).update(scheduled_step=-1), "'scheduled_step' .* must be a whole number"),
    "calls": (lambda s: group_of(s).update(accumulated_calls="3"), "'accumulated_calls' .* must be a whole number"),
    "three eps": (lambda s: group_of(s).update(eps=(1, 2, 3)), "eps must be a number, or Adafactor's two"),
}


@pytest.mark.parametrize(("damage", "complaint"), FORMS.values(), ids=FORMS)
def test_another_form_is_refused_with_what_was_found(damage, complaint):
    saved = saved_by(trained(count=5))
    damage(saved)
    for strict in (False, True):
        fails(trained(), saved, complaint, strict=strict)


def test_what_a_hook_makes_of_a_checkpoint_is_checked_too():
    optimizer = trained()
    optimizer.register_load_state_dict_pre_hook(lambda o, saved: [1, 2])
    fails(optimizer, saved_by(optimizer), "no optimizer state: it is of type list")


# keys


def test_keys_that_fit_no_parameter_are_reported_and_refused_where_strict():
    saved = saved_by(trained())
    saved["state"] = {key + 7: own for key, own in saved["state"].items()}
    fails(trained(), saved, "unused: 7, 8", strict=True)
    optimizer = trained()
    with pytest.warns(ChainWarning, match="unused: 7, 8"):
        report = optimizer.load_state_dict(saved)
    assert report.unused == ("7", "8") and not report.clean and not optimizer.state
    steps(optimizer)
    some = saved_by(trained())
    some["state"]["weight"] = some["state"].pop(1)
    with pytest.warns(ChainWarning, match="unused: weight"):
        report = optimizer.load_state_dict(some)
    assert report.unused == ("weight",) and len(optimizer.state) == 1
    steps(optimizer)


def test_keys_that_json_made_strings_of_are_understood():
    source = trained(count=5)
    saved = saved_by(source)
    keys = json.loads(json.dumps({key: 0 for key in saved["state"]}))
    assert set(keys) == {"0", "1"}
    through = {"state": dict(zip(keys, saved["state"].values(), strict=True))}
    through["param_groups"] = json.loads(json.dumps(saved["param_groups"]))
    optimizer = trained()
    assert optimizer.load_state_dict(through, strict=True).clean
    assert identical(optimizer.state_dict(), source.state_dict())
    through["state"]["2"] = through["state"]["1"]
    with pytest.warns(ChainWarning, match="unused: 2"):
        optimizer.load_state_dict(through)


@pytest.mark.parametrize(
    "recipe",
    [ADAM, presets.adan(), presets.prodigy(), presets.muon_adamw(), chain(t.Moments(), t.LearningRate(lr=lambda step: 0.1))],
    ids=["adam", "adan", "prodigy", "partition", "scheduled"],
)
def test_lists_become_the_tuples_they_were(recipe):
    source, optimizer = trained(recipe, count=5), trained(recipe)
    saved = saved_by(source)
    saved["param_groups"] = json.loads(json.dumps(saved["param_groups"]))
    assert optimizer.load_state_dict(saved, strict=True).clean
    assert identical(optimizer.state_dict(), source.state_dict())
    steps(optimizer, 2)
    optimizer.add_param_group({"params": [param(3, 3)], **({"label": "adamw"} if "label" in saved["param_groups"][0] else {})})
    steps(optimizer)


def test_names_of_earlier_versions_load():
    source = trained(ADAM, param(4, 5), param(3), count=4, accumulate=3)
    saved = saved_by(source)
    assert saved["param_groups"][0][SEEN] == 1 and SUM in saved["state"][0]
    before = copy.deepcopy(saved)
    for own in saved["state"].values():
        own["every_k/sum"] = own.pop(SUM)
    saved["param_groups"][0]["every_k_seen"] = saved["param_groups"][0].pop(SEEN)
    optimizer = ADAM.optimizer([nn.Parameter(p.detach().clone()) for p in source.param_groups[0]["params"]], accumulate=3)
    assert optimizer.load_state_dict(saved, strict=True).clean and identical(optimizer.state_dict(), before)
    for one in (source, optimizer):
        steps(one, 2, start=4)
    assert identical(optimizer.state_dict(), source.state_dict())


# modes


def pair(saver, loader, evaluating):
    """A run saved with its weights, in either mode, and another optimizer that goes on from both."""
    source = trained(saver, p := param(4, 3))
    training = p.detach().clone()
    if evaluating:
        source.eval()
    other = loader.optimizer([q := nn.Parameter(p.detach().clone())])
    return source, other, q, training


@pytest.mark.parametrize("averages", [FREE, EMA], ids=["schedule free", "ema"])
def test_an_average_saved_in_evaluation_does_not_block_a_chain_without_one(averages):
    source, other, q, _ = pair(averages, ADAM, evaluating=True)
    average = q.detach().clone()
    fails(other, saved_by(source), "it was saved in evaluation", strict=True)
    with pytest.warns(ChainWarning, match="it was saved in evaluation, and training goes on from the parameters as they stand"):
        report = other.load_state_dict(saved_by(source))
    assert len(report.remarks) == 1 and torch.equal(q, average) and "train_mode" not in other.param_groups[0]
    steps(other)
    assert not torch.equal(q, average)
    again = ADAM.optimizer([param(4, 3)])
    assert again.load_state_dict(saved_by(other), strict=True).clean


@pytest.mark.parametrize("averages", [FREE, EMA], ids=["schedule free", "ema"])
def test_an_average_saved_in_training_needs_no_remark_in_a_chain_without_one(averages):
    source, other, q, training = pair(averages, ADAM, evaluating=False)
    with pytest.warns(ChainWarning, match="dropped: "):
        report = other.load_state_dict(saved_by(source))
    assert not report.remarks and torch.equal(q, training) and "train_mode" not in other.param_groups[0]
    steps(other)


@pytest.mark.parametrize("live", [True, False], ids=["into training", "into evaluation"])
@pytest.mark.parametrize("evaluating", [True, False], ids=["from evaluation", "from training"])
@pytest.mark.parametrize(("saver", "loader"), [(FREE, FREE), (EMA, EMA), (FREE, EMA), (EMA, FREE)])
def test_training_values_come_back_in_any_chain_with_an_average(saver, loader, evaluating, live):
    source, other, q, training = pair(saver, loader, evaluating)
    if not live:
        weights = q.detach().clone()
        steps(other, 2)
        other.eval()
        q.data.copy_(weights)
    if saver is loader:
        assert other.load_state_dict(saved_by(source), strict=True).clean
    else:
        with pytest.warns(ChainWarning, match="fresh: "):
            assert not other.load_state_dict(saved_by(source)).remarks
    assert other.param_groups[0]["train_mode"] is not evaluating
    other.train()
    assert torch.equal(q, training)
    steps(other)
    other.eval()
    other.train()


@pytest.mark.parametrize("live", [True, False], ids=["into training", "into evaluation"])
def test_a_run_without_an_average_goes_on_with_one(live):
    source, other, q, training = pair(ADAM, EMA, evaluating=False)
    if not live:
        other.eval()
    with pytest.warns(ChainWarning, match="fresh: weight_ema"):
        other.load_state_dict(saved_by(source))
    assert other.param_groups[0]["train_mode"] and torch.equal(q, training)
    steps(other)
    other.eval()


def test_evaluation_before_the_first_step_loads_into_any_chain():
    for loader in (ADAM, EMA, FREE):
        source, p = FREE.optimizer([param(3)]), param(3)
        source.eval()
        optimizer = loader.optimizer([p])
        assert optimizer.load_state_dict(saved_by(source), strict=True).clean
        if loader is not ADAM:
            optimizer.train()
        steps(optimizer)


def test_links_that_a_saved_name_calls_for_are_loaded():
    recipe = chain(t.Moments(only=lambda name, p: "lora" in name), t.LearningRate(lr=0.1))
    source = trained(recipe, ("a.lora_A", param(2, 3)), ("b", param(3)))
    optimizer = recipe.optimizer([param(2, 3), param(3)])
    assert optimizer.load_state_dict(saved_by(source), strict=True).clean
    assert identical(optimizer.state_dict(), source.state_dict())
    steps(optimizer)


@dataclass(frozen=True, kw_only=True)
class TwoEps(t.FirstMoment):
    eps: tuple[float, float] = (0.1, 0.2)


def test_a_pair_of_eps_of_a_link_is_its_own_and_that_of_adafactor_is_split():
    source = trained(chain(TwoEps(eps=(0.3, 0.4)), t.LearningRate(lr=0.1)))
    other = trained(chain(TwoEps(), t.LearningRate(lr=0.1)))
    assert other.load_state_dict(saved_by(source), strict=True).clean and other.param_groups[0]["eps"] == (0.3, 0.4)
    saved = saved_by(trained(presets.adafactor()))
    saved["param_groups"][0]["eps"] = [1e-20, 1e-4]
    adafactor, adam = trained(presets.adafactor()), trained(ADAM)
    assert adafactor.load_state_dict(saved, strict=True).clean
    assert [adafactor.param_groups[0][key] for key in ("eps1", "eps2")] == [1e-20, 1e-4]
    with pytest.warns(ChainWarning, match="dropped: factored_second_moment"):
        adam.load_state_dict(saved)
    assert adam.param_groups[0]["eps"] == 1e-8
