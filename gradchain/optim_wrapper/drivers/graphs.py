"""Programs as graphs: what depends on numbers alone is worked out on the host, the rest can be compiled.

A bias correction written inside a compiled chain would be worked out for every element; here it enters the graph as a
number. The compiler is called below dynamo: the plan of the driver takes the place of guards.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from gradchain.optim_wrapper.drivers.program import Program
from gradchain.optim_wrapper.drivers.vectorized import decompositions, prepared

Function = Callable[..., Sequence[Any]]
NUMBERS_FIRST_SEEN: dict[str, Function] = {}  # host parts by their code: programs of one chain have the same

# Large parameters: no value is stored between a reduction and what uses it, but worked out again from what was read anyway.
RECOMPUTE = {"realize_opcount_threshold": 1 << 30, "realize_reads_threshold": 1 << 30, "realize_acc_reads_threshold": 1 << 30}


class Graph:
    """A program, traced. It runs on the inputs at ``places`` and on what ``host`` makes of those at ``numbers``."""

    def __init__(self, program: Program, tensors: Sequence[Tensor], compile: bool) -> None:
        """tensors: as in a call of the program."""
        self.numbers = [i for i, x in enumerate(tensors) if x.dim() == 0 and x.device.type == "cpu"]
        table = decompositions() if compile else None
        traced = make_fx(program, decomposition_table=table, tracing_mode="fake")(*tensors)
        host, self.body, self.places = _parted(traced, self.numbers, compile)
        self.host = NUMBERS_FIRST_SEEN.setdefault(host.code, host.forward)
        self.run: Function = self.body.forward
        self.failure: Exception | None = None  # the compiler's
        if compile:
            self.run, self.failure = compiled(self.body, recompute=not program.stacked)


def _parted(traced: fx.GraphModule, numbers: Sequence[int], compile: bool) -> tuple[fx.GraphModule, fx.GraphModule, list[int]]:
    """The host's part and the rest, with the positions of the inputs that the rest takes ahead of the host's results."""
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    on_host = _of_numbers(traced.graph, [inputs[i] for i in numbers])
    if compile:
        on_host |= prepared(traced.graph, on_host)
    nodes = list(traced.graph.nodes)
    crossing = [node for node in nodes if node in on_host and not on_host.issuperset(node.users)]
    host, rest = fx.Graph(), fx.Graph()
    in_host: dict[fx.Node, fx.Node] = {}
    in_rest: dict[fx.Node, fx.Node] = {}
    for i in numbers:
        in_host[inputs[i]] = host.placeholder(f"number{i}")
    for node in nodes:
        if node in on_host and node.op != "placeholder":
            in_host[node] = host.node_copy(node, in_host.__getitem__)
    host.output(tuple(in_host[node] for node in crossing))
    kept = [i for i, node in enumerate(inputs) if node not in on_host]
    for i in kept:
        in_rest[inputs[i]] = rest.node_copy(inputs[i])
    for i, node in enumerate(crossing):
        in_rest[node] = rest.placeholder(f"number{i}")
        in_rest[node].meta["val"] = node.meta["val"]
    for node in nodes:
        if node not in on_host and node.op != "placeholder":
            in_rest[node] = rest.node_copy(node, in_rest.__getitem__)
    return fx.GraphModule(traced, host), fx.GraphModule(traced, rest), kept


def _of_numbers(graph: fx.Graph, numbers: list[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on these numbers alone, and are numbers on the host."""
    found = set(numbers)
    for node in graph.nodes:
        value = node.meta.get("val")
        number = isinstance(value, Tensor) and value.dim() == 0 and value.device.type == "cpu"
        if node.op == "call_function" and number and found.issuperset(node.all_input_nodes) and not _writes(node):
            found.add(node)
    return found


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or schema.is_mutable


def compiled(body: fx.GraphModule, recompute: bool) -> tuple[Function, Exception | None]:
    """The graph through inductor; or as it is, with what the compiler raised, where no form of it compiles."""
    failures: list[Exception] = []
    for options in (RECOMPUTE, {}) if recompute else ({}, RECOMPUTE):
        try:
            return _through_inductor(body, options), None
        except Exception as error:  # whatever a compiler may raise
            failures.append(error)
    return body.forward, failures[0]


def _through_inductor(body: fx.GraphModule, options: dict[str, Any]) -> Function:
    copy = fx.GraphModule(body, body.graph)  # inductor edits the graph that it is given
    copy.graph = fx.Graph()
    copy.graph.output(copy.graph.graph_copy(body.graph, {}))
    examples = [node.meta["val"] for node in body.graph.nodes if node.op == "placeholder"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's about itself, at its first import: no failure
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx_inner

        with config.patch(options):
            call = compile_fx_inner(copy, examples)
    return lambda *tensors: call(list(tensors))
