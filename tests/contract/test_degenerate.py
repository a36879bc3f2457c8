"""Input that no formula likes, over all presets: finite parameters, or untouched ones behind the gate."""

import pytest
import torch
from table import PRESETS

from gradchain import SharedTransform

ROWS = pytest.mark.parametrize("recipe", list(PRESETS.values()), ids=PRESETS)
UNSHARED = {k: v for k, v in PRESETS.items() if not any(isinstance(link, SharedTransform) for link in v.links)}
SHAPES = [(3, 4), (1,), (), (0,), (1, 1), (2, 2, 2), (8, 8)]
EVEN, FIRST, WAVES = torch.ones_like, lambda i: (i == 0).float(), torch.cos  # what gradients are by position
CASES = {  # parameters, gradients, their pattern
    "zero gradients": (1.0, 0.0, EVEN),
    "all zero": (0.0, 0.0, EVEN),
    "equal values": (0.5, 0.25, EVEN),
    "huge": (1.0, 1e30, EVEN),
    "one huge": (1.0, 1e30, FIRST),
    "huge and uneven": (1.0, 1e30, WAVES),
    "huge parameters": (1e30, 1.0, WAVES),
    "tiny": (1.0, 1e-30, WAVES),
    "tiny everywhere": (1e-30, 1e-30, EVEN),
}
OVERFLOW = {  # the start of a preset's name -> the cases in which its own rule leaves the range of float32
    "cameamp_improved": {"one huge", "huge and uneven"},  # edges enter with the gradient's size: its square (EdgeGroupAGR)
    "cameamp_dual": {"one huge", "huge and uneven"},  # likewise
    "hina_adaptive": {"huge parameters"},  # a penalty with the cube of the parameter (TopEigenvalueL2)
    "prodigy": {"huge parameters"},  # the distance is at least the rounding of such parameters, and its sums grow by its square
}


def made(value):
    return [torch.nn.Parameter(torch.full(shape, value)) for shape in SHAPES]


@pytest.mark.parametrize("name", PRESETS)
def test_degenerate_values_leave_finite_parameters(name):
    left_out = set().union(*(cases for start, cases in OVERFLOW.items() if name.startswith(start)))
    for case in CASES.keys() - left_out:
        value, gradient, pattern = CASES[case]
        params = made(value)
        optimizer = PRESETS[name].optimizer(params, lr=1e-3)
        for sign in (1, 1, -1):
            for p in params:
                p.grad = sign * gradient * pattern(torch.arange(p.numel()).float()).view_as(p)
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
    optimizer, reference = recipe.optimizer(params, driver="eager"), recipe.optimizer(alone)
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
