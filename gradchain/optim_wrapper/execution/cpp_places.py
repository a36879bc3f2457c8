"""Memory for the values of a stage: columns that it reads and writes, and slots of scratch memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradchain.optim_wrapper.execution.cpp import type_of
from gradchain.optim_wrapper.execution.loops import Form, Loops
from gradchain.optim_wrapper.execution.stages import Form as ColumnForm
from gradchain.optim_wrapper.execution.stages import Stage
from gradchain.optim_wrapper.execution.values import value_of

ALIGNMENT = 64
Sizes = frozenset[tuple[int, int]]


def aligned(size: int) -> int:
    """Bytes, up to the next address at which vectors may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Places:
    """Assigns a pointer to every value of a stage that is in memory, and writes the lines of C++ that declare it."""

    def __init__(self, stage: Stage, forms: Sequence[ColumnForm], flat: bool = False, sizes: Sizes = frozenset()) -> None:
        """forms: of the columns; flat: tensors of any shape with ``n`` elements; sizes: (value, argument) that are ``n``.

        Raises Unwritten where something in the stage cannot be written.
        """
        self.stage, self.forms, self.flat, self.sizes = stage, forms, flat, sizes
        places = [i for i, node in enumerate(stage.trace.nodes) if node.op == "placeholder"]
        self.inputs = dict(zip(places, stage.columns, strict=True))
        self.holder = {column: i for i, column in self.inputs.items() if column >= 0}  # the input of a column
        overwritten = {self.holder[column]: k for k, column in enumerate(stage.outputs) if column in self.holder}
        self.loops = Loops(stage.trace, overwritten)
        self.nodes = self.loops.nodes
        self.lines: list[str] = []
        self.pointers: dict[int, str] = {}
        self.saved: dict[int, str] = {}  # copies of states that become other ones
        self.free: list[int] = []
        self.held: dict[int, int] = {}  # slots in use, by value
        self.slots = self.taken = 0
        self.sums = self.kept = 0  # numbers that parts exchange, and elements of sums along dimensions
        self.is_nested = False  # whether the loop in the making needs positions along the dimensions
        self.unit = self.widest = 0  # bytes of the largest number, and of the largest value, in scratch memory

    def type(self, i: int) -> str:
        return type_of(value_of(self.nodes[i]).dtype)

    def _pointer(self, i: int, name: str, address: str) -> None:
        self.pointers[i] = name
        kind = self.type(i)
        self.lines.append(f"{kind}* {name} = reinterpret_cast<{kind}*>({address});")

    def _column(self, column: int) -> tuple[str, str]:
        """The type of a column, and an expression for its memory."""
        kind = type_of(self.forms[column][1])
        return kind, f"reinterpret_cast<{kind}*>(a[{column}])"

    def _choose_places(self) -> None:
        """Let results be written where they belong, if an old value there is not read any more by then."""
        loops, saved = self.loops, {self._base(i) for i in self.loops.outputs} - self.saved.keys()
        self.in_place: set[int] = set()  # outputs
        for k, (i, column) in enumerate(zip(loops.outputs, self.stage.outputs, strict=True)):
            kind, _ = self._column(column)
            if loops.forms[i] is not Form.ELEMENT or i in self.pointers or self.type(i) != kind:
                continue
            made, old = loops.made_in[i], self.holder.get(column)
            if loops.shape(i) != tuple(self.forms[column][0]) and not self.flat:
                continue
            if old is None:
                self._pointer(i, f"o{k}", f"a[{column}]")
            elif old in saved or loops.read_last.get(old, -1) > made or (old, made) in loops.read_apart:
                continue
            else:
                self.pointers[i] = self.pointers[old]
            self.in_place.add(k)

    def _base(self, i: int) -> int:
        return self.loops.views[i].base if i in self.loops.views else i

    def _first(self, i: int) -> int:
        """The loop in which a stored value is begun."""
        filled = [at for at, loop in enumerate(self.loops.loops) if any(i == j for j, _ in loop.parts)]
        return min(filled, default=self.loops.made_in[i])

    def _take_memory(self, at: int) -> None:
        for i in sorted(self.loops.stored):
            if i not in self.pointers and self._first(i) == at:
                self._pointer(i, f"s{i}", self._slot(i))
                self.held[i] = self.taken

    def _slot(self, i: int) -> str:
        size = value_of(self.nodes[i]).dtype.itemsize
        self.unit, self.widest = max(self.unit, size), max(self.widest, size * math.prod(self.loops.shape(i)))
        self.taken = self.free.pop() if self.free else self.slots
        self.slots = max(self.slots, self.taken + 1)
        return f"scratch + {self.taken} * width"

    def _give_back(self, at: int) -> None:
        kept = {self._base(i) for i in self.loops.outputs}
        for i in [i for i in self.held if i not in kept and max(self.loops.read_last.get(i, 0), self.loops.made_in[i]) <= at]:
            self.free.append(self.held.pop(i))
