"""The classics against torch.optim: 100 steps in float64, two groups, a scheduler."""

import pytest
import torch
from torch import optim

from gradchain import presets

SHAPES = [(4, 6), (5,), (3, 2, 2), ()]
ROWS = {
    "sgd": (optim.SGD, presets.sgd, {"weight_decay": 0.1}),
    "sgd momentum": (optim.SGD, presets.sgd, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "sgd nesterov": (optim.SGD, presets.sgd, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "adam": (optim.Adam, presets.adam, {"betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    "adam amsgrad": (optim.Adam, presets.adam, {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": (optim.AdamW, presets.adamw, {"weight_decay": 0.1}),
    "adamw amsgrad": (optim.AdamW, presets.adamw, {"amsgrad": True}),
    "nadam": (optim.NAdam, presets.nadam, {"weight_decay": 0.1}),
    "nadam decoupled": (optim.NAdam, presets.nadam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": (optim.RAdam, presets.radam, {"weight_decay": 0.1}),
    "radam decoupled": (optim.RAdam, presets.radam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rmsprop": (optim.RMSprop, presets.rmsprop, {"weight_decay": 0.1}),
    "rmsprop centered": (optim.RMSprop, presets.rmsprop, {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    "adagrad": (optim.Adagrad, presets.adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    "adafactor": (optim.Adafactor, presets.adafactor, {"weight_decay": 0.1}),
}


def train(make, steps=100, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape in SHAPES]
    optimizer = make([{"params": params[:2]}, {"params": params[2:], "lr": 0.03}])
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.sin(3 * p.detach() + 0.1 * step + i) + 0.1 * p.detach()
        optimizer.step()
        schedule.step()
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize(("theirs", "ours", "settings"), ROWS.values(), ids=ROWS)
def test_it_equals_torch_to_rounding(theirs, ours, settings):
    expected = train(lambda groups: theirs(groups, lr=0.01, **settings))
    found = train(lambda groups: ours(lr=0.01, **settings).optimizer(groups))
    tolerance = 1e-8 if theirs is optim.NAdam else 1e-13  # torch keeps NAdam's product of momenta in float32
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_every_torch_default_is_ours():
    for theirs, ours, settings in ROWS.values():
        if "weight_decay" in settings:
            group = theirs([torch.nn.Parameter(torch.zeros(1))]).defaults
            mine = ours().optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults
            shared = group.keys() & mine.keys() - {"eps"}
            assert {key: mine[key] for key in shared} == {key: group[key] for key in shared}


def test_lion_is_the_paper_s_rule():
    def lion(params, b1=0.9, b2=0.99, lr=0.01, decay=0.1):
        m = torch.zeros_like(params)
        for step in range(50):
            g = torch.sin(params + step)
            params = params - lr * (torch.sign(b1 * m + (1 - b1) * g) + decay * params)
            m = b2 * m + (1 - b2) * g
        return params

    start = torch.linspace(-1, 1, 12, dtype=torch.float64)
    param = torch.nn.Parameter(start.clone())
    optimizer = presets.lion(lr=0.01, weight_decay=0.1).optimizer([param])
    for step in range(50):
        param.grad = torch.sin(param.detach() + step)
        optimizer.step()
    torch.testing.assert_close(param.detach(), lion(start), rtol=1e-13, atol=1e-14)


COUPLED = {"decay": "coupled", "weight_decay": 0.1}


@pytest.mark.parametrize("settings", [{}, COUPLED, {**COUPLED, "published": True}], ids=str)
def test_ladam_without_its_laplacian_is_adam_bit_for_bit(settings):
    recipe = presets.ladam(lr=0.01, c2=0.1, **settings)
    extra = [name for name in ("laplacian", "variance_floor") if name in recipe.names]
    bare = train(recipe.without(*extra).optimizer, steps=50, dtype=torch.float32)
    adam = presets.adam(lr=0.01, weight_decay=settings.get("weight_decay", 0.0))
    assert torch.equal(bare, train(adam.optimizer, steps=50, dtype=torch.float32))
    assert not torch.equal(bare, train(recipe.optimizer, steps=50, dtype=torch.float32))
