"""HinaAdamW: the published program in any combination of its techniques, the plain optimizer without them, sd-scripts' call."""

import ast
import importlib
import random

import numpy as np
import pytest
import torch
from golden.load import cases
from golden.replay import largest_difference
from reference import lora as reference
from training import identical, param, snapshot, steps

from gradchain import ChainError, presets
from gradchain.optim_wrapper import HinaAdamW, HinaAdamWOptimizer

SWITCHES = ["spd", "cautious", "orthogonal_grad", "adopt_stability", "grams", "agr", "tam", "alora"]
FLAGS = [*(f"use_{switch}" for switch in SWITCHES), "dynamic_weight_decay"]
NUMBERS = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.3, "spd_lambda": 0.8, "tam_beta": 0.9}
NUMBERS |= {"alora_ratio": 7.0, "wd_transition_steps": 5, "wd_decay_factor": 0.6, "wd_min_ratio": 0.1}
CASE = next(case for case in cases("hina_lora") if case.name == "hina_lora_alloff")
NAMES = CASE.info["names"]
OFF = dict.fromkeys(FLAGS, False)


def trajectory(recipe, count=20):
    """By the loop: that other drivers give the same is shown in optim_wrapper/test_drivers.py, and they trace every chain."""
    params = {key: torch.nn.Parameter(torch.tensor(start)) for key, start in CASE.initial().items()}
    optimizer = recipe.optimizer([(NAMES[key], p) for key, p in params.items()], driver="reference")
    for i in range(count):
        for key, grad in CASE.gradient(i).items():
            params[key].grad = torch.tensor(grad)
        optimizer.step()
        yield {NAMES[key]: p.detach().clone() for key, p in params.items()}


def last(recipe):
    *_, found = trajectory(recipe)
    return found


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


CHOICES = {  # by keyword, besides the number above: what a mixture may draw
    "lr": 0.003,
    "betas": (0.8, 0.99),
    "eps": 1e-3,
    "weight_decay": 0.01,
    "spd_lambda": 0.06,
    "tam_beta": 0.5,
    "alora_ratio": 16.0,
    "wd_transition_steps": 8,
    "wd_decay_factor": 0.9,
    "wd_min_ratio": 0.4,
}


def mixtures(count):
    """Everything, and random halves of everything, with one of two numbers for every keyword."""
    dice = random.Random(0)
    return [
        NUMBERS | dict.fromkeys(FLAGS, True),
        *(
            {flag: dice.random() < 0.5 for flag in FLAGS}
            | {key: dice.choice([NUMBERS[key], other]) for key, other in CHOICES.items()}
            for _ in range(count)
        ),
    ]


def test_mixtures_vary_every_keyword_of_the_recorded_runs():
    recorded = {key for case in cases("hina_lora") for key in case.kwargs}
    assert recorded <= NUMBERS.keys() | set(FLAGS)
    assert all(len({mixture[key] for mixture in mixtures(16)}) == 2 for key in recorded | NUMBERS.keys())


@pytest.mark.parametrize("given", mixtures(16), ids=lambda given: "".join(str(int(given[flag])) for flag in FLAGS))
def test_any_mixture_of_the_published_techniques_is_the_program_s(given):
    start = {NAMES[key]: value for key, value in CASE.initial().items()}
    gradients = [{NAMES[key]: grad for key, grad in CASE.gradient(i).items()} for i in range(20)]
    wanted = reference.hina_adamw(start, gradients, **given)
    for expected, found in zip(wanted, trajectory(presets.hina_adamw(**given, published=True)), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-9, atol=1e-11, err_msg=name)


def test_decomposed_lokr_replays_as_recorded_too():
    case = next(case for case in cases("hina_lora") if case.info["status"] == "record")
    assert largest_difference(presets.hina_adamw(**case.kwargs, published=True), case) <= case.info["atol"]


@pytest.mark.parametrize("case", [c for c in cases("hina_lora") if "alloff" not in c.name], ids=lambda case: case.name)
def test_the_default_form_is_another_one(case):
    assert largest_difference(presets.hina_adamw(**case.kwargs), case) > (1e-6 if "adopt" in case.name else 1e-5)


