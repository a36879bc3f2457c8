"""Values of the graphs of several shapes, matched with each other and told apart by how many of them there are.

HOST     a Python number, the same for all parameters: made of hyperparameters and step counts
COMMON   a tensor that is the same for all parameters, from a shared link
EACH     one number per parameter, in a vector: reductions, and what is made of them
FLAT     one number per element, in a buffer of all parameters
SHAPED   a tensor for each shape: rows, matrices, neighbors
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, fx

from gradchain.optim_wrapper.execution.scalars import FORMULAS
from gradchain.optim_wrapper.execution.trace import Trace

REDUCTIONS = {"sum.default", "mean.default", "amax.default", "amin.default", "all.default", "any.default"}
SAME = {"alias", "detach", "view", "_unsafe_view", "reshape", "clone", "expand", "lift_fresh_copy"}  # if the shape is the same
FILLED = {"zeros_like": 0.0, "ones_like": 1.0}


class Kind(Enum):
    HOST = 1
    COMMON = 2
    EACH = 3
    FLAT = 4
    SHAPED = 5


def name_of(node: fx.Node) -> str:
    """The operation and its overload, as in "add.Tensor"."""
    return str(node.target).removeprefix("aten.")


def base_of(node: fx.Node) -> str:
    return name_of(node).partition(".")[0]


def value_of(node: fx.Node) -> Tensor:
    """A fake tensor with the form of the node's value."""
    return node.meta["val"]


def is_pointwise(node: fx.Node) -> bool:
    tags: Any = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or base_of(node) in ("_to_copy", "where")


