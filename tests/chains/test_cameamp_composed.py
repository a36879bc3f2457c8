"""CameAMP as its README means it: the preset beside the references of its techniques, put together in numpy phase by phase."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from links import Flow, settings
from reference import cameamp, directions, lora, regularizers, steps

from gradchain import presets
from gradchain import transforms as t

STEPS, SHAPES = 24, [(7,), (14, 12), (6, 5), (3, 2, 3, 3)]
CHOICES = {  # by keyword: what a mixture may draw; switches are thrown by a coin
    "lr": [1e-3, 6e-4],
    "min_lr": [1e-4, 5e-4],
    "max_lr": [1e-2, 1.5e-3],
    "lr_bump": [3e-4, 1e-4],
    "eps": [(1e-30, 1e-16, 1e-8), (1e-12, 1e-6, 1e-3)],
    "clip_threshold": [1.0, 0.23, 3.0],
    "betas": [(0.8, 0.99, 0.999), (0.95, 0.5, 0.9)],
    "beta1_decay": [0.9995, 0.9],
    "weight_decay": [5e-4, 0.5],
    "warmup_steps": [1, 2, 7, 10, 11],
    "eta": [2.0, 1.5],
    "edge_threshold": [0.6, 0.1],
    "edge_penalty": [0.1, 0.9],
    "frequency_penalty": [0.05, 0.3],
    "detail_preservation": [0.8, 0.3],
    "rank_penalty_strength": [0.01, 0.2],
    "low_rank_emphasis": [1.2, 0.7],
    "tam_correlation_method": ["auto", "manual", "vectorized", "cosine_similarity"],
}


def mixture(random):
    """A value for every keyword of the preset."""
    drawn = {}
    for key, parameter in inspect.signature(presets.cameamp).parameters.items():
        values = CHOICES.get(key, [False, True])
        assert key in CHOICES or isinstance(parameter.default, bool)
        drawn[key] = values[random.integers(len(values))]
    return drawn


def through(flows, rule, link, start=1, stop=None):
    """The flows behind a link that works from step start until the step before stop."""
    at = slice(start - 1, None if stop is None else max(0, stop - 1))
    found = rule(flows[at], **settings(link)) if flows[at] else ()
    known = Flow.__dataclass_fields__.keys()
    changed = [
        replace(f, **{slot: value for slot, value in out.items() if slot in known})
        for f, out in zip(flows[at], found, strict=True)
    ]
    return [*flows[: at.start], *changed, *(flows[at.stop :] if at.stop is not None else [])]


def bumped(flows, bumps, c):
    """The rate of every element over the largest learning rate so far: a bump up while the sign stays, down when it turns."""
    rate, last, peak = np.ones_like(flows[0].param), np.zeros_like(flows[0].param), 0.0
    for step, (f, bump) in enumerate(zip(flows, bumps, strict=True), 1):
        peak, sign = max(peak, f.lr), np.sign(f.grad)
        if step < c["warmup_steps"]:
            rate = np.clip(rate + sign * last * c["lr_bump"] * bump / peak, c["min_lr"] / peak, c["max_lr"] / peak)
        last = np.where(sign == 0, last, sign)
        yield rate


def penalized(flows, c):
    """The gradients, regularized; from twice the warm-up on with 0.3 of the strength."""
    flows, mature = through(flows, directions.agr, t.AGR()), 2 * c["warmup_steps"]
    for share, start, stop in ((1.0, 1, mature), (0.3, mature, None)):
        if c["spatial_awareness"]:
            link = t.FrequencyPenalty(frequency_penalty=share * c["frequency_penalty"])
            flows = through(flows, regularizers.frequency, link, start, stop)
        if c["lora_rank_penalty"]:
            link = t.RankPenalty(rank_penalty_strength=share * c["rank_penalty_strength"])
            flows = through(flows, regularizers.rank_penalty, link, start, stop)
    return [replace(f, grad=f.update) for f in flows]  # what later links compare with


def directed(flows, c, half):
    """Momentum over what it misses, with the signs of the gradients at first, and later without what disagrees with them."""
    if c["came_enabled"]:
        flows = through(flows, cameamp.mean_square, t.MeanSquare(beta2=c["betas"][1], eps1=c["eps"][0]))
        flows = through(flows, steps.normalize, t.Normalize(eps=0.0))
        flows = through(flows, steps.clip_rms, t.ClipUpdateRMS(d=c["clip_threshold"]))
    by_rows = c["tam_correlation_method"] == "vectorized"
    damping, rule = (t.RowTAM, cameamp.row_tam) if by_rows else (t.TAM, directions.tam)
    flows = through(flows, rule, damping(tam_eps=c["eps"][2]), 1, half)
    momentum = t.FallingMomentum(momentum=c["betas"][0], beta1_decay=c["beta1_decay"])
    flows = through(flows, cameamp.falling_momentum, momentum)
    flows = through(flows, cameamp.confidence, t.Confidence(beta3=c["betas"][2], eps2=c["eps"][1]))
    if c["lora_rank_penalty"]:
        emphasis = t.LowRankEmphasis(low_rank_emphasis=c["low_rank_emphasis"])
        flows = through(flows, regularizers.low_rank_emphasis, emphasis, 1, half)
    flows = through(flows, directions.grams, t.Grams(), 1, half)
    if c["edge_suppression"]:
        edges = t.EdgeSuppression(edge_penalty=c["edge_penalty"], edge_threshold=c["edge_threshold"])
        flows = through(flows, regularizers.edge_suppression, edges, 1, half)
    flows = through(flows, directions.cautious, t.Cautious(), half)
    background = t.BackgroundRegularization()
    return through(flows, regularizers.background, background, half) if c["background_regularization"] else flows


def program(flows, c):
    """The steps that the parameters take, from their gradients."""
    W, half = c["warmup_steps"], max(1, int(np.ceil(c["warmup_steps"] / 2)))
    flows, bumps = directed(penalized(flows, c), c, half), [1.0] * len(flows)
    if c["spatial_awareness"]:
        detail = settings(t.SpatialAwareness(detail_preservation=c["detail_preservation"]))
        bumps[: W - 1] = [out["bump_scale"] for out in regularizers.spatial(flows, **detail)][: W - 1]
    flows = [replace(f, update=f.update * rate) for f, rate in zip(flows, bumped(flows, bumps, c), strict=True)]
    if not c["full_finetune"]:
        flows = through(flows, lora.allora, t.ALLoRA(eta=c["eta"]))
    flows = through(flows, directions.orthogonal, t.OrthogonalGradient(), 1, half)
    flows = [replace(f, update=f.lr * f.update) for f in flows]
    if c["full_finetune"]:
        return through(flows, steps.spd, t.SPD(spd_lambda=c["weight_decay"]), 1, W)
    return through(flows, cameamp.origin_spd, t.OriginSPD(spd_lambda=c["weight_decay"], rank_rate=0.1), 1, W)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_a_mixture_of_features_is_the_references_put_together(seed, shape):
    """Every step starts from a parameter that is given, so that the references need none of each other's results."""
    random = np.random.default_rng(seed)
    c = mixture(random)
    rates = c["lr"] * np.array([(1.0, 2.0, 0.5, 0.05)[i // 6] if seed % 2 else 1.0 for i in range(STEPS)])
    params, grads = ([random.standard_normal(shape) for _ in range(STEPS)] for _ in range(2))
    if min(shape) < 10:  # even gradients are background, but of a large matrix all directions behind the first are rounding
        grads = [g if random.random() < 0.6 else 1 + 5e-4 * g for g in grads]
    flows = [Flow(g, g, w, g**2, lr) for g, w, lr in zip(grads, params, rates, strict=True)]
    p = torch.nn.Parameter(torch.tensor(params[0]))
    optimizer = presets.cameamp(**c).optimizer([p])
    for i, (flow, wanted) in enumerate(zip(flows, program(flows, c), strict=True)):
        optimizer.param_groups[0]["lr"] = float(flow.lr)
        with torch.no_grad():
            p.copy_(torch.tensor(flow.param))
        p.grad = torch.tensor(flow.grad)
        optimizer.step()
        found = flow.param - p.detach().numpy()
        np.testing.assert_allclose(found, wanted.update, rtol=1e-8, atol=1e-12, err_msg=f"step {i + 1}, {c}")


def test_mixtures_vary_every_keyword():
    drawn = [mixture(np.random.default_rng(seed)) for seed in range(10)]
    assert all(len({one[key] for one in drawn}) > 1 for key in drawn[0])
