"""A traced chain as a C++ function: its loops, with the numbers between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from gradchain.optim_wrapper.execution.cpp import Unwritten, converted, expression, literal
from gradchain.optim_wrapper.execution.cpp_places import Places, aligned
from gradchain.optim_wrapper.execution.loops import Access, Form, Loop, Shape, contiguous
from gradchain.optim_wrapper.execution.sums import Sum
from gradchain.optim_wrapper.execution.values import base_of, value_of

SHORT = 8  # iterations up to which a loop is unrolled, and not done with vectors
SUMS = 64  # numbers that the parts of a parameter exchange, at most
BARRIER = '_Pragma("omp barrier")'


@dataclass
class Kernel:
    """The body of a C++ function, and the scratch memory that it needs."""

    text: str
    slots: int  # places in scratch memory
    width: int  # bytes of one place; for each element, where ``flat``
    flat: bool  # whether it takes any number of elements
    kept: int  # elements of sums along dimensions


class KernelWriter(Places):
    """Writes the function of one stage.

    Its arguments: ``a``, the addresses of the columns; ``host``, the numbers of the host; ``n``, the number of elements, where
    ``flat``; ``scratch``, and the ``width`` of a place there.
    """

    def written(self) -> Kernel:
        """The function."""
        for i, column in self.inputs.items():
            self._input(i, column)
        for i, constant in self.loops.constants.items():
            numbers = ", ".join(literal(x, self.type(i)) for x in constant.flatten().tolist())
            self.lines.append(f"static const {self.type(i)} c{i}[] = {{{numbers}}};")
            self.pointers[i] = f"c{i}"
        self._save()
        self._choose_places()
        self._numbers(0)
        for at, loop in enumerate(self.loops.loops):
            self._take_memory(at)
            self._loop(at, loop)
            self._numbers(at + 1)
            self._give_back(at)
        if not self.loops.loops:
            self._wait([BARRIER])  # numbers have been read before they are written
        self._finish()
        if self.sums > SUMS:
            raise Unwritten(f"{self.sums} sums")
        lines = [f"const int64_t kept = {self.kept};", *self.lines] if self.kept else self.lines
        body = "".join(f"    {line}\n" for line in lines)
        width = self.unit if self.flat else aligned(self.widest)
        return Kernel(body, self.slots, width, self.flat, self.kept)

    def _input(self, i: int, column: int) -> None:
        if column < 0:
            self.lines.append(f"const double v{i} = host[{-1 - column}];")
        elif self.loops.forms[i] is Form.NUMBER:
            self.lines.append(f"const {self.type(i)} v{i} = *reinterpret_cast<const {self.type(i)}*>(a[{column}]);")
        else:
            self._pointer(i, f"p{i}", f"a[{column}]")

    def _save(self) -> None:
        """Copy the old value of a state that becomes another one, before it is written."""
        written = {self.holder.get(column, -1) for column in self.stage.outputs}
        for i, column in zip(self.loops.outputs, self.stage.outputs, strict=True):
            base = self._base(i)
            if (
                self.loops.forms[base] is Form.INPUT
                and base in written
                and self.holder.get(column) != i
                and base not in self.saved
            ):
                self._pointer(base, f"s{base}", self._slot(base))
                self.is_nested = False
                self._write_loop(self.loops.shape(base), [f"s{base}[i] = p{base}[i];"])
                self._wait([BARRIER])
                self.saved[base], self.pointers[base] = f"s{base}", f"p{base}"

    def _numbers(self, at: int) -> None:
        """The 0-d values that are known from this loop on, and depend on no loop behind it."""
        for i, form in enumerate(self.loops.forms):
            known = self.loops.known_from.get(i, 0) == at and self.nodes[i].op == "call_function"
            if form is Form.NUMBER and known and i not in self.loops.made_in and i not in self.loops.views:
                text = expression(self.nodes[i], lambda arg, kind, i=i: self._operand(arg, kind, (), -1, self._columns(i)))
                self.lines.append(f"const {self.type(i)} v{i} = {text};")

    def _columns(self, i: int) -> dict[int, str]:
        """Arguments of an operation that are the number of elements, by their ids."""
        return {id(self.nodes[i].args[k]): "n" for value, k in self.sizes if value == i}

    def _operand(self, arg: Any, kind: str, shape: Shape, at: int, columns: dict[int, str]) -> str:
        """An argument of an operation in a loop over a shape, as an expression of a type."""
        if not isinstance(arg, fx.Node):
            if not isinstance(arg, int | float):
                raise Unwritten("an argument that is no number")
            return f"{kind}(n)" if id(arg) in columns else literal(arg, kind)
        loops, j = self.loops, self.loops.source(self.loops.place[arg])
        base = self._base(j)
        if loops.forms[base] is Form.LITERAL:
            return literal(loops.literals[base], kind)
        if loops.forms[base] is Form.NUMBER or (loops.forms[j] is Form.ELEMENT and self._is_here(j, at)):
            text = f"v{base}"
        else:
            text = f"{self.pointers[base]}[{self._index(j, shape)}]"
        return converted(text, self.type(base), kind)

    def _is_here(self, i: int, at: int) -> bool:
        made = self.loops.made_in[i] == at or (at >= 0 and i in self.loops.loops[at].again)
        return made and self.loops.shape(i) == self.loops.loops[at].shape

    def _index(self, i: int, shape: Shape) -> str:
        """The position of a value's element that belongs to an element of a shape."""
        own = self.loops.shape(i)
        access = self.loops.access(i)
        if (own == shape and access == Access(i, 0, contiguous(own))) or self.flat:
            return "i" if shape else "0"
        lead = len(shape) - len(own)
        terms = [str(access.offset)] if access.offset else []
        for d, (size, stride) in enumerate(zip(own, access.strides, strict=True)):
            if size != 1 and stride:
                terms.append(f"i{lead + d}" if stride == 1 else f"{stride} * i{lead + d}")
        self.is_nested = self.is_nested or bool(own)
        return " + ".join(terms) or "0"

    def _loop(self, at: int, loop: Loop) -> None:
        """One loop: elements, sums, parts of tensors that are put together."""
        self.is_nested = False
        body, stores = list[str](), list[str]()  # old values are read before new ones take their place
        sums: list[Sum] = []
        for i in sorted({*loop.members, *loop.again}):
            if self.loops.forms[i] is Form.ELEMENT:
                text = expression(
                    self.nodes[i], lambda arg, kind, i=i: self._operand(arg, kind, loop.shape, at, self._columns(i))
                )
                body.append(f"const {self.type(i)} v{i} = {text};")
                if i in self.pointers and i not in loop.again:
                    stores.append(f"{self.pointers[i]}[i] = v{i};")
            else:
                source: Any = self.nodes[i].args[0]
                value = self._operand(source, self.type(self.loops.place[source]), loop.shape, at, {})
                sums.append(Sum(i, self.nodes[i], value, "n" if self.flat else str(math.prod(loop.shape))))
        for i, k in loop.parts:
            body.append(self._part(i, k, loop.shape, at))
        self.is_nested = self.is_nested or any(one.keeps for one in sums)
        self._write_loop(loop.shape, body, sums, stores)
        whole = [one for one in sums if not one.keeps]
        stored, combined = list[str](), list[str]()
        for one in whole:
            lines = one.combine(self.sums)
            stored, combined, self.sums = stored + lines[0], combined + lines[1], self.sums + len(lines[0])
        self._wait([*stored, BARRIER, *combined])
        self.lines += [f"const {self.type(one.i)} v{one.i} = {one.result(self.type(one.i))};" for one in whole]
        for one in sums:
            if one.keeps:
                self.lines += one.kept_result(self.pointers[one.i], self.type(one.i))
        if len(whole) < len(sums):
            self._wait([BARRIER])

    def _wait(self, lines: Sequence[str]) -> None:
        """Write lines that run only if several threads share a parameter, a barrier among them."""
        self.lines += ["if (parts > 1) {", *(f"    {line}" for line in lines), "}"]

    def _part(self, i: int, k: int, shape: Shape, at: int) -> str:
        """The line that puts an element of a part into its place in the whole."""
        node = self.nodes[i]
        parts: Any = node.args[0]
        own = self.loops.shape(i)
        dim = int(node.args[1] if len(node.args) > 1 else 0) % len(own)  # pyright: ignore[reportArgumentType]
        start = sum(int(value_of(part).shape[dim]) for part in parts[:k]) if base_of(node) == "cat" else k
        strides = contiguous(own)
        moved = strides if base_of(node) == "cat" else (*strides[:dim], *strides[dim + 1 :])
        terms = [str(start * strides[dim])] + [f"{stride} * i{d}" for d, stride in enumerate(moved)]
        self.is_nested = True
        value = self._operand(parts[k], self.type(i), shape, at, {})
        return f"{self.pointers[i]}[{' + '.join(terms)}] = {value};"

    def _write_loop(self, shape: Shape, body: Sequence[str], sums: Sequence[Sum] = (), stores: Sequence[str] = ()) -> None:
        """The loop over the elements: one, or one for each dimension where something depends on the position."""
        lines, last = self.lines, len(shape) - 1
        for one in sums:
            lines += one.before(self._memory(one) if one.keeps else "")
        kept = [one for one in sums if one.keeps]
        clauses = "".join(one.clause(last) for one in sums)
        count = "n" if self.flat else str(shape[0] if self.is_nested else math.prod(shape))
        first, stop = f"{count} * part / parts", f"{count} * (part + 1) / parts"
        if not self.is_nested:
            inner = [f"for (int64_t i = {first}; i < {stop}; i++) {{"]
        else:
            bounds = [(first, stop), *(("0", str(size)) for size in shape[1:])]
            for d, (low, high) in enumerate(bounds[:-1]):
                lines.append(f"for (int64_t i{d} = {low}; i{d} < {high}; i{d}++) {{")
            steps = contiguous(shape)
            row = " + ".join(f"{steps[d]} * i{d}" for d in range(last)) or "0"
            for one in kept:
                lines += one.begin_row(last)
            inner = [
                f"for (int64_t i{last} = {bounds[-1][0]}; i{last} < {bounds[-1][1]}; i{last}++) {{",
                f"    const int64_t i = {row} + i{last};",
            ]
        short = self.is_nested and shape[-1] < SHORT
        lines.append(f"#pragma GCC unroll {SHORT}" if short else f"#pragma omp simd{clauses}")
        lines += [*inner, *(f"    {line}" for line in [*body, *(one.add(last) for one in sums), *stores]), "}"]
        if self.is_nested:
            for one in kept:
                lines += one.end_row(last)
            lines += ["}"] * last

    def _memory(self, one: Sum) -> str:
        """Memory for sums along dimensions: each part has its own."""
        start, self.kept = self.kept, self.kept + one.size
        return f"sums + {SUMS} * parts + kept * part + {start}"

    def _finish(self) -> None:
        """Put results where they belong that are not there yet."""
        loops = self.loops
        self.pointers.update(self.saved)
        for k, (i, column) in enumerate(zip(loops.outputs, self.stage.outputs, strict=True)):
            if k in self.in_place or self.holder.get(column) == i:
                continue
            kind, place = self._column(column)
            shape = tuple(self.forms[column][0])
            self.is_nested = False
            value = self._operand(loops.output_nodes[k], kind, shape, -1, {})
            if not shape:
                self.lines.append(f"if (part == 0) *{place} = {value};")
                continue
            self.lines.append(f"{kind}* o{k} = {place};")
            self._write_loop(shape, [f"o{k}[i] = {value};"])
