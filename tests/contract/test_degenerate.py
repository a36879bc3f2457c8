"""Input that no formula likes, over all presets: finite parameters, or untouched ones behind the gate."""

import pytest
import torch
from table import PRESETS

from gradchain import SharedTransform

ROWS = pytest.mark.parametrize("recipe", list(PRESETS.values()), ids=PRESETS)
UNSHARED = {k: v for k, v in PRESETS.items() if not any(isinstance(link, SharedTransform) for link in v.links)}
SHAPES = [(3, 4), (1,), (), (0,), (1, 1), (2, 2, 2)]
CASES = {  # (parameters, gradients)
    "zero gradients": (1.0, 0.0),
    "all zero": (0.0, 0.0),
    "equal values": (0.5, 0.25),
    "huge": (1.0, 1e30),
    "tiny": (1.0, 1e-30),
    "tiny everywhere": (1e-30, 1e-30),
}


def made(value):
    return [torch.nn.Parameter(torch.full(shape, value)) for shape in SHAPES]


@ROWS
def test_degenerate_values_leave_finite_parameters(recipe):
    for case, (value, gradient) in CASES.items():
        params = made(value)
        optimizer = recipe.optimizer(params, lr=1e-3)
        for sign in (1, 1, -1):
            for p in params:
                p.grad = torch.full_like(p, sign * gradient)
            optimizer.step()
        assert all(p.isfinite().all() for p in params), case


@ROWS
def test_frozen_parameters_stay_and_keep_no_state(recipe):
    params = made(0.5)
    optimizer = recipe.optimizer([p.requires_grad_(False) for p in params])
    optimizer.step()
    assert all((p == 0.5).all() and not optimizer.state.get(p) for p in params)


@pytest.mark.parametrize("recipe", UNSHARED.values(), ids=UNSHARED)
def test_without_the_gate_nan_stays_in_its_parameter_where_no_link_looks_at_several(recipe):
    params, alone = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)], [torch.nn.Parameter(torch.ones(3, 4))]
    optimizer, reference = recipe.optimizer(params, driver="stacked"), recipe.optimizer(alone)
    for number in (0.5, -0.25):
        params[0].grad, params[1].grad = torch.full((3, 4), torch.nan), torch.full((3, 4), number)
        alone[0].grad = params[1].grad.clone()
        optimizer.step()
        reference.step()
    assert params[1].isfinite().all() and torch.allclose(params[1], alone[0])


@ROWS
def test_gradients_that_are_not_finite_change_nothing_behind_the_gate(recipe):
    for bad in (float("nan"), float("inf")):
        params = made(0.5)
        optimizer = recipe.optimizer(params, finite_gate=True)
        for p in params:
            p.grad = torch.full_like(p, bad)
        optimizer.step()
        assert all((p == 0.5).all() for p in params)
