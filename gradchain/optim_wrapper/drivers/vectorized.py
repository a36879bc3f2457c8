"""What compiled code should not do: convert, divide by numbers and test floats for each element; write a state twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
ELEMENTWISE = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Inductor's; and tests of floats, which it would make one element at a time, in a form that it vectorizes."""
    from torch._inductor.decomposition import select_decomp_table

    def replaced(x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Tensor:
        limits, nan = torch.finfo(x.dtype), nan or 0.0
        if nan == posinf == neginf:
            return torch.where(x.abs() < torch.inf, x, nan)
        x = torch.where(x == torch.inf, limits.max if posinf is None else posinf, x)
        x = torch.where(x == -torch.inf, limits.min if neginf is None else neginf, x)
        return torch.where(x == x, x, nan)

    def isnan(x: Tensor) -> Tensor:
        return x != x

    def isfinite(x: Tensor) -> Tensor:
        return x.abs() < torch.inf

    def clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
        if min == 0 and max is None and x.is_floating_point():
            return x.relu()  # one instruction for four
        return ordinary(x, min, max)

    def to_copy(x: Any, *, dtype: torch.dtype | None = None, **more: Any) -> Any:
        if isinstance(x, Tensor):
            return copied(x, dtype=dtype, **more)
        return torch.sym_float(x) if dtype is not None and dtype.is_floating_point else x  # vmap hands sizes on as tensors

    table = select_decomp_table()
    ordinary = table.get(aten.clamp.default, lambda *_: NotImplemented)
    copied = table[aten._to_copy.default]
    own = {aten.isnan.default: isnan, aten.isfinite.default: isfinite, aten.nan_to_num.default: replaced}
    return {**table, **own, aten.clamp.default: clamp, aten._to_copy.default: to_copy}


def prepared(graph: fx.Graph, on_host: set[fx.Node]) -> set[fx.Node]:
    """New nodes for the host: numbers in the dtype of the tensors that they meet, and inverse where these are divided.

    Inside a loop over elements, a conversion or a division would be made for every element.
    """
    made: dict[tuple[fx.Node, bool, torch.dtype], fx.Node] = {}
    for node in list(graph.nodes):
        if node.target not in ELEMENTWISE or len(node.args) != 2 or node.kwargs:
            continue
        if node.target is aten.div.Tensor and isinstance(node.args[1], int | float) and node.args[1] != 0:
            node.target, node.args = aten.mul.Tensor, (node.args[0], 1 / node.args[1])
            continue
        place = 1 if _is_number(node.args[1]) else 0
        number, tensor = node.args[place], node.args[1 - place]
        if not _is_number(number) or _is_number(tensor) or not _is_tensor(tensor):
            continue
        divided, dtype = node.target is aten.div.Tensor and place == 1, tensor.meta["val"].dtype
        if number.meta["val"].dtype == dtype and not divided:
            continue
        if (number, divided, dtype) not in made:
            made[number, divided, dtype] = _converted(graph, number, divided, dtype)
        new = made[number, divided, dtype]
        node.args = (tensor, new) if place == 1 else (new, tensor)
        node.target = aten.mul.Tensor if divided else node.target
    return {new for (number, *_), one in made.items() if number in on_host for new in (one, *one.all_input_nodes)}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)  # others are symbols of sizes


def _is_number(node: Any) -> bool:
    return _is_tensor(node) and node.meta["val"].dim() == 0


def set_apart(graph: fx.Graph) -> None:
    """Have inductor store what is made of sums before the loops that use it, where it would be made for every element.

    It stores what is looked at with strides.
    """
    for node in list(graph.nodes):
        if node.op == "placeholder" or not _is_number(node):
            continue
        users = [user for user in node.users if not _is_number(user) and user.op == "call_function"]
        if users:
            with graph.inserting_after(node):
                stored = graph.call_function(aten.as_strided.default, (node, (), ()))
            stored.meta["val"] = node.meta["val"]
            for user in users:
                user.replace_input_with(node, stored)


def store_early(graph: fx.Graph) -> None:
    """Have a new state written as soon as it is made, and read from there.

    On a GPU what looks at neighbours is another kernel, for which inductor would keep a copy beside the state.
    """
    for node in [node for node in graph.nodes if node.target is aten.copy_.default]:
        state, value = node.args[:2]
        if value.op != "call_function" or len(value.users) < 2 or value.meta["val"].dtype != state.meta["val"].dtype:
            continue
        order = {other: i for i, other in enumerate(graph.nodes)}
        if any(order[user] > order[value] for one in _views(state) for user in one.users if user is not node):
            continue  # the old state is still looked at
        with graph.inserting_after(value):
            stored = graph.call_function(aten.copy_.default, (state, value))
        stored.meta["val"] = state.meta["val"]
        for user in [user for user in value.users if user not in (stored, node)]:
            user.replace_input_with(value, stored)
        node.replace_all_uses_with(stored)
        graph.erase_node(node)


def _views(node: fx.Node) -> list[fx.Node]:
    """The node and what looks at its memory, found through the schemas of operations."""
    found = [node]
    for one in found:
        found += [user for user in one.users if _is_view(user) and user not in found]
    return found


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(one.alias_info is not None for one in schema.returns)


def _converted(graph: fx.Graph, number: fx.Node, inverse: bool, dtype: torch.dtype) -> fx.Node:
    """The number, or its inverse, in this dtype: a new node behind it."""
    behind = next(node for node in graph.nodes if node.op != "placeholder") if number.op == "placeholder" else number.next
    with graph.inserting_before(behind):
        if inverse:
            value = number.meta["val"]
            number = graph.call_function(aten.reciprocal.default, (number,))
            number.meta["val"] = value.reciprocal()
        new = graph.call_function(torch.ops.prims.convert_element_type.default, (number, dtype))
        new.meta["val"] = number.meta["val"].to(dtype)
    return new
