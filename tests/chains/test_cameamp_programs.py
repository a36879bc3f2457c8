"""CAME, Automagic and CameAMP as published, against the programs in plain numpy, over mixtures of their features."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from golden.load import cases
from reference import came_programs as ancestors
from reference import cameamp_programs as programs

from gradchain import presets

automagic = partial(presets.automagic, published=True)
automagic.__name__ = "automagic"
STEPS, SHAPES = 24, [(7,), (6, 5), (3, 8), (2, 9), (2, 4, 3), (4, 3, 3, 3)]
PROGRAMS = {
    presets.cameamp_improved: programs.improved,
    presets.cameamp_dual: programs.dual,
    presets.cameamp_original: programs.original,
    presets.cameamp_adopt: programs.adopt,
    presets.cameamp_last: programs.last,
    presets.cameamp_ges: programs.ges,
    presets.cameamp_original_8bit: ancestors.original_8bit,
    presets.came: ancestors.came,
    automagic: ancestors.automagic,
}
CHOICES = {  # by keyword: what a mixture may draw; switches are thrown by a coin
    "lr": [1e-3, 6e-4],
    "min_lr": [1e-4, 5e-4],
    "max_lr": [1e-2, 1.5e-3],
    "lr_bump": [3e-4, 1e-4],
    "beta2": [0.999, 0.9],
    "eps": [(1e-30, 1e-16, 1e-8), (1e-12, 1e-6, 1e-8)],
    "clip_threshold": [1.0, 0.23, 3.0],
    "betas": [(0.8, 0.99, 0.999), (0.95, 0.5, 0.9)],
    "beta1_decay": [0.9995, 0.9],
    "weight_decay": [5e-4, 0.5],
    "warmup_steps": [1, 2, 7, 10, 11, 40],
    "edge_threshold": [0.6, 0.1],
    "edge_penalty": [0.1, 0.9],
    "frequency_penalty": [0.05, 0.3],
    "detail_preservation": [0.8, 2.0],
    "rank_penalty_strength": [0.01, 0.2],
    "low_rank_emphasis": [1.2, 0.7],
    "long_term_beta": [0.99, 0.9],
    "alpha_mix_ratio": [None, 0.7],
    "d_coef": [2.0, 5.0],
    "eta": [2.0, 1.5],
    "la_layers": [0, 1, 2, 4],
    "alphas": [(0.6, 0.75, 0.85, 0.85), (0.3, 0.9, 0.5, 0.7)],
    "ks": [(5, 5, 3, 3), (2, 2, 2, 2)],
}


def mixture(preset, random):
    """A value for every keyword of a preset."""
    drawn = {}
    for key, parameter in inspect.signature(preset).parameters.items():
        if isinstance(parameter.default, bool):
            drawn[key] = parameter.default if key == "published" else bool(random.random() < 0.5)
        else:
            value = CHOICES[key][random.integers(len(CHOICES[key]))]
            drawn[key] = fitted(value, parameter.default)
    return drawn


def fitted(value, default):
    """As many of several numbers as this preset has."""
    if not isinstance(value, tuple):
        return value
    return value[: len(default)] if isinstance(default, tuple) else value[0]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("preset", PROGRAMS, ids=lambda preset: preset.__name__)
def test_a_mixture_of_features_is_what_the_program_does(preset, seed):
    random = np.random.default_rng(seed)
    settings = mixture(preset, random)
    size = (1.0, 1.0, 5e-4, 20.0)[seed % 4]
    arrays = [0.5 * random.standard_normal(shape) for shape in SHAPES]
    params = [torch.nn.Parameter(torch.tensor(w)) for w in arrays]
    memories: list[dict] = [{} for _ in SHAPES]
    optimizer = preset(**settings).optimizer(params, driver="reference")
    for t in range(STEPS):
        lr = settings["lr"] * ((1.0, 2.0, 0.5, 0.05)[min(3, t // 6)] if follows(preset, seed) else 1)
        optimizer.param_groups[0]["lr"] = lr
        grads = [None if random.random() < 0.15 else size * random.standard_normal(w.shape) for w in arrays]
        group = np.concatenate([g.ravel() for g in grads if g is not None] or [np.ones(1)])
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            p.grad = None if g is None else torch.tensor(g)
            if g is not None:
                arrays[i] = PROGRAMS[preset](settings, memories[i], arrays[i], g, lr, group)
        optimizer.step()
        for p, w in zip(params, arrays, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-9, atol=1e-9 * abs(w).max(), err_msg=f"{t} {settings}")


def follows(preset, seed):
    """Whether a schedule is tried: the first program overwrote it, and the one with dual momentum compounds it."""
    return seed % 2 and preset not in (presets.cameamp_original, presets.cameamp_dual)


FAMILIES = ("cameamp_improved", "cameamp_other", "came_automagic")
ELSEWHERE = {"enable_dual_momentum", "verbose"}  # refused: what they choose is another preset, or nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_recorded_runs_vary_is_varied_here(family):
    drawn = {}
    for preset in PROGRAMS:
        for seed in range(8):
            for key, value in mixture(preset, np.random.default_rng(seed)).items():
                drawn.setdefault(key, set()).add(value)
    recorded = {key for case in cases(family) for key in case.kwargs} - ELSEWHERE
    assert recorded and all(len(drawn[key]) > 1 for key in recorded)
