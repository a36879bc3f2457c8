"""AdaptiveHina as published: any mixture of its techniques against one program that has them all."""

import numpy as np
import pytest
import torch
from golden.load import cases
from reference.adaptive_hina import PUBLISHED, Program

from gradchain import ChainError, presets

SHAPES = [(7,), (6, 5), (5, 6), (6, 5), (4, 3, 3, 3), (3, 6), (8, 9), (2,), (1,), ()]
IGNORED = ["amsgrad", "optim_bits", "args", "min_8bit_size", "percentile_clipping", "block_wise", "is_paged"]
RECORDED = [c for c in cases("hina_adaptive") if c.info["status"] == "target" and c.info["dtype"] == "float64"]
SWITCHES = [key for key, value in PUBLISHED.items() if isinstance(value, bool)]
CHOICES = {  # by keyword: what a mixture may draw
    "lr": [1e-2, 3e-3],
    "betas": [(0.8, 0.9), (0.9, 0.99)],
    "eps": [1e-8, 1e-3],
    "weight_decay": [0.3, 0.01],
    "spd_lambda": [2.0, 0.06],
    "tam_beta": [0.9, 0.5],
    "adaptation_strength": [1.0, 0.5, 4.0],
    "relationship_discovery_interval": [4, 7],
    "importance_decay": [0.6, 0.95],
    "compatibility_threshold": [0.1, 0.2, 0.3],
    "lr_bump": [5e-4, 1e-4],
    "min_lr": [6e-3, 1e-3],
    "max_lr": [1.15e-2, 3e-2],
    "warmup_steps": [12, 30],
    "wd_transition_steps": [6, 15],
    "wd_decay_factor": [0.7, 0.4],
    "wd_min_ratio": [0.1, 0.6],
}
SEEDS = range(12)


def drawn(seed):
    """Every switch on with a chance of 2/3, a value for every other keyword, and whether relations are found."""
    random = np.random.default_rng(seed)
    mixture = {key: bool(random.random() < 2 / 3) for key in SWITCHES}
    mixture |= {key: values[random.integers(len(values))] for key, values in CHOICES.items()}
    return mixture, bool(random.random() < 2 / 3), random


def test_mixtures_vary_every_keyword_of_the_recorded_runs():
    mixtures = [drawn(seed)[0] for seed in SEEDS]
    recorded = {key for case in cases("hina_adaptive") for key in case.kwargs} - {"use_grams"}  # which did nothing
    assert recorded <= CHOICES.keys() | set(SWITCHES) and PUBLISHED.keys() == CHOICES.keys() | set(SWITCHES)
    assert all(len({mixture[key] for mixture in mixtures}) > 1 for key in PUBLISHED)


def difference(settings, relations, random, driver="reference", steps=30):
    """Over all tensors and steps; gradients are left out at random, and a scheduler lowers the learning rate."""
    start = [random.standard_normal(shape) for shape in SHAPES]
    program = Program(start, relations, **settings)
    params = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    optimizer = presets.adaptive_hina(**settings, relations=relations, published=True).optimizer(params, driver=driver)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 / (1 + 0.1 * k))
    worst = 0.0
    for k in range(steps):
        grads = [random.standard_normal(shape) * random.uniform(0.05, 1) for shape in SHAPES]
        grads[-3] = grads[-3] * (k % 5 > 0)
        grads[3] = grads[3] * (random.random((6, 5)) < 0.5)
        grads = [grad if random.random() < 2 / 3 else None for grad in grads]
        program.step(grads, settings["lr"] / (1 + 0.1 * k))
        for p, g in zip(params, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        scheduler.step()
        worst = max(worst, *(np.abs(p.detach().numpy() - q).max() for p, q in zip(params, program.params, strict=True)))
    return worst, program


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_mixture_of_techniques_runs_as_in_the_program(seed, driver):
    settings, relations, random = drawn(seed)
    worst, program = difference(settings, relations, random, driver)
    assert worst < 1e-11
    assert bool(program.related) == (relations and settings["use_dynamic_adaptation"])


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_the_program_here_is_the_recorded_one(case):
    """The reference itself replays the original, to the precision of its float32 parts."""
    settings = {key: value for key, value in case.kwargs.items() if key != "use_grams"}
    program = Program(case.initial().values(), any("repaired" in note for note in case.info["notes"]), **settings)
    for t in range(case.steps):
        program.step(list(case.gradient(t).values()))
        for key, p in zip(case.expected, program.params, strict=True):
            np.testing.assert_allclose(p, case.expected[key][t], rtol=0, atol=case.info["atol"])


@pytest.mark.parametrize("keyword", IGNORED)
def test_what_the_program_took_and_ignored_is_refused(keyword):
    for published in (True, False):
        with pytest.raises(ChainError, match=f"adaptive_hina does not take '{keyword}': .*bitsandbytes.* Leave it out"):
            presets.adaptive_hina(published=published, **{keyword: None})
    with pytest.raises(ChainError, match="does not take"):
        presets.adaptive_hina_sd_lora(**{keyword: None})


def test_grams_is_in_the_default_form_and_changes_nothing_in_the_published_one():
    assert "grams" in presets.adaptive_hina().names
    assert presets.adaptive_hina(published=True, use_grams=True) == presets.adaptive_hina(published=True, use_grams=False)


def test_relations_are_found_by_default_and_in_the_published_form_when_asked_for():
    assert "relations" in presets.adaptive_hina().names
    assert not {"relations", "last_partner_relations"} & set(presets.adaptive_hina(published=True).names)
    assert "last_partner_relations" in presets.adaptive_hina(published=True, relations=True).names
    for published in (True, False):
        without = presets.adaptive_hina(published=published, relations=True, use_dynamic_adaptation=False)
        assert not {"relations", "last_partner_relations", "importance", "absolute_importance"} & set(without.names)
