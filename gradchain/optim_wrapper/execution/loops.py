"""The operations of a traced chain, joined into few loops over elements.

Every operation on elements goes to the first loop over its shape that runs late enough: behind the loops that make the sums
it takes, and those that make a tensor which it reads at another place. Values that later loops need are kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from torch import Tensor, fx

from gradchain.optim_wrapper.execution.cpp import Unwritten
from gradchain.optim_wrapper.execution.loopable import FILLS, FULLS, SUMS, TOGETHER, is_view
from gradchain.optim_wrapper.execution.trace import Trace
from gradchain.optim_wrapper.execution.values import base_of, is_pointwise, name_of, value_of

CHEAP = 4  # the cost up to which a value is made again in a later loop
COSTS = {"div": 3, "reciprocal": 3, "sqrt": 4}
LIGHT = {
    *("add", "sub", "rsub", "mul", "neg", "abs", "sign", "where", "_to_copy", "maximum", "minimum", "clamp"),
    *("eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_not", "addcmul", "lerp"),
}
Shape = tuple[int, ...]


class Form(Enum):
    """How a value exists."""

    LITERAL = "a number that never changes, for any shape"
    NUMBER = "a 0-d value"
    INPUT = "a tensor that is given"
    ELEMENT = "made element by element in a loop"
    VIEW = "another tensor, read in another way"
    ARRAY = "a tensor that loops fill: sums along dimensions, parts put together"


class Access(NamedTuple):
    """The elements of a value in memory: a tensor, an offset into it, and strides."""

    base: int
    offset: int
    strides: Shape


@dataclass
class Loop:
    """Operations that run for each element of a shape."""

    shape: Shape
    members: list[int] = field(default_factory=lambda: [])  # values, in their order; sums of elements among them
    parts: list[tuple[int, int]] = field(default_factory=lambda: [])  # (value, position) of parts that are put together
    again: set[int] = field(default_factory=lambda: set[int]())  # values that were made by an earlier loop, and are made again


class Loops:
    """The loops of a trace. Raises Unwritten for operations that no loop can make."""

    def __init__(self, trace: Trace, overwritten: Mapping[int, int] | None = None) -> None:
        """overwritten: inputs that results take the place of: position of the input -> of the result among the outputs."""
        self.nodes, self.output_nodes = trace.nodes, trace.outputs
        self.place = {node: i for i, node in enumerate(trace.nodes)}
        self.forms: list[Form] = []
        self.loops: list[Loop] = []
        self.literals: dict[int, Any] = {}
        self.constants: dict[int, Tensor] = {}
        self.views: dict[int, Access] = {}
        self.made_in: dict[int, int] = {}  # value -> its loop
        self.known_from: dict[int, int] = {}  # value -> the loop from which on it can be read in memory, or as a number
        for i, node in enumerate(trace.nodes):
            if node.op == "placeholder":
                self.forms.append(Form.INPUT if value_of(node).dim() else Form.NUMBER)
            elif node.op == "get_attr":
                self._constant(i, getattr(trace.module, str(node.target)))
            else:
                self._operation(i, node)
        self.outputs = [self.source(self.place[node]) for node in trace.outputs]
        self.written_in = {i: self.made_in.get(self.outputs[k], len(self.loops)) for i, k in (overwritten or {}).items()}
        self._find_stored()
        for i in sorted(self.stored - set(self.outputs)):
            self._make_again(i)
        self._find_stored()

    def shape(self, i: int) -> Shape:
        return tuple(value_of(self.nodes[i]).shape)

    def source(self, i: int) -> int:
        """The value itself, of one that is the same tensor read in the same way."""
        while i in self.views and self._is_same(i):
            i = self.views[i].base
        return i

    def access(self, i: int) -> Access:
        """The elements of a value in memory."""
        return self.views.get(i) or Access(i, 0, contiguous(self.shape(i)))

    def _is_same(self, i: int) -> bool:
        base = self.views[i].base
        return self.shape(i) == self.shape(base) and self.views[i] == (base, 0, contiguous(self.shape(i)))

    def _constant(self, i: int, value: Tensor) -> None:
        if value.dim():
            self.forms.append(Form.INPUT)
            self.constants[i] = value
        else:
            self.forms.append(Form.LITERAL)
            self.literals[i] = value.item()

    def _operation(self, i: int, node: fx.Node) -> None:
        base, inputs = base_of(node), [self.source(self.place[one]) for one in node.all_input_nodes]
        known: Any = node.meta.get("val")
        if not isinstance(known, Tensor):
            raise Unwritten(name_of(node))
        if base in FILLS or base in FULLS:
            self.forms.append(Form.LITERAL)
            self.literals[i] = FILLS[base] if base in FILLS else self._filled(node, FULLS[base])
        elif is_view(node):
            self._view(i, node, inputs[0])
        elif base in SUMS:
            self._sum(i, inputs[0])
        elif base in TOGETHER:
            self._together(i, node)
        elif is_pointwise(node) or base in ("clone", "lift_fresh_copy"):
            self._element(i, inputs)
        else:
            raise Unwritten(name_of(node))

    def _filled(self, node: fx.Node, at: int) -> Any:
        if isinstance(node.args[at], fx.Node):
            raise Unwritten(name_of(node))
        return node.args[at]

    def _view(self, i: int, node: fx.Node, source: int) -> None:
        if self.forms[source] is Form.LITERAL:
            self.literals[i] = self.literals[source]
            self.forms.append(Form.LITERAL)
            return
        own, base = value_of(node), self.access(source).base
        if not value_of(self.nodes[base]).is_contiguous() or own.dtype != value_of(self.nodes[base]).dtype:
            raise Unwritten("a view of a tensor that is not contiguous")
        self.forms.append(Form.VIEW)
        self.views[i] = Access(base, int(own.storage_offset()), tuple(own.stride()))

    def _element(self, i: int, inputs: Sequence[int]) -> None:
        shape = self.shape(i)
        if not shape:
            self._number(i, inputs)
            return
        self.forms.append(Form.ELEMENT)
        self._put(i, shape, inputs)

    def _number(self, i: int, inputs: Sequence[int]) -> None:
        self.forms.append(Form.NUMBER)
        bases = [self.views[j].base if j in self.views else j for j in inputs]
        self.known_from[i] = max((self.known_from.get(j, 0) for j in bases), default=0)

    def _sum(self, i: int, source: int) -> None:
        if self.forms[source] in (Form.NUMBER, Form.LITERAL) or not self.shape(source):
            raise Unwritten("a sum of a number")
        shape = self.shape(source)
        if value_of(self.nodes[i]).dim():
            self.forms.append(Form.ARRAY)
        else:
            self.forms.append(Form.NUMBER)
        self._put(i, shape, [source])
        self.known_from[i] = self.made_in[i] + 1

    def _together(self, i: int, node: fx.Node) -> None:
        parts: Any = node.args[0]
        self.forms.append(Form.ARRAY)
        last = 0
        for k, part in enumerate(parts):
            j = self.source(self.place[part])
            if not self.shape(j):
                raise Unwritten("numbers that are put together")
            at = self._loop_for(self.shape(j), [j])
            self.loops[at].parts.append((i, k))
            last = max(last, at)
        self.known_from[i] = last + 1
        self.made_in[i] = last

    def _put(self, i: int, shape: Shape, inputs: Sequence[int]) -> None:
        at = self._loop_for(shape, inputs)
        self.loops[at].members.append(i)
        self.made_in[i] = at
        self.known_from[i] = at + 1

    def _loop_for(self, shape: Shape, inputs: Sequence[int]) -> int:
        """The first loop over a shape in which these values can be read; a new one if there is none."""
        earliest = 0
        for j in inputs:
            beside = self.forms[j] is Form.ELEMENT and self.shape(j) == shape
            base = self.views[j].base if j in self.views else j
            earliest = max(earliest, self.made_in[j] if beside else self.known_from.get(base, 0))
        for at in range(earliest, len(self.loops)):
            if self.loops[at].shape == shape:
                return at
        self.loops.append(Loop(shape))
        return len(self.loops) - 1

    def _find_stored(self) -> None:
        """Find the values that have to be in memory, and the loop in which each tensor is read last."""
        self.stored: set[int] = {i for i, form in enumerate(self.forms) if form is Form.ARRAY}
        self.read_last: dict[int, int] = {}
        self.read_apart: set[tuple[int, int]] = set()  # (value, loop) where it is read at another place than the loop's own
        for at, loop in enumerate(self.loops):
            for j in self._reads(loop):
                self._read(j, at, loop.shape)
        for i, form in enumerate(self.forms):
            for one in self.nodes[i].all_input_nodes if form is Form.NUMBER and i not in self.made_in else ():
                self._read(self.source(self.place[one]), self.known_from.get(i, 0), ())
        for i in self.outputs:
            base = self.views[i].base if i in self.views else i
            if self.forms[base] is Form.ELEMENT:
                self.stored.add(base)

    def _reads(self, loop: Loop) -> list[int]:
        """The values that a loop takes, as often as it does."""
        members = [self.source(self.place[one]) for i in {*loop.members, *loop.again} for one in self.nodes[i].all_input_nodes]
        return [*members, *(self.part(i, k) for i, k in loop.parts)]

    def _make_again(self, i: int) -> None:
        """Let later loops make a value again, where that takes less than to keep it in memory."""
        if self.forms[i] is not Form.ELEMENT or any(base == i for base, _ in self.read_apart):
            return
        later = [at for at, loop in enumerate(self.loops) if at > self.made_in[i] and i in self._reads(loop)]
        needed = [self._again(i, at) for at in later]
        if any(self.loops[at].shape != self.shape(i) for at in later) or any(one is None or one[1] > CHEAP for one in needed):
            return
        for at, one in zip(later, needed, strict=True):
            self.loops[at].again |= one[0] if one is not None else set()

    def _again(self, i: int, at: int) -> tuple[set[int], int] | None:
        """The operations that make a value again from values in memory at a loop, and their cost; None if one is not there."""
        if i in self.views:
            return None
        if self.forms[i] in (Form.NUMBER, Form.LITERAL) or i in self.loops[at].again:
            return set(), 0
        if self.forms[i] is Form.INPUT:
            return (set(), 0) if self.written_in.get(i, at) >= at and self.shape(i) == self.loops[at].shape else None
        if self.forms[i] is Form.ARRAY or self.shape(i) != self.loops[at].shape:
            return None
        if i in self.outputs or any(base == i for base, _ in self.read_apart):
            return set(), 0
        found, cost = {i}, COSTS.get(base_of(self.nodes[i]), 1 if base_of(self.nodes[i]) in LIGHT else CHEAP + 1)
        for one in self.nodes[i].all_input_nodes:
            more = self._again(self.source(self.place[one]), at)
            if more is None:
                return None
            found, cost = found | more[0], cost + more[1]
        return found, cost

    def part(self, i: int, k: int) -> int:
        """The k-th of the values that are put together."""
        parts: Any = self.nodes[i].args[0]
        return self.source(self.place[parts[k]])

    def _read(self, j: int, at: int, shape: Shape) -> None:
        base = self.views[j].base if j in self.views else j
        if self.forms[base] in (Form.NUMBER, Form.LITERAL):
            return
        self.read_last[base] = max(self.read_last.get(base, 0), at)
        if j in self.views or self.shape(j) != shape:
            self.read_apart.add((base, at))
        here = at < len(self.loops) and (self.made_in.get(base) == at or base in self.loops[at].again)
        if self.forms[base] is Form.ELEMENT and (not here or j in self.views or self.shape(j) != shape):
            self.stored.add(base)


def contiguous(shape: Shape) -> Shape:
    """The strides of a tensor whose elements lie one after the other."""
    strides, step = list[int](), 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(1, size)
    return tuple(reversed(strides))
