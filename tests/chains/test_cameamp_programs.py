"""CameAMP's presets of the published programs, against the programs in plain numpy, over mixtures of their features."""

import inspect

import numpy as np
import pytest
import torch
from reference import cameamp_programs as programs

from gradchain import presets

STEPS, SHAPES = 24, [(7,), (6, 5), (3, 8), (2, 9), (2, 4, 3), (4, 3, 3, 3)]
PROGRAMS = {
    presets.cameamp_improved: programs.improved,
    presets.cameamp_dual: programs.dual,
    presets.cameamp_original: programs.original,
    presets.cameamp_adopt: programs.adopt,
    presets.cameamp_last: programs.last,
    presets.cameamp_ges: programs.ges,
}
CHOICES = {  # by keyword: what a mixture may draw; switches are thrown by a coin
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
RATES = {"lr": 1e-3, "min_lr": 1e-4, "max_lr": 1e-2, "lr_bump": 3e-4}


def mixture(preset, random):
    """A value for every keyword of a preset."""
    drawn = dict(RATES)
    for key, parameter in inspect.signature(preset).parameters.items():
        if isinstance(parameter.default, bool):
            drawn[key] = bool(random.random() < 0.5)
        elif key not in RATES:
            value = CHOICES[key][random.integers(len(CHOICES[key]))]
            drawn[key] = value[: len(parameter.default)] if isinstance(value, tuple) else value
    return drawn


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("preset", PROGRAMS, ids=lambda preset: preset.__name__)
def test_a_mixture_of_features_is_what_the_program_does(preset, seed):
    random = np.random.default_rng(seed)
    settings = mixture(preset, random)
    size = (1.0, 1.0, 5e-4, 20.0)[seed % 4]
    arrays = [0.5 * random.standard_normal(shape) for shape in SHAPES]
    params = [torch.nn.Parameter(torch.tensor(w)) for w in arrays]
    memories: list[dict] = [{} for _ in SHAPES]
    optimizer = preset(**settings).optimizer(params, driver="loop")
    for t in range(STEPS):
        lr = optimizer.param_groups[0]["lr"] = 1e-3 * (1.0, 2.0, 0.5, 0.05)[min(3, t // 6)] if follows(preset, seed) else 1e-3
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