def alike(first: Trace, other: Trace) -> bool:
    """Whether two graphs have the same operations on the same values; numbers and sizes among their arguments may differ."""
    if len(first.nodes) != len(other.nodes) or first.changed != other.changed:
        return False
    place = {node: i for i, node in enumerate(first.nodes)} | {node: i for i, node in enumerate(other.nodes)}

    def form(arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return ("node", place[arg])
        if isinstance(arg, tuple | list):
            return tuple(map(form, arg))
        if isinstance(arg, dict):
            return tuple((key, form(value)) for key, value in arg.items())
        return type(arg) if isinstance(arg, int | float) and not isinstance(arg, bool) else arg

    def same(a: fx.Node, b: fx.Node) -> bool:
        if a.op != b.op or (a.op == "call_function" and a.target != b.target):
            return False
        if a.op == "placeholder":
            return value_of(a).dtype == value_of(b).dtype
        return form(a.args) == form(b.args) and form(a.kwargs) == form(b.kwargs)

    outputs = [place[node] for node in first.outputs] == [place[node] for node in other.outputs]
    return outputs and all(same(a, b) for a, b in zip(first.nodes, other.nodes, strict=True))


class Values:
    """The matched values of some traces, by their position in each: kinds, constants, numbers that differ by shape."""

    def __init__(self, traces: Sequence[Trace], inputs: Sequence[Kind]) -> None:
        """inputs: kinds of what the graphs take. Raises ValueError for operations that cannot be matched."""
        self.traces, self.first = traces, traces[0]
        self.shapes = [value_of(trace.nodes[0]).shape for trace in traces]
        self.place = {node: i for trace in traces for i, node in enumerate(trace.nodes)}
        self.kinds: list[Kind] = []
        self.fixed: dict[int, Any] = {}  # Python numbers that never change
        self.constants: dict[int, list[Tensor]] = {}  # tensors that never change, by shape
        self.same_as: dict[int, int] = {}  # values that are another one
        self.resident: set[int] = set()  # values that segments make, one tensor for each shape
        self.columns: dict[tuple[int, int], list[float]] = {}  # (value, argument) -> numbers by shape, where they differ
        self.fused: dict[int, Any] = {}  # values that are made with others by one operation, see fuse
        given = iter(inputs)
        for i, node in enumerate(self.first.nodes):
            self.kinds.append(next(given) if node.op == "placeholder" else self._kind(i, node))

    def inputs_of(self, i: int) -> list[int]:
        if (fused := self.fused.get(i)) is not None:
            return list(dict.fromkeys([*fused.tensors, *(self.root(self.place[node]) for node in fused.inputs)]))
        return [self.root(self.place[node]) for node in self.first.nodes[i].all_input_nodes]

    def root(self, i: int) -> int:
        """The value itself, of one that is the same as another."""
        while i in self.same_as:
            i = self.same_as[i]
        return i

    def _forms(self, i: int) -> list[torch.Size | None]:
        """Shapes in the graphs; None for operations that give several tensors."""
        found = [value_of(trace.nodes[i]) for trace in self.traces]
        return [value.shape if isinstance(value, Tensor) else None for value in found]  # pyright: ignore[reportUnnecessaryIsInstance]

    def _is_flat(self, i: int) -> bool:
        return self._forms(i) == self.shapes

    def _is_each(self, i: int) -> bool:
        return all(shape == () for shape in self._forms(i))

    def _kind(self, i: int, node: fx.Node) -> Kind:
        if node.op == "get_attr":
            return self._constant(i, [getattr(trace.module, str(trace.nodes[i].target)) for trace in self.traces])
        inputs = self.inputs_of(i)
        if all(j in self.constants or j in self.fixed for j in inputs) and (not inputs or base_of(node) == "lift_fresh_copy"):
            return self._constant(i, [self._made(trace, i) for trace in self.traces])
        kinds = {self.kinds[j] for j in inputs}
        base = base_of(node)
        broadcast = all(user.op == "output" or is_pointwise(user) for user in node.users)  # a number does for the whole tensor
        if base in FILLED and broadcast and (self._is_flat(i) or self._is_each(i)):
            self.fixed[i] = FILLED[base]
            return Kind.HOST
        self._find_columns(i)
        differs = any(value == i for value, _ in self.columns)
        if kinds <= {Kind.HOST} and not differs and self._is_each(i) and (formula := FORMULAS.get(name_of(node))):
            if all(j in self.fixed for j in inputs):
                self.fixed[i] = formula(*self._fixed_arguments(node), **node.kwargs)
            return Kind.HOST
        if kinds <= {Kind.HOST, Kind.COMMON} and not differs and i not in self.constants:
            if all(same_arguments(node, trace.nodes[i]) for trace in self.traces):
                return Kind.COMMON
        return self._of_parameters(i, node, inputs)

    def _of_parameters(self, i: int, node: fx.Node, inputs: list[int]) -> Kind:
        """The kind of a value that differs from parameter to parameter."""
        tensors = [j for j in inputs if self.kinds[j] in (Kind.EACH, Kind.FLAT, Kind.SHAPED) or j in self.constants]
        kinds = {self.kinds[j] for j in tensors}
        kind = Kind.FLAT if self._is_flat(i) else Kind.EACH if self._is_each(i) else Kind.SHAPED
        wide = any(self.kinds[j] is Kind.COMMON and value_of(self.first.nodes[j]).dim() for j in inputs)
        if base_of(node) in SAME and len(inputs) == 1 and kind is self.kinds[inputs[0]] and kind is not Kind.SHAPED:
            if inputs[0] not in self.resident and value_of(node).dtype == value_of(self.first.nodes[inputs[0]]).dtype:
                self.same_as[i] = inputs[0]
                return kind
        plain = kinds <= {Kind.EACH, Kind.FLAT} and not wide and not any(j in self.constants for j in tensors)
        stays = bool(tensors) and all(j in self.resident for j in tensors)
        if is_pointwise(node) and plain and not stays and kind in kinds | ({Kind.EACH} if not tensors else set()):
            return kind
        if is_reduction(node) and tensors and kinds == {Kind.FLAT} and not stays and kind is Kind.EACH:
            return kind
        self.resident.add(i)
        return kind

    def _constant(self, i: int, found: list[Tensor]) -> Kind:
        first = found[0]
        if first.dim() == 0 and all(torch.equal(one, first) for one in found):
            self.fixed[i] = first.item()
            return Kind.HOST
        self.constants[i] = found
        return Kind.SHAPED

    def _made(self, trace: Trace, i: int) -> Tensor:
        node = trace.nodes[i]
        known = {trace.nodes[j]: value for j, value in self.fixed.items()}
        number = self.traces.index(trace)
        known |= {trace.nodes[j]: tensors[number] for j, tensors in self.constants.items()}
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
        return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]

    def _fixed_arguments(self, node: fx.Node) -> tuple[Any, ...]:
        return fx.map_arg(node.args, lambda one: self.fixed[self.root(self.place[one])])

    def _find_columns(self, i: int) -> None:
        """Note the plain numbers among an operation's arguments that differ from shape to shape."""
        for k, arg in enumerate(self.first.nodes[i].args):
            if isinstance(arg, int | float) and not isinstance(arg, bool):
                found = [trace.nodes[i].args[k] for trace in self.traces]
                if any(other != arg for other in found):
                    self.columns[i, k] = [float(other) for other in found]  # pyright: ignore[reportArgumentType]


def is_reduction(node: fx.Node) -> bool:
    """Whether the operation makes one number of all elements."""
    if name_of(node) == "linalg_vector_norm.default":
        return node.args[2:] in ((), (None,)) and not node.kwargs
    return name_of(node) in REDUCTIONS


def same_arguments(node: fx.Node, other: fx.Node) -> bool:
    """Whether two matched operations have the same plain arguments."""

    def plain(arg: Any) -> Any:
        return None if isinstance(arg, fx.Node) else arg

    return fx.map_arg(node.args, plain) == fx.map_arg(other.args, plain)