def test_with_everything_off_it_is_adamw_bit_for_bit():
    plain = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    assert equal(last(presets.hina_adamw(**plain, **OFF)), last(presets.adamw(**plain)))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("switch", FLAGS)
def test_a_technique_left_out_of_the_chain_is_one_that_was_switched_off(switch, published):
    """Where only that one is on; the weight decay is the constant one when its fading is off."""
    plain = {"lr": 0.01, "published": published, "weight_decay": 0.0}
    with_it = presets.hina_adamw(**plain, **(OFF | {switch: True}))
    without = presets.hina_adamw(**plain, **OFF)
    own = [name for name in with_it.names if name not in without.names and name not in ("adopt", "lagged_moments")]
    assert own or switch == "use_adopt_stability"
    if switch != "use_adopt_stability":  # which is another core, not a link more
        assert equal(last(with_it.without(*own)), last(without))
        if switch != "dynamic_weight_decay":
            assert not equal(last(with_it), last(without))


def test_behind_grams_the_mask_is_left_out():
    for published in (False, True):
        recipe = presets.hina_adamw(published=published)
        assert "grams" in recipe.names and not {"cautious", "agreement_mask"} & set(recipe.names)
        masked = presets.hina_adamw(published=published, use_grams=False)
        assert "grams" not in masked.names and {"cautious", "agreement_mask"} & set(masked.names)


def test_the_configurations_are_the_readme_s():
    language, lokr, sd = (presets.hina_adamw_language(), presets.hina_adamw_lokr(), presets.hina_adamw_sd_lora())
    assert (language["alora"].alora_ratio, language["learning_rate"].lr) == (20.0, 5e-4)
    assert lokr["lokr_scale"].lokr_ratio == pytest.approx(0.6 * 18)
    assert lokr["dynamic_weight_decay"].wd_min_ratio == 0.18 and lokr["dynamic_weight_decay"].wd_transition_steps == 600
    assert sd["dynamic_weight_decay"].wd_decay_factor == 0.75 and sd["learning_rate"].lr == 8e-4
    assert presets.hina_adamw_lokr(lr=0.5, published=True) == presets.hina_adamw(
        lr=0.5, alora_ratio=18.0, wd_transition_steps=600, wd_decay_factor=0.8, wd_min_ratio=0.18, published=True
    )


@pytest.mark.parametrize("keyword", ["amsgrad", "optim_bits", "args", "min_8bit_size", "block_wise", "is_paged"])
def test_what_the_program_ignored_is_refused_with_the_reason(keyword):
    said = rf"hina_adamw does not take '{keyword}': the program handed it to bitsandbytes, where nothing read it\. Leave it out"
    with pytest.raises(ChainError, match=said):
        presets.hina_adamw(**{keyword: 1})
    with pytest.raises(ChainError, match=said):
        HinaAdamW([param(2, 3)], **{keyword: 1})
    with pytest.raises(TypeError, match="hina_adamw takes no keyword 'use_lr_mask'"):
        presets.hina_adamw(use_lr_mask=True)


def network():
    """Parameters of a LoRA network by name, as sd-scripts' networks have them, B at zero."""
    tensors = {}
    for layer in ("lora_unet_down_blocks_0_to_q", "lora_unet_down_blocks_0_to_k"):
        tensors[f"{layer}.lora_down.weight"] = param(4, 10)
        tensors[f"{layer}.lora_up.weight"] = torch.nn.Parameter(torch.zeros(8, 4))
    return tensors


def groups(tensors, lr=1e-3, ratio=None):
    """sd-scripts' prepare_optimizer_params: one group, or with LoRA+ one more for B; params are views of dicts."""
    parts = {"lora": {}, "plus": {}}
    for name, tensor in tensors.items():
        parts["plus" if ratio is not None and "lora_up" in name else "lora"][name] = tensor
    rates = {"lora": lr, "plus": lr * (ratio or 1)}
    return [{"params": part.values(), "lr": rates[key]} for key, part in parts.items() if part]


