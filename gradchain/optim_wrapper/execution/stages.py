"""A traced chain, cut into stages: C++ functions, and calls of torch's libraries where the chain needs more.

Matrix products, decompositions and Fourier transforms are left to torch. A stage takes and makes tensors of a parameter, which
are known by their columns: parameter, gradient, states, results of shared links, and then the values that cross from one
stage to another. Stages at even positions are for C++.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from gradchain.optim_wrapper.execution.loopable import is_written
from gradchain.optim_wrapper.execution.trace import Trace
from gradchain.optim_wrapper.execution.values import value_of

Form = tuple[torch.Size, torch.dtype]
Result = tuple[fx.Node, int]  # a value, and the column that it goes to


@dataclass
class Stage:
    """Operations that run one after the other for a parameter."""

    trace: Trace
    columns: list[int]  # of its inputs; -1 - k for the k-th number of the host
    outputs: list[int]  # columns of its results


class Cut:
    """The stages of one trace, and the forms of all columns."""

    def __init__(self, trace: Trace, columns: Sequence[int], outputs: Sequence[int]) -> None:
        """columns: of the inputs; outputs: of the results, -1 for a measurement. Raises ValueError where it cannot be cut."""
        self._trace = trace
        inputs = [node for node in trace.nodes if node.op == "placeholder"]
        self._columns = dict(zip(inputs, columns, strict=True))
        self.forms: list[Form] = [_form(node) for node, column in self._columns.items() if column >= 0]
        results = [
            (node, self._new(node) if column < 0 else column) for node, column in zip(trace.outputs, outputs, strict=True)
        ]
        self._levels: dict[fx.Node, int] = {}
        self._on_host: set[fx.Node] = set()  # numbers that are made of numbers of the host alone
        for node in trace.nodes:
            self._assign(node)
        if not any(self._levels.values()):
            self.stages = [Stage(trace, list(columns), [column for _, column in results])]
            return
        writes = self._writes(results)
        count = 1 + max([*self._levels.values(), *writes])
        self._crossing: dict[fx.Node, int] = {}
        for level in range(count):
            for node in self._needs(level, writes.get(level, ())):
                if self._crosses(node, level) and node not in self._crossing:
                    self._crossing[node] = self._new(node)
        self.stages = [self._stage(level, writes.get(level, ())) for level in range(count)]

    def _new(self, node: fx.Node) -> int:
        """A new column for a value."""
        self.forms.append(_form(node))
        return len(self.forms) - 1

    def _assign(self, node: fx.Node) -> None:
        """Find the stage of an operation: the first in which its inputs are known."""
        earlier = [self._levels[one] for one in node.all_input_nodes]
        known: Any = node.meta.get("val")
        if node.op != "call_function":
            self._levels[node] = 0
        elif is_written(node):
            self._levels[node] = max((level + level % 2 for level in earlier), default=0)
        else:
            self._levels[node] = max((level + 1 - level % 2 for level in earlier), default=1)
        given = node.op == "placeholder" and self._columns[node] < 0
        made = node.op == "call_function" and all(one in self._on_host for one in node.all_input_nodes)
        if given or (made and self._levels[node] == 0 and isinstance(known, Tensor) and not known.dim()):
            self._on_host.add(node)
        if node.op == "get_attr":
            self._on_host.add(node)

    def _writes(self, results: Iterable[Result]) -> dict[int, list[Result]]:
        """The results by the stage that writes them: the last that needs the old value, makes the new one, or may raise."""
        read: dict[int, int] = {}
        for node in self._trace.nodes:
            for one in node.all_input_nodes:
                column = self._columns.get(one, -1)
                read[column] = max(read.get(column, 0), self._levels[node] // 2 * 2)
        found: dict[int, list[Result]] = {}
        last = max((read.get(column, 0) for _, column in results), default=0)
        first = max((level + 1 for node, level in self._levels.items() if level % 2 and _may_raise(node)), default=0)
        for node, column in results:
            level = max(self._levels[node] + self._levels[node] % 2, read.get(column, 0), first)
            if node in self._columns:  # a state that becomes another one: all are written together
                level = max(last, first)
            found.setdefault(level, []).append((node, column))
        return found

    def _members(self, level: int) -> list[fx.Node]:
        return [node for node in self._trace.nodes if node.op == "call_function" and self._levels[node] == level]

    def _needs(self, level: int, writes: Iterable[Result]) -> list[fx.Node]:
        """The values that a stage takes, whether or not it makes them."""
        members = self._members(level)
        return [one for node in members for one in node.all_input_nodes] + [node for node, _ in writes]

    def _crosses(self, node: fx.Node, level: int) -> bool:
        """Whether a value that a stage takes has to be handed to it."""
        if node.op == "get_attr":
            return False
        if level % 2:  # torch takes tensors that stand one after the other
            return self._home(node) != level
        return node not in self._columns and node not in self._on_host and self._levels[node] != level

    def _home(self, node: fx.Node) -> int:
        """The stage that hands a value to others."""
        return 0 if node in self._columns or node in self._on_host else self._levels[node]

    def _stage(self, level: int, writes: Sequence[Result]) -> Stage:
        results = [(node, column) for node, column in self._crossing.items() if self._home(node) == level] + list(writes)
        wanted = {*self._members(level), *(node for node, _ in results)}
        inside = set[fx.Node]()
        for node in reversed(self._trace.nodes):
            if node not in wanted or (node.op != "get_attr" and not self._is_inside(node, level)):
                continue
            inside.add(node)
            wanted.update(node.all_input_nodes)
        outside = [node for node in self._trace.nodes if node in wanted - inside]
        part = _part(self._trace, inside, outside, [node for node, _ in results])
        return Stage(part, [self._column(node, level) for node in outside], [column for _, column in results])

    def _is_inside(self, node: fx.Node, level: int) -> bool:
        """Whether a stage makes a value itself: it is its own, or made of numbers of the host."""
        own = self._levels[node] == level or (node in self._on_host and level % 2 == 0)
        return node.op == "call_function" and own

    def _column(self, node: fx.Node, level: int) -> int:
        crosses = level % 2 or node not in self._columns
        return self._crossing[node] if crosses else self._columns[node]


def _part(trace: Trace, inside: set[fx.Node], outside: Sequence[fx.Node], results: Sequence[fx.Node]) -> Trace:
    """The trace of the operations inside, which takes the values outside."""
    graph, root, copied = fx.Graph(), torch.nn.Module(), dict[fx.Node, fx.Node]()
    for node in outside:
        copied[node] = graph.placeholder(node.name)
    for node in (one for one in trace.nodes if one in inside):
        if node.op == "get_attr":
            root.register_buffer(str(node.target), getattr(trace.module, str(node.target)))
        copied[node] = graph.node_copy(node, copied.__getitem__)
    graph.output(tuple(copied[node] for node in results))
    module = fx.GraphModule(root, graph)
    mode: Any = next(value.fake_mode for node in trace.nodes if isinstance(value := node.meta.get("val"), FakeTensor))
    with mode:
        fakes = [torch.empty(value_of(node).shape, dtype=value_of(node).dtype) for node in outside]
    FakeTensorProp(module, mode).propagate_dont_convert_inputs(*fakes)
    *nodes, output = module.graph.nodes
    for node in nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(module, str(node.target))
    made: Any = output.args[0]
    return Trace(module, nodes, list(made), ())


def _may_raise(node: fx.Node) -> bool:
    """Whether a call of torch may fail for some values: decompositions do. Nothing is written before it."""
    return "linalg" in str(node.target)


def _form(node: fx.Node) -> Form:
    value: Any = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise ValueError(f"{node.target} gives several tensors at once, which are needed later")
    return value.shape, value.dtype
