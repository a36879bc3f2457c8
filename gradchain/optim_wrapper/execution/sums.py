"""Sums, norms and extremes in a loop over elements, of all elements or along dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.cpp import Unwritten
from gradchain.optim_wrapper.execution.values import base_of, name_of, value_of

ADDED = {"sum": "{x}", "mean": "{x}", "square": "double({x}) * double({x})", "magnitude": "std::abs({x})"}


@dataclass
class Sum:
    """One reduction of a loop. Sums are added up in double precision."""

    i: int
    node: fx.Node
    value: str  # the expression of one element
    count: str  # the expression for the number of elements, of a whole tensor

    def __post_init__(self) -> None:
        self.source: Any = value_of(self.node.args[0])  # pyright: ignore[reportArgumentType]
        self.keeps = value_of(self.node).dim() > 0
        base = base_of(self.node)
        if not self.source.is_floating_point() and base not in ("all", "any"):
            raise Unwritten(f"{name_of(self.node)} of {self.source.dtype}")
        self.sort = base if base != "linalg_vector_norm" else self._norm()
        if "dtype" in self.node.kwargs or (self.keeps and self.sort not in ADDED):
            raise Unwritten(name_of(self.node))
        self.dims = self._dims() if self.keeps else list(range(self.source.dim()))
        strides, step = [0] * self.source.dim(), 1
        for d in reversed(range(self.source.dim())):
            if d not in self.dims:
                strides[d], step = step, step * self.source.shape[d]
        self.strides, self.size = strides, step

    def _norm(self) -> str:
        order: Any = self.node.args[1] if len(self.node.args) > 1 else 2
        known = {2: "square", 1: "magnitude", math.inf: "largest"}
        if order not in known:
            raise Unwritten("a norm of another order")
        return known[order]

    def _dims(self) -> list[int]:
        at = 2 if base_of(self.node) == "linalg_vector_norm" else 1
        dims: Any = self.node.args[at] if len(self.node.args) > at else None
        return [d % self.source.dim() for d in ([dims] if isinstance(dims, int) else dims or range(self.source.dim()))]

    def before(self, address: str) -> list[str]:
        """The lines ahead of the loops; address: of memory for sums along dimensions."""
        if self.keeps:
            name = f"t{self.i}"
            clear = f"for (int64_t j = 0; j < {self.size}; j++) {name}[j] = 0;"
            return [f"double* {name} = {address};", clear]
        r = f"r{self.i}"
        if self.sort in ADDED:
            return [f"double {r} = 0;"]
        if self.sort in ("all", "any"):
            return [f"bool {r} = {'true' if self.sort == 'all' else 'false'};"]
        kind, start = ("float" if self.source.dtype == torch.float32 else "double"), "0"
        if self.sort != "largest":
            start = f"{'-' if self.sort == 'amax' else ''}std::numeric_limits<{kind}>::infinity()"
        return [f"{kind} {r} = {start};", f"bool nan{self.i} = false;"]

    def clause(self, last: int) -> str:
        """The reduction of the innermost loop, over the dimension ``last``, for the compiler."""
        r = f"r{self.i}"
        if self.sort in ADDED:
            return f" reduction(+:{r})" if not self.keeps or last in self.dims else ""
        if self.sort in ("all", "any"):
            return f" reduction({'&&' if self.sort == 'all' else '||'}:{r})"
        return f" reduction({'min' if self.sort == 'amin' else 'max'}:{r}) reduction(||:nan{self.i})"

    def begin_row(self, last: int) -> list[str]:
        """The line ahead of the innermost loop."""
        return [f"double r{self.i} = 0;"] if last in self.dims else []

    def end_row(self, last: int) -> list[str]:
        """The line behind the innermost loop."""
        return [f"t{self.i}[{self._place(last)}] += r{self.i};"] if last in self.dims else []

    def add(self, last: int) -> str:
        """The line for one element."""
        r, x = f"r{self.i}", self.value
        if self.sort in ADDED:
            place = f"t{self.i}[{self._place(last + 1)}]" if self.keeps and last not in self.dims else r
            return f"{place} += {ADDED[self.sort].format(x=x)};"
        if self.sort in ("all", "any"):
            return f"{r} = {r} {'&&' if self.sort == 'all' else '||'} {x};"
        x = f"std::abs({x})" if self.sort == "largest" else x
        return f"{r} = {x} {'<' if self.sort == 'amin' else '>'} {r} ? {x} : {r}; nan{self.i} = nan{self.i} || {x} != {x};"

    def _place(self, stop: int) -> str:
        return " + ".join(f"{self.strides[d]} * i{d}" for d in range(stop) if self.strides[d]) or "0"

    def combine(self, slot: int) -> tuple[list[str], list[str]]:
        """The lines that put the result of a part into a slot of the sums, and those that take all of them."""
        r, places = f"r{self.i}", [f"sums[{slot} * parts + part]", f"sums[{slot + 1} * parts + part]"]
        others = [place.replace("part]", "q]") for place in places]
        if self.sort in ADDED:
            return [f"{places[0]} = {r};"], [f"{r} = 0;", f"for (int64_t q = 0; q < parts; q++) {r} += {others[0]};"]
        if self.sort in ("all", "any"):
            symbol = "&&" if self.sort == "all" else "||"
            return [f"{places[0]} = {r};"], [f"for (int64_t q = 0; q < parts; q++) {r} = {r} {symbol} ({others[0]} != 0);"]
        choose = f"{r} = {others[0]} {'<' if self.sort == 'amin' else '>'} {r} ? {others[0]} : {r};"
        nan = f"nan{self.i} = nan{self.i} || {others[1]} != 0;"
        stored = [f"{places[0]} = {r};", f"{places[1]} = nan{self.i};"]
        return stored, [f"for (int64_t q = 0; q < parts; q++) {{ {choose} {nan} }}"]

    def result(self, kind: str) -> str:
        """The result of all elements."""
        r = f"r{self.i}"
        if self.sort in ("amax", "amin", "largest"):
            r = f"nan{self.i} ? std::numeric_limits<{kind}>::quiet_NaN() : {r}"
        return f"{kind}({self._finished(r, self.count)})"

    def kept_result(self, place: str, kind: str) -> list[str]:
        """The lines that put sums along dimensions into their tensor, when all parts have added up theirs."""
        count = str(math.prod(self.source.shape[d] for d in self.dims))
        total = f"double r = 0; for (int64_t q = 0; q < parts; q++) r += t{self.i}[(q - part) * kept + j];"
        one = f"{total} {place}[j] = static_cast<{kind}>({self._finished('r', count)});"
        return [f"for (int64_t j = {self.size} * part / parts; j < {self.size} * (part + 1) / parts; j++) {{ {one} }}"]

    def _finished(self, total: str, count: str) -> str:
        if self.sort == "mean":
            return f"{total} / double({count})"
        return f"std::sqrt({total})" if self.sort == "square" else total
