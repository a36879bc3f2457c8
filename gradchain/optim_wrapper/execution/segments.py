"""The part of a chain that depends on a parameter's shape, as one function for all parameters of that shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from gradchain.optim_wrapper.execution.schedule import Segment
from gradchain.optim_wrapper.execution.values import Kind, Values, base_of, is_pointwise, value_of

PLAIN = {
    "cat",
    "stack",
    "sum",
    "mean",
    "mm",
    "addmm",
    "bmm",
    "transpose",
    "unsqueeze",
}  # torch's functions of the same arguments


def compiled_segment(values: Values, segment: Segment, run: int, count: int) -> Callable[..., Any]:
    """The segment for the shape at ``run``: takes what ``given`` lists, stacked where count > 1, and returns its results."""
    trace = values.traces[run]
    graph, known = fx.Graph(), dict[int, fx.Node]()
    root = torch.nn.Module()
    examples: list[Tensor] = []
    stacked: list[bool] = []
    for i in given(values, segment):
        known[i] = graph.placeholder(f"v{i}")
        stacked.append(values.kinds[i] not in (Kind.HOST, Kind.COMMON))
        examples.append(value_of(trace.nodes[i]))
    for i in segment.inputs:
        if i in values.fixed or i in values.constants:
            constant = values.constants[i][run] if i in values.constants else _number(values, i)
            root.register_buffer(f"c{i}", constant)
            known[i] = graph.get_attr(f"c{i}")
    for i in segment.members:
        node = trace.nodes[i]
        known[i] = graph.node_copy(node, lambda one: known[values.root(values.place[one])])
    graph.output(tuple(_in_own_memory(graph, known[i]) for i in segment.results))
    return batched(fx.GraphModule(root, graph), examples, stacked, count)


def batched(module: fx.GraphModule, examples: Sequence[Tensor], stacked: Sequence[bool], count: int) -> Callable[..., Any]:
    """The function of a graph; where count > 1 on stacks of so many of its inputs. examples: of one each."""
    if count > 1:
        dims = tuple(0 if one else None for one in stacked)
        shapes = [(count, *x.shape) if one else tuple(x.shape) for x, one in zip(examples, stacked, strict=True)]
        given = [torch.empty(shape, dtype=x.dtype, device=x.device) for shape, x in zip(shapes, examples, strict=True)]
        module = make_fx(torch.func.vmap(module, in_dims=dims), tracing_mode="fake", _allow_non_fake_inputs=True)(*given)
        module.graph.eliminate_dead_code()
    return _shorter(module).forward


def _in_own_memory(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A result that is not a view of a buffer, which may be written while the result is still needed."""
    schema = getattr(node.target, "_schema", None)
    fresh = schema is not None and not any(one.alias_info is not None for one in schema.returns)
    return node if fresh else graph.call_function(torch.ops.aten.clone.default, (node,))


def given(values: Values, segment: Segment) -> list[int]:
    """The inputs of a segment that are passed to it; the others never change."""
    return [i for i in segment.inputs if i not in values.fixed and i not in values.constants]


def _number(values: Values, i: int) -> Tensor:
    return torch.tensor(values.fixed[i], dtype=value_of(values.first.nodes[i]).dtype, device="cpu")


def _shorter(module: fx.GraphModule) -> fx.GraphModule:
    """The module with torch's functions in place of operations, which take longer to call."""
    for node in module.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            base = base_of(node)
            function = getattr(torch, base, None)
            if function is not None and (is_pointwise(node) or base in PLAIN) and base not in ("where", "_to_copy"):
                node.target = function
    module.recompile()
    return module