@pytest.mark.parametrize("ratio", [None, 4.0], ids=["one group", "lora+"])
@pytest.mark.parametrize("published", ["True", "False"])
def test_sd_scripts_can_name_it_and_pass_arguments(ratio, published):
    """--optimizer_type gradchain.optim_wrapper.HinaAdamW --optimizer_args ..., as sd-scripts reads them."""
    path = "gradchain.optim_wrapper.HinaAdamW"
    lowered = path.lower()
    assert not lowered.endswith(("8bit", "schedulefree")) and not lowered.startswith("dadapt")
    given = [
        "betas=(0.9,0.99)",
        "weight_decay=0.05",
        "use_spd=True",
        "alora_ratio=18.0",
        f"published={published}",
        "driver='reference'",
    ]
    kwargs = {key: ast.literal_eval(value) for key, value in (item.split("=") for item in given)}
    module, _, name = path.rpartition(".")
    tensors = network()
    optimizer = getattr(importlib.import_module(module), name)(groups(tensors, ratio=ratio), lr=1e-3, **kwargs)
    assert [n for group in optimizer.param_groups for n in group["param_names"]] == sorted(
        tensors, key=lambda n: (ratio is not None and "lora_up" in n, list(tensors).index(n))
    )
    before = {n: p.detach().clone() for n, p in tensors.items()}
    steps(optimizer, 5)
    assert all(p.isfinite().all() and not torch.equal(p, before[n]) for n, p in tensors.items())
    found = optimizer.report().findings["published_alora" if published == "True" else "alora"]
    if ratio is None or published == "False":
        assert [(pair["A"], pair["B"]) for pair in found["pairs"]] == list(zip(*[iter(tensors)] * 2, strict=True))
    else:
        assert found == {"pairs": [], "B without a partner": [name for name in tensors if "lora_up" in name]}


def test_accelerate_s_round_trip_changes_nothing():
    optimizer = HinaAdamW(groups(network(), ratio=4.0))
    steps(optimizer, 3)
    before = snapshot(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    after = snapshot(optimizer)
    assert identical(before, after)


def test_a_scalar_of_lokr_is_trained():
    """AGR would stop a parameter of one element, and LyCORIS' scalar, which starts at zero, would keep all others at rest."""
    scalar = torch.nn.Parameter(torch.zeros(()))
    optimizer = HinaAdamW([("w.lokr_w1", param(2, 2)), ("w.lokr_w2", param(3, 3)), ("w.scalar", scalar)], weight_decay=0.0)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    for _ in range(3):
        optimizer.step()
    assert scalar != 0


def test_without_names_the_published_form_does_what_it_does_without_names():
    """ALoRA, LoKr scaling and the fading are out of reach: the same as all off."""
    given = dict(zip(NAMES.values(), CASE.initial().values(), strict=True))
    nameless = [torch.nn.Parameter(torch.tensor(value)) for value in given.values()]
    optimizer = presets.hina_adamw(**NUMBERS, **(OFF | {"use_alora": True, "dynamic_weight_decay": True}), published=True)
    optimizer = optimizer.optimizer(nameless)
    for i in range(20):
        for p, grad in zip(nameless, CASE.gradient(i).values(), strict=True):
            p.grad = torch.tensor(grad)
        optimizer.step()
    wanted = last(presets.hina_adamw(**NUMBERS, **OFF, published=True))
    assert all(torch.allclose(p, wanted[name], rtol=0, atol=1e-12) for p, name in zip(nameless, given, strict=True))


def test_the_program_s_class_name_is_an_alias():
    assert HinaAdamWOptimizer is HinaAdamW


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_named_pairs_compile_into_one_graph(published):
    torch._dynamo.reset()
    pair = []
    for _ in "ab":
        lora = dict(list(network().items())[:2])
        tensors = lora | {"w.lokr_w1": param(2, 2), "w.lokr_w2_a": param(3, 2), "w.lokr_w2_b": param(2, 3)}
        pair.append(presets.hina_adamw(published=published).optimizer(groups(tensors, ratio=2.0)))
    compiled = pair[1]
    for optimizer in pair:
        steps(optimizer)  # makes the state, which another graph would do
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend="eager")
    for optimizer in pair:
        steps(optimizer, 2, start=1)
    for one, other in zip(*([p for g in o.param_groups for p in g["params"]] for o in pair), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
