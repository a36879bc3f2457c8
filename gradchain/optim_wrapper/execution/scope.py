"""Names in a bucket's function: buffers and which values they hold, views, numbers and functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.memory import Buffer, Run
from gradchain.optim_wrapper.execution.schedule import Segment, Step
from gradchain.optim_wrapper.execution.values import Kind, Values, value_of

CPU = "cpu"  # where the numbers of a step are, whatever the caller's default device is
PRIMITIVE = (bool, int, str, type(None))


@dataclass
class Scope:
    """The names that the code of some matched graphs has so far."""

    values: Values
    runs: Sequence[Run]
    outputs: Sequence[int]
    targets: Sequence[str]  # for each output, the buffer that it goes to; empty for the first where it is only to be read
    lines: list[str] = field(default_factory=lambda: [])
    buffers: dict[str, Buffer] = field(default_factory=lambda: {})
    views: dict[str, tuple[str, str, int]] = field(default_factory=lambda: {})
    lists: dict[str, list[str]] = field(default_factory=lambda: {})
    fixed: dict[str, Any] = field(default_factory=lambda: {})
    held: dict[int, str] = field(default_factory=lambda: {})  # value -> buffer
    free: dict[tuple[Kind, torch.dtype], list[str]] = field(default_factory=lambda: {})
    tensors: dict[int, str] = field(default_factory=lambda: {})  # numbers of the host as tensors
    last: dict[int, float] = field(default_factory=lambda: {})  # value -> the position at which it is used last
    order: list[Step] = field(default_factory=lambda: [])

    def _place(self, i: int, at: int) -> str:
        """The buffer for a new value: its state's, if the old state is no longer needed, or memory of the function."""
        kind, dtype = self.values.kinds[i], value_of(self.values.first.nodes[i]).dtype
        for output, target in zip(self.outputs, self.targets, strict=True):
            if output != i or not target or self.buffers[target].kind is not kind or self.buffers[target].dtype != dtype:
                continue
            old = next((j for j, source in self.held.items() if source == target), None)
            segment = isinstance(self.order[at], Segment)
            if old is not None and (self.last.get(old, -1) < at or (self.last.get(old) == at and not segment)):
                del self.held[old]
                self.held[i] = target
                return target
        pool = self.free.setdefault((kind, dtype), [])
        name = pool.pop() if pool else self._memory(kind, dtype)
        self.held[i] = name
        return name

    def _memory(self, kind: Kind, dtype: torch.dtype) -> str:
        name = f"b{len(self.buffers)}"
        self.buffers[name] = Buffer(kind, dtype, "")
        return name

    def _release(self, used: Sequence[int], at: int) -> None:
        for i in dict.fromkeys(used):
            name = self.held.get(i)
            if name is not None and self.last.get(i, -1) <= at and not self.buffers[name].source:
                self.free.setdefault((self.buffers[name].kind, self.buffers[name].dtype), []).append(name)
                del self.held[i]

    def _view(self, name: str, form: str, run: int) -> str:
        """A part of a buffer. Forms: shaped, as links see it, stacked where there are several; rows (count, elements);
        column (count, 1); each (count,)."""
        view = f"{name}_{form}{run}"
        self.views[view] = (name, form, run)
        return view

    def _host(self, arg: Any) -> str:
        if not isinstance(arg, fx.Node):
            return self._constant(arg)
        i = self.values.root(self.values.place[arg])
        return self._constant(self.values.fixed[i]) if i in self.values.fixed else f"h{i}"

    def _tensor(self, i: int) -> str:
        """A number of the host as a 0-d tensor."""
        dtype = value_of(self.values.first.nodes[i]).dtype
        if i in self.values.fixed:
            return self._constant(torch.tensor(self.values.fixed[i], dtype=dtype, device="cpu"))
        if i not in self.tensors:
            self.tensors[i] = f"t{i}"
            self.lines.append(f"t{i} = {self._function(torch.tensor)}(h{i}, dtype={self._constant(dtype)}, device={CPU!r})")
        return self.tensors[i]

    def _copy(self, pairs: list[tuple[str, str]]) -> None:
        if pairs:
            name = f"l{len(self.lists)}"
            self.lists[name] = [there for there, _ in pairs]
            function = self._function(torch._foreach_copy_)  # pyright: ignore[reportPrivateImportUsage]
            self.lines.append(f"{function}({name}, [{', '.join(here for _, here in pairs)}])")

    def _function(self, function: Any) -> str:
        name = getattr(function, "__name__", "f")
        return self._named(name if name.isidentifier() else "f", function)

    def _constant(self, value: Any) -> str:
        if type(value) in PRIMITIVE:
            return repr(value)
        if type(value) is float and value - value == 0:
            return repr(value)
        return self._named("k", value)

    def _named(self, stem: str, value: Any) -> str:
        for name, other in self.fixed.items():
            if other is value:
                return name
        name = f"{stem}_{len(self.fixed)}"
        self.fixed[name] = value
        return name
