"""The presets of the CameAMP family: arguments, phases, what is left when links go, input that is no gradient."""

import inspect

import pytest
import torch

from gradchain import ChainError, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper import CameAMPLora

FAMILY = {
    "came": presets.came,
    "automagic": presets.automagic,
    "cameamp": presets.cameamp,
    "cameamp_improved": presets.cameamp_improved,
    "cameamp_dual": presets.cameamp_dual,
    "cameamp_original": presets.cameamp_original,
    "cameamp_original_8bit": presets.cameamp_original_8bit,
    "cameamp_adopt": presets.cameamp_adopt,
    "cameamp_last": presets.cameamp_last,
    "cameamp_ges": presets.cameamp_ges,
}
EVERY = pytest.mark.parametrize("preset", FAMILY.values(), ids=FAMILY)


def train(recipe, gradients, shapes=((3, 4), (5,), (1,)), lr=1e-3, driver="auto"):
    """Parameters after these gradients, each of which is a rule from shape to tensor."""
    params = [torch.nn.Parameter(torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)) for shape in shapes]
    optimizer = recipe.optimizer(params, lr=lr, driver=driver)
    for rule in gradients:
        for p in params:
            p.grad = rule(p.shape)
        optimizer.step()
    return params


def short(preset, **settings):
    """The preset with a warm-up of six steps, where it has one."""
    return preset(**({"warmup_steps": 6} if "warmup_steps" in inspect.signature(preset).parameters else {}), **settings)


@EVERY
def test_without_all_that_can_go_it_is_gradient_descent_bit_for_bit(preset):
    recipe = short(preset)
    bare = recipe
    while removable := [link.label for link in bare.links if link.removable and "learning_rate" not in link.traits]:
        try:
            bare = bare.without(removable[-1])
        except ChainError:  # what reads its slot has to go first
            bare = bare.without(*removable[-2:])
    assert set(bare.names) <= {"signal", "apply_scale", "learning_rate"}
    steps = [lambda shape, i=i: torch.sin(torch.arange(shape.numel()) + i).reshape(shape) for i in range(4)]
    for ours, plain in zip(*(train(recipe, steps, driver="reference") for recipe in (bare, presets.sgd(lr=1e-3))), strict=True):
        assert torch.equal(ours, plain)


SOUND = (presets.came, presets.automagic, presets.cameamp)
# the published forms square gradients, and products of them, without a thought of their range
SIZES = [(p, size) for p in FAMILY.values() for size in (0.0, 1e-30, 1e-12, 1e12, 1e30) if p in SOUND or size < 1e30]


@pytest.mark.parametrize(("preset", "size"), SIZES, ids=[f"{p.__name__}-{size}" for p, size in SIZES])
def test_gradients_of_any_size_leave_finite_parameters(preset, size):
    wave = [lambda shape, i=i: size * torch.sin(torch.arange(shape.numel()) + i).reshape(shape) for i in range(14)]
    same = [lambda shape: torch.full(shape, size)] * 14
    for steps in (wave, same):
        for p in train(short(preset), steps, shapes=((3, 4), (5,), (1,), (), (0,), (1, 1), (12, 13))):
            assert p.isfinite().all()


def working(recipe, step):
    """The links at work in this step."""
    return {link.label for link in recipe.links if link.window[0] <= step and (link.window[1] is None or step < link.window[1])}


def test_four_phases_in_the_length_of_the_warm_up():
    recipe = presets.cameamp(warmup_steps=10)
    early, late, stable, mature = (working(recipe, step) for step in (4, 5, 10, 20))
    assert working(recipe, 9) == late and working(recipe, 19) == stable and working(recipe, 1000) == mature
    assert early - late == {"tam", "low_rank_emphasis", "grams", "edge_suppression", "orthogonal_gradient"}
    assert late - early == {"cautious", "background_regularization"}
    assert late - stable == {"spatial_awareness", "origin_spd"} and not stable - late
    assert stable - mature == {"frequency_penalty", "rank_penalty"}
    assert mature - stable == {"mature_frequency_penalty", "mature_rank_penalty"}
    assert recipe["mature_rank_penalty"].rank_penalty_strength == pytest.approx(
        0.3 * recipe["rank_penalty"].rank_penalty_strength
    )
    assert recipe["lr_mask"].warmup_steps == 10


def test_a_warm_up_of_one_step_has_no_early_phase():
    assert not {"tam", "grams", "origin_spd"} & set(presets.cameamp(warmup_steps=1).names)


