"""The calls of torch functions for operations on whole buffers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.fuse import Fused, function_of
from gradchain.optim_wrapper.execution.scalars import FORMULAS
from gradchain.optim_wrapper.execution.scope import Scope
from gradchain.optim_wrapper.execution.values import Kind, base_of, is_reduction, name_of, value_of

NUMBERS = {  # operation -> positions of arguments at which its torch function takes Python numbers
    **dict.fromkeys(("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "remainder"), (1,)),
    **dict.fromkeys(("bitwise_and", "bitwise_or"), (1,)),
    "pow": (0, 1),
    "clamp": (1, 2),
    "lerp": (2,),
}
DOUBLE: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}  # whatever the caller's defaults are
COMMUTE = ("add", "mul", "eq", "ne", "bitwise_and", "bitwise_or")
COPIES = ("_to_copy", "clone", "detach", "alias", "lift_fresh_copy", "view", "_unsafe_view", "reshape", "expand")
NO_OUT = ("isinf", "isnan", "isfinite")  # operations whose functions in torch take no ``out``


@dataclass
class Operations(Scope):
    """Writes operations on whole buffers, one line for each; or one for each shape."""

    casts: dict[tuple[int, int], str] = field(default_factory=lambda: {})  # (operation, input) -> buffer in another dtype

    def _operation(self, i: int, at: int) -> None:
        node, kind = self.values.first.nodes[i], self.values.kinds[i]
        inputs = self.values.inputs_of(i)
        if kind is Kind.HOST:
            self._on_host(i, node)
        elif kind is Kind.COMMON:
            self._in_common(i, node)
        elif is_reduction(node):
            source = self.held[inputs[0]]
            out = self._place(i, at)
            for r in range(len(self.runs)):
                self.lines.append(self._reduction(node, self._view(source, "rows", r), self._view(out, "each", r)))
            self._release(inputs, at)
        elif i in self.values.fused:
            self._fused(i, self.values.fused[i], at)
        else:
            self._pointwise(i, node, at)

    def _fused(self, i: int, fused: Fused, at: int) -> None:
        """A sum with the product that it takes in."""
        names = [self.held[j] for j in fused.tensors]
        self._release(self.values.inputs_of(i), at)
        word = "alpha" if len(names) == 2 else "value"
        scaled = f"{word}={self._host(fused.factor)}"
        self.lines.append(f"{self._function(function_of(fused))}({', '.join(names)}, {scaled}, out={self._place(i, at)})")

    def _reduction(self, node: fx.Node, rows: str, out: str) -> str:
        base = base_of(node)
        named = "".join(f", {key}={self._constant(value)}" for key, value in node.kwargs.items())
        if base == "linalg_vector_norm":
            order = self._constant(node.args[1] if len(node.args) > 1 else 2)
            return f"{self._function(torch.linalg.vector_norm)}({rows}, {order}, 1{named}, out={out})"
        return f"{self._function(getattr(torch, base))}({rows}, 1{named}, out={out})"

    def _on_host(self, i: int, node: fx.Node) -> None:
        formula = FORMULAS[name_of(node)]
        symbol = {operator.mul: "*"}.get(formula)
        args = [self._host(arg) for arg in node.args]
        if symbol:
            self.lines.append(f"h{i} = {args[0]} {symbol} {args[1]}")
            return
        named = [f"{key}={self._constant(value)}" for key, value in node.kwargs.items()]
        self.lines.append(f"h{i} = {self._function(formula)}({', '.join(args + named)})")

    def _in_common(self, i: int, node: fx.Node) -> None:
        def written(arg: Any) -> str:
            if isinstance(arg, fx.Node):
                j = self.values.root(self.values.place[arg])
                return f"n{j}" if self.values.kinds[j] is Kind.COMMON else self._tensor(j)
            if isinstance(arg, tuple | list):
                return f"[{', '.join(map(written, arg))}]"
            return self._constant(arg)

        args = [written(arg) for arg in node.args] + [f"{key}={written(arg)}" for key, arg in node.kwargs.items()]
        self.lines.append(f"n{i} = {self._function(node.target)}({', '.join(args)})")

    def _pointwise(self, i: int, node: fx.Node, at: int) -> None:
        """One call on whole buffers; or one for each shape, where an argument has one number per parameter."""
        inputs, kind = self.values.inputs_of(i), self.values.kinds[i]
        for j in inputs:
            if self.values.kinds[j] is Kind.EACH:
                self._convert(i, j)
        columns = [k for value, k in self.values.columns if value == i]
        wide = kind is Kind.FLAT and (columns or any(self.values.kinds[j] is Kind.EACH for j in inputs))
        sources = {j: self.held[j] for j in inputs if j in self.held}
        self._release(inputs, at)
        out = self._place(i, at)
        for r in range(len(self.runs)) if wide else (None,):
            args = [self._argument(i, k, arg, r, sources) for k, arg in enumerate(node.args)]
            kwargs = {key: self._argument(i, key, arg, r, sources) for key, arg in node.kwargs.items()}
            place = out if r is None else self._view(out, "rows", r)
            self.lines.append(self._call(node, args, kwargs, place))

    def _convert(self, i: int, j: int) -> None:
        """Numbers of parameters in the dtype in which the operation takes them: they count as 0-d tensors, not as vectors."""
        node, own = self.values.first.nodes[i], value_of(self.values.first.nodes[j]).dtype
        others = [value_of(one) for one in node.all_input_nodes if value_of(one).dtype != torch.bool]
        plain = [arg for arg in node.args if isinstance(arg, int | float)]
        if not own.is_floating_point or base_of(node) in COPIES or not others:
            return
        wanted = others[0]
        common = wanted.dtype if len(others) == 1 and not plain else torch.result_type(wanted, (others[1:] or plain)[0])
        for other in others[2:]:
            common = torch.promote_types(common, other.dtype) if other.dim() else common
        if common == own or not common.is_floating_point:
            return
        name = self._memory(Kind.EACH, common)
        self.lines.append(f"{name}.copy_({self.held[j]})")
        self.casts[i, j] = name

    def _argument(self, i: int, k: int | str, arg: Any, run: int | None, sources: dict[int, str]) -> str:
        if not isinstance(arg, fx.Node):
            if (i, k) not in self.values.columns:
                return self._constant(arg)
            numbers = self.values.columns[i, k]  # pyright: ignore[reportArgumentType]
            return self._constant(numbers[run]) if run is not None else self._column(i, numbers)
        j = self.values.root(self.values.place[arg])
        kind = self.values.kinds[j]
        if kind is Kind.HOST:
            return self._host(arg)
        if kind is Kind.COMMON:
            return f"n{j}"
        name = self.casts.get((i, j), sources[j])
        if run is None:
            return name
        return self._view(name, "rows" if kind is Kind.FLAT else "column", run)

    def _column(self, i: int, numbers: Sequence[float]) -> str:
        counts = [run.count for run in self.runs]
        column = torch.tensor([x for x, count in zip(numbers, counts, strict=True) for _ in range(count)], **DOUBLE)
        dtype = value_of(self.values.first.nodes[i]).dtype
        return self._constant(column.to(dtype) if dtype.is_floating_point else column)

    def _call(self, node: fx.Node, args: list[str], kwargs: dict[str, str], out: str) -> str:
        """The line that puts the operation's result into ``out``."""
        base = base_of(node)
        is_number = [self._is_host(arg) for arg in node.args]
        if base in COPIES:
            return f"{out}.{'fill_' if is_number[0] else 'copy_'}({args[0]})"
        if base == "full_like":
            return f"{out}.fill_({args[1]})"
        if base == "where" and is_number[0]:
            ways = [
                f"{out}.{'fill_' if number else 'copy_'}({arg})" for number, arg in zip(is_number[1:], args[1:], strict=True)
            ]
            return f"{ways[0]} if {args[0]} else {ways[1]}"
        if base == "rsub":
            base, args, is_number = "sub", [args[1], args[0], *args[2:]], [is_number[1], is_number[0], *is_number[2:]]
            node_args = [node.args[1], node.args[0], *node.args[2:]]
        else:
            node_args = list(node.args)
        if base in COMMUTE and is_number[0] and not is_number[1] and not kwargs:
            args[:2], is_number[:2], node_args[:2] = args[1::-1], is_number[1::-1], node_args[1::-1]
        for k, number in enumerate(is_number):
            takes = k in NUMBERS.get(base, ()) or not (isinstance(node_args[k], fx.Node) or k == 0)
            if number and not takes:
                args[k] = self._tensor_of(node_args[k], args[k])
        if base == "pow" and all(is_number):
            args[0] = self._tensor_of(node_args[0], args[0])
        words = [*args, *(f"{key}={value}" for key, value in kwargs.items())]
        function = getattr(torch, base, None)
        packet = getattr(torch.ops.aten, base)
        if function is None or base in NO_OUT or not any(name.endswith("out") for name in packet.overloads()):
            return f"{out}.copy_({self._function(function or node.target)}({', '.join(words)}))"
        return f"{self._function(function)}({', '.join([*words, f'out={out}'])})"

    def _is_host(self, arg: Any) -> bool:
        if isinstance(arg, fx.Node):
            return self.values.kinds[self.values.root(self.values.place[arg])] is Kind.HOST
        return isinstance(arg, int | float)

    def _tensor_of(self, arg: Any, text: str) -> str:
        if isinstance(arg, fx.Node):
            return self._tensor(self.values.root(self.values.place[arg]))
        return self._constant(torch.tensor(arg, device="cpu", dtype=torch.float64 if isinstance(arg, float) else None))
