"""A chain on one parameter as a graph of torch operations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx.experimental.proxy_tensor import make_fx

from gradchain.optim_wrapper.drivers.program import Program


@dataclass(frozen=True)
class Trace:
    """The operations of one chain on a parameter of one shape."""

    module: fx.GraphModule
    nodes: list[fx.Node]  # without the output
    outputs: list[fx.Node]  # the new parameter and states, or the measurement
    changed: tuple[int, ...]  # positions of the states among the outputs, behind the parameter


def trace(program: Program, tensors: Sequence[Tensor]) -> Trace:
    """Trace a program; tensors as in a call of it. Raises whatever tracing may raise."""
    changed: list[int] = []

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        values, leaves = program.parted(given)
        return program.of_one(changed)(*values, leaves)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's about itself
        module = make_fx(run, tracing_mode="fake")(*tensors)
    module.graph.eliminate_dead_code()
    module.graph = fx_graph_cse(module.graph)
    *nodes, output = module.graph.nodes
    for node in nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(module, str(node.target))
        tags: Any = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            raise ValueError(f"{node.target} draws random numbers, which would be the same for all parameters of a bucket")
    return Trace(module, nodes, list(output.args[0]), tuple(changed))