def test_forms_and_settings_are_those_of_the_readme():
    lora, full = presets.cameamp_lora(), presets.cameamp_full_finetune()
    assert lora == presets.cameamp()
    assert set(lora.names) - set(full.names) == {
        "rank_penalty",
        "mature_rank_penalty",
        "low_rank_emphasis",
        "allora",
        "origin_spd",
    }
    assert set(full.names) - set(lora.names) == {"spd"}
    image, language = presets.cameamp_image(), presets.cameamp_language()
    assert image["learning_rate"].lr == 1e-4 and image["frequency_penalty"].frequency_penalty == 0.08
    assert language["learning_rate"].lr == 2e-5
    assert not {"edge_suppression", "spatial_awareness", "frequency_penalty"} & set(language.names)


def test_every_switch_of_a_form_can_be_set_otherwise():
    assert "edge_suppression" not in presets.cameamp_lora(edge_suppression=False).names
    assert "rank_penalty" in presets.cameamp_full_finetune(lora_rank_penalty=True).names
    optimizer = CameAMPLora([torch.nn.Parameter(torch.ones(2, 2))], edge_suppression=False, driver="reference")
    assert "edge_suppression" not in optimizer.chain.names


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"lr": 0.0}, r"'cameamp': lr must be a number in \(0, inf\); found 0\.0\. Pass"),
        ({"lr": "fast"}, r"lr must be a number in \(0, inf\), .*; found 'fast'\. Pass"),
        ({"min_lr": 1e-3}, r"min_lr must be below max_lr; found 0\.001 and 0\.001"),
        ({"warmup_steps": 0}, r"warmup_steps must be a whole number in \[1, inf\); found 0"),
        ({"warmup_steps": "long"}, r"warmup_steps must be a whole number in \[1, inf\); found 'long'"),
        ({"edge_threshold": 1.0}, r"edge_threshold must be a number in \(0, 1\); found 1\.0"),
        ({"edge_suppression": "no"}, r"edge_suppression must be a bool; found 'no'"),
        ({"betas": (0.9, 0.99)}, r"betas must be 3 numbers, .*; found \(0\.9, 0\.99\)"),
        ({"tam_correlation_method": "cosine"}, r"tam_correlation_method must be one of 'auto', .*; found 'cosine'"),
        ({"verbose": True}, r"does not take 'verbose': .*report"),
        ({"tam_use_inplace_ops": True}, r"does not take 'tam_use_inplace_ops': .*broken"),
        ({"tam_large_tensor_threshold": 9}, r"does not take 'tam_large_tensor_threshold': .*vectorized"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, complaint):
    with pytest.raises(ChainError, match=complaint):
        presets.cameamp(**settings)


@pytest.mark.parametrize("keyword", ["eta", "full_finetune", "verbose"])
def test_what_the_improved_version_ignored_is_refused(keyword):
    with pytest.raises(ChainError, match=f"cameamp_improved does not take '{keyword}'"):
        presets.cameamp_improved(**{keyword: True})


def test_the_torque_can_be_taken_by_rows():
    assert "row_tam" in presets.cameamp(tam_correlation_method="vectorized").names


def test_betas_and_eps_all_have_their_place():
    recipe = presets.cameamp(betas=(0.7, 0.8, 0.9), eps=(1e-3, 1e-4, 1e-5))
    assert (recipe["falling_momentum"].momentum, recipe["mean_square"].beta2, recipe["confidence"].beta3) == (0.7, 0.8, 0.9)
    assert (recipe["mean_square"].eps1, recipe["confidence"].eps2, recipe["tam"].tam_eps) == (1e-3, 1e-4, 1e-5)


def test_a_strategy_of_one_s_own_is_a_link_between_agr_and_signal():
    longer = presets.cameamp().insert_before("signal", t.UpdateLaplacian(c2=0.1))
    assert longer.names.index("agr") < longer.names.index("update_laplacian") < longer.names.index("mean_square")
    other = presets.came().replace(residual_momentum=t.FallingMomentum())
    assert "falling_momentum" in other.names


def test_orthogonal_is_what_the_successor_of_the_improved_version_added():
    added = set(presets.cameamp_improved(orthogonal=True).names) - set(presets.cameamp_improved().names)
    assert added == {"orthogonal_gradient"}


def test_taking_turns_needs_no_naming():
    assert chain(t.Phase(t.Grams(), stop=3), t.Phase(t.Cautious(), start=3), t.LearningRate()).names[0] == "grams"
