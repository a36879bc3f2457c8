"""Keyword forms of the original programs that mean what the presets do anyway: they are taken."""

import pytest

from gradchain import ChainError, presets
from gradchain.optim_wrapper import AdaptiveHina


@pytest.mark.parametrize(
    ("preset", "keywords"),
    [
        ("cameamp_dual", {"lora_rank_penalty": False}),
        ("cameamp_dual", {"lora_rank_penalty": False, "rank_penalty_strength": 0.3, "low_rank_emphasis": 2.0}),
        ("cameamp_dual", {"enable_dual_momentum": True, "full_finetune": False}),
        ("cameamp_improved", {"full_finetune": False}),
        ("cameamp_improved", {"eta": 2.0, "verbose": False}),
        ("cameamp_adopt", {"clip_threshold": 1.0, "verbose": False}),
        ("cameamp_original", {"verbose": False}),
        ("cameamp", {"tam_use_inplace_ops": False, "verbose": False}),
        ("automagic", {"eps": (1e-30, 1e-3)}),
        ("automagic", {"do_paramiter_swapping": False, "paramiter_swapping_factor": 0.1}),
        ("cameamp_original", {"ks": [5, 5, 3, 3], "alphas": [0.6, 0.75, 0.85, 0.85]}),
    ],
)
def test_a_form_that_changes_nothing_is_taken(preset, keywords):
    assert getattr(presets, preset)(**keywords) == getattr(presets, preset)()


@pytest.mark.parametrize(
    ("preset", "keywords"),
    [
        ("cameamp_dual", {"lora_rank_penalty": True}),
        ("cameamp_dual", {"low_rank_emphasis": 1.2}),
        ("cameamp_dual", {"lora_rank_penalty": True, "low_rank_emphasis": 1.2}),
        ("cameamp_dual", {"lora_rank_penalty": 0}),
        ("cameamp_dual", {"enable_dual_momentum": False}),
        ("cameamp_improved", {"full_finetune": True}),
        ("cameamp_improved", {"eta": 3.0}),
        ("cameamp_improved", {"full_finetune": None}),
        ("cameamp_adopt", {"clip_threshold": 2.0}),
        ("automagic", {"do_paramiter_swapping": True}),
        ("automagic", {"paramiter_swapping_factor": 0.1}),
    ],
)
def test_a_form_that_would_change_something_is_refused(preset, keywords):
    with pytest.raises(ChainError, match=f"{preset} does not take"):
        getattr(presets, preset)(**keywords)


def test_automagic_adds_the_first_of_two_eps_to_the_squares():
    assert presets.automagic(eps=(1e-20, 1e-3)) == presets.automagic(eps=1e-20) != presets.automagic()
    with pytest.raises(ChainError, match=r"eps must be .*; found \(1e-30,\)"):
        presets.automagic(eps=(1e-30,))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_of_lookahead_need_one_share_and_one_interval_each(layers):
    shares, intervals = (0.6, 0.75, 0.85)[:layers], (5, 4, 3)[:layers]
    short = presets.cameamp_original(la_layers=layers, alphas=shares, ks=intervals)["multilayer_lookahead"]
    assert (short.la_alphas[:layers], short.la_ks[:layers]) == (shares, intervals) and len(short.la_ks) == 4
    for key, value in (("alphas", shares[1:]), ("ks", intervals[1:])):
        with pytest.raises(ChainError, match=rf"{layers} la_layers need as many {key}; found|{key} must be"):
            presets.cameamp_original(la_layers=layers, **{key: value})


def test_layers_that_are_not_there_move_nothing():
    from links import run, stream

    from gradchain import transforms as t

    link = presets.cameamp_original(la_layers=2, alphas=(0.5, 0.5), ks=(2, 3))["multilayer_lookahead"]
    flows = stream(5)
    full = t.MultilayerLookahead(la_layers=2, la_alphas=(0.5, 0.5, 0.2, 0.1), la_ks=(2, 3, 7, 1), window=link.window)
    pairs = zip(run(link, flows), run(full, flows), strict=True)
    assert all((a["update"] == b["update"]).all() for a, b in pairs)


def test_earlier_revisions_of_adaptive_hina_are_one_keyword_away():
    published = presets.adaptive_hina(published=True)
    assert presets.adaptive_hina(revision="139d6d5") == published
    assert presets.adaptive_hina(revision="d6cb03f") == presets.adaptive_hina(published=True, use_lr_mask=False) != published
    with_relations = presets.adaptive_hina(published=True, use_lr_mask=False, relations=True)
    assert presets.adaptive_hina(revision="c8493e2") == with_relations
    assert presets.adaptive_hina(revision="c8493e2", relations=False, lr=0.5, use_lr_mask=True) == presets.adaptive_hina(
        0.5, published=True
    )
    assert presets.adaptive_hina(0.5, revision="d6cb03f")["learning_rate"].lr == 0.5
    assert presets.adaptive_hina_sd_lora(revision="d6cb03f")["absolute_importance"].adaptation_strength == 1.2


def test_revisions_that_do_not_exist_and_unpublished_ones_are_refused():
    with pytest.raises(ChainError, match=r"revision must be one of '139d6d5', 'd6cb03f', 'c8493e2'; found '0092c3a'"):
        presets.adaptive_hina(revision="0092c3a")
    with pytest.raises(ChainError, match=r"revision='d6cb03f' is a published form; found published=False"):
        presets.adaptive_hina(revision="d6cb03f", published=False)


def test_the_class_takes_a_revision_too():
    import torch

    optimizer = AdaptiveHina([torch.nn.Parameter(torch.ones(2))], revision="d6cb03f")
    assert "tensor_lr_mask" not in optimizer.chain.names and "absolute_importance" in optimizer.chain.names
