"""The reference is a plain loop that needs nothing of the other drivers."""

import ast
from pathlib import Path

import pytest
import torch
from training import param, python_calls

from gradchain import presets
from gradchain.optim_wrapper.execution import reference

DRIVERS = {"drivers", "execution"}  # packages of the other ways of executing a chain


def test_it_shares_no_code_with_other_drivers():
    tree = ast.parse(Path(reference.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module for module in imported if DRIVERS & set(module.split("."))}


def test_a_parameter_costs_few_python_calls():
    counts = []
    for number in (4, 5):
        params = [param(3, 2, seed=i) for i in range(number)]
        optimizer = presets.adamw().optimizer(params, driver="reference")
        for p in params:
            p.grad = torch.ones_like(p)
        for _ in range(3):
            optimizer.step()
        counts.append(len(python_calls(optimizer.step)))
    assert counts[1] - counts[0] <= 40


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_results_are_stored_in_the_dtype_of_the_parameter(dtype):
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    p.grad = torch.ones_like(p) * (1 + 1j if dtype.is_complex else 1)
    presets.adamw(lr=0.25, weight_decay=0.0, eps=1e-12).optimizer([p], driver="reference").step()
    assert p.dtype == dtype and (p.detach().real - 0.75).abs().max() < 1e-6


def test_nothing_is_written_where_a_later_parameter_fails():
    params = [param(3, seed=0), param(4, seed=1)]
    optimizer = presets.adamw().optimizer(params, driver="reference")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    optimizer.state[params[1]]["moments/first"] = torch.zeros(5)
    with pytest.raises(Exception, match="moments/first"):
        optimizer.step()
    assert all(map(torch.equal, params, before))
