"""HinaAdaptive: where its own links stand, what it does not take, what is left without its techniques."""

import pytest
import torch
from golden.load import cases
from golden.replay import largest_difference

from gradchain import ChainError, presets
from gradchain.chains.presets.hina_adaptive import ELSEWHERE

OWN = {"edge_suppression": True, "lora_rank_penalty": True}
OFF = {f"use_{key}": False for key in ("spd", "cautious", "adopt_stability", "grams", "agr", "tam", "lr_mask")}


def last(recipe, steps=6):
    random = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in ((4, 5), (6,), ())]
    optimizer = recipe.optimizer(params)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
    return params


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(last(first), last(second), strict=True))


@pytest.mark.parametrize(
    ("switches", "begin"),
    [
        ({}, ["norm_ceiling", "edge_damping", "top_eigenvalue_l2", "signal"]),
        ({"use_orthogonal_grad": True}, ["norm_ceiling", "edge_damping", "top_eigenvalue_l2", "orthogonal_gradient", "signal"]),
        ({"use_agr": False}, ["edge_damping", "top_eigenvalue_l2", "signal", "monotone_moments"]),
        ({"use_agr": False, "use_adopt_stability": False}, ["edge_damping", "top_eigenvalue_l2", "signal", "moments"]),
    ],
)
def test_its_own_links_stand_behind_agr_and_ahead_of_the_orthogonal_gradient(switches, begin):
    assert list(presets.hina_adaptive(**OWN, **switches).names)[: len(begin)] == begin


@pytest.mark.parametrize("switch", ELSEWHERE)
def test_what_has_no_place_in_it_is_refused_with_the_reason(switch):
    with pytest.raises(ChainError, match=f"hina_adaptive does not take {switch}=True: .* Leave it out"):
        presets.hina_adaptive(**{switch: True})
    assert presets.hina_adaptive(**{switch: False}) == presets.hina_adaptive()


def test_with_every_technique_off_it_is_adam_bit_for_bit():
    off = presets.hina_adaptive(**OFF, dynamic_weight_decay=False, weight_decay=0.0)
    assert same(off, presets.adam(lr=1e-3)) and not same(presets.hina_adaptive(**OWN), presets.adam(lr=1e-3))


@pytest.mark.parametrize("case", [c for c in cases("hina_other") if "hadapt_edge" in c.name or "hadapt_rank" in c.name])
def test_the_recorded_runs_need_its_own_links(case):
    switches = {key: value for key, value in case.kwargs.items() if key not in OWN}
    assert largest_difference(presets.hina_adaptive(**switches), case) > 100 * case.info["atol"]
