"""Keywords of presets and preset classes: a misspelled one is answered, and the wrapper's options are taken by class."""

import inspect
import pickle

import pytest
import torch
from harness import CLASSES, OPTIONS
from torch import nn

from gradchain import ChainError, ChainOptimizer, chain, optim_wrapper, partition, presets
from gradchain import transforms as t

PRESETS = [name for name in presets.__all__ if name != "suggest_c2"]


def params():
    return [nn.Parameter(torch.ones(2, 2))]


def slipped(word):
    """The word with its third and fourth letter exchanged, or one letter more."""
    return word[:2] + word[3] + word[2] + word[4:] if len(word) > 4 and word[2] != word[3] else word + word[-1]


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is not one.VAR_KEYWORD and len(one.name) > 2]


@pytest.mark.parametrize("name", PRESETS)
def test_a_misspelled_keyword_of_a_preset_is_answered_with_the_nearest(name):
    preset = getattr(presets, name)
    for key in keywords(preset):
        wrong = slipped(key)
        if wrong in keywords(preset):
            continue
        with pytest.raises(ChainError, match=f"takes no keyword {wrong!r}.* Did you mean '") as seen:
            preset(**{wrong: 0.1})
        assert isinstance(seen.value, TypeError) and str(seen.value).startswith(f"{name} takes no keyword")


@pytest.mark.parametrize("name", ["cameamp", "adamw", "muon_adamw", "adaptive_hina", "cameamp_lora"])
def test_the_keyword_that_was_meant_is_named(name):
    with pytest.raises(ChainError, match=f"^{name} takes no keyword 'weigth_decay'.*Did you mean 'weight_decay'"):
        getattr(presets, name)(weigth_decay=0.1)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_misspelled_keyword_of_a_class_is_answered_with_the_nearest(name):
    cls = CLASSES[name]
    for wrong, meant in (("finite_gat", "finite_gate"), ("drivr", "driver"), ("maximise", "maximize"), ("flaten", "flatten")):
        with pytest.raises(ChainError, match=f"takes no keyword {wrong!r}.* Did you mean {meant!r}"):
            cls(params(), **{wrong: True})
    if "weight_decay" in inspect.signature(cls).parameters:
        with pytest.raises(TypeError, match=r"Did you mean 'weight_decay'\?"):
            cls(params(), weigth_decay=0.1)


def test_a_keyword_like_none_has_no_suggestion():
    with pytest.raises(ChainError, match=r"^adamw takes no keyword 'zzz'; it takes: lr, betas, .*\. Use one of these\.$"):
        presets.adamw(zzz=1)


def test_a_refused_keyword_keeps_its_reason():
    for make in (lambda: presets.mars(lr_1d=0.1), lambda: optim_wrapper.MARS(params(), lr_1d=0.1)):
        with pytest.raises(ChainError, match="a group with a learning rate of its own"):
            make()


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: presets.adamw().optimizer(params(), weigth_decay=0.1), "weight_decay"),
        (lambda: presets.muon_adamw().optimizer(params(), weigth_decay=0.1), "weight_decay"),
        (lambda: presets.muon_adamw().optimizer(params(), mouon={"lr": 0.1}), "muon"),
        (lambda: presets.adamw().optimizer(params(), drivr="reference"), "driver"),
        (lambda: presets.adamw().optimizer(params(), maximise=True), "maximize"),
        (lambda: presets.adamw().optimizer(params(), driver="eagr"), "eager"),
        (lambda: presets.adamw().override({"bettas": (0.9, 0.99)}), "betas"),
        (lambda: presets.adamw()["momnts"], "moments"),
        (lambda: presets.adamw().without("normalise"), "normalize"),
        (lambda: presets.adamw().replace(momentz=t.Moments()), "moments"),
        (lambda: presets.adamw().insert_after("moment", t.AGR()), "moments"),
        (lambda: t.Moments(bettas=(0.9, 0.99)), "betas"),
        (lambda: t.LearningRate(rl=0.1, nme="x"), "lr"),
        (lambda: t.Orthogonalize(adjust_lr_fn="orignal"), "original"),
        (lambda: partition({"muon": presets.muon(), "rest": presets.adamw()}, by={"moun": ".*"}), "muon"),
        (lambda: presets.muon_adamw().optimizer([{"params": params(), "label": "adam"}]), "adamw"),
    ],
)
def test_a_misspelled_word_is_answered_with_the_nearest(make, meant):
    with pytest.raises(ChainError, match=rf"Did you mean {meant!r}\?|it takes: .*\b{meant}\b"):
        make()


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_takes_the_options_of_the_wrapper(name):
    shown = inspect.signature(CLASSES[name]).parameters
    wrapper = inspect.signature(ChainOptimizer).parameters
    assert OPTIONS == {key for key, one in wrapper.items() if one.kind is one.KEYWORD_ONLY}
    assert all(shown[key].kind is inspect.Parameter.KEYWORD_ONLY for key in OPTIONS)
    assert {key: shown[key].default for key in OPTIONS} == {key: wrapper[key].default for key in OPTIONS}
    optimizer = CLASSES[name](params(), driver="eager", finite_gate=True, flatten=True, maximize=True)
    found = (optimizer.driver, optimizer.accumulate, optimizer.finite_gate, optimizer.flatten)
    assert found == ("eager", 1, True, True) and optimizer.param_groups[0]["maximize"] is True
    assert CLASSES[name](params(), accumulate=2).accumulate == 2


def test_chains_and_partitions_take_the_options_of_the_wrapper():
    for recipe in (presets.adamw(), presets.muon_adamw()):
        assert OPTIONS <= inspect.signature(recipe.optimizer).parameters.keys()


def test_trainers_know_schedule_free_optimizers_by_the_end_of_their_names():
    for name in ("AdamWScheduleFree", "SGDScheduleFree"):
        optimizer = getattr(optim_wrapper, name)(params(), lr=1e-3)
        assert name in optim_wrapper.__all__ and name.endswith("ScheduleFree")
        optimizer.eval()
        optimizer.train()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_functions_of_their_modules(name):
    """So that they are found by name: by pickle, by a configuration that holds a dotted path."""
    preset = getattr(presets, name)
    assert pickle.loads(pickle.dumps(preset)) is preset and preset.__name__ == name and preset.__doc__
    built = preset()
    assert isinstance(built, type(chain(t.LearningRate()))) or built.parts
