"""Products and sums as one operation, where torch has one: fewer calls, and fewer passes over memory.

    add(x, mul(y, a))            add(x, y, alpha=a)              a: a number of the host
    sub(x, mul(y, a))            sub(x, y, alpha=a)
    add(x, mul(mul(y, a), y))    addcmul(x, y, y, value=a)       the update of a second moment; or mul(mul(y, y), a)

Other products and quotients stay as they are. They may be an update, which would be rounded in another way than the link behind
them sees it: a chain would change in the last digit when a link is taken out that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.values import Kind, Values, base_of, name_of, value_of


@dataclass(frozen=True)
class Fused:
    """An operation that takes the place of several."""

    name: str  # add, sub, addcmul
    tensors: tuple[int, ...]
    factor: Any  # a node on the host, or a number

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        return (self.factor,) if isinstance(self.factor, fx.Node) else ()


def fuse(values: Values, outputs: list[int]) -> dict[int, Fused]:
    """The sums that can take in a product which nothing else needs."""
    users: dict[int, int] = {}
    for i, node in enumerate(values.first.nodes):
        for j in {values.root(values.place[one]) for one in node.all_input_nodes} if i not in values.same_as else ():
            users[j] = users.get(j, 0) + 1
    kept = {values.root(i) for i in outputs}
    found: dict[int, Fused] = {}
    for i, node in enumerate(values.first.nodes):
        if _plain(values, i, ("add.Tensor", "sub.Tensor")) and not node.kwargs and len(node.args) == 2:
            one = _sum(values, i, node, users, kept)
            if one is not None:
                found[i] = one
    return found


def _plain(values: Values, i: int, names: tuple[str, ...]) -> bool:
    """Whether a value is the result of one of these operations on whole buffers of floats."""
    node = values.first.nodes[i]
    if node.op != "call_function" or values.kinds[i] is not Kind.FLAT or i in values.resident or i in values.same_as:
        return False
    return name_of(node) in names and value_of(node).is_floating_point() and not any(value == i for value, _ in values.columns)


def _sum(values: Values, i: int, node: fx.Node, users: dict[int, int], kept: set[int]) -> Fused | None:
    negative = name_of(node) == "sub.Tensor"
    terms = [values.root(values.place[arg]) if isinstance(arg, fx.Node) else None for arg in node.args]
    ways = [(0, 1)] if negative else [(0, 1), (1, 0)]

    def own(j: int | None) -> bool:
        return j is not None and j not in kept and users.get(j) == 1 and _plain(values, j, ("mul.Tensor",))

    def flat(j: int | None) -> bool:
        return j is not None and values.kinds[j] is Kind.FLAT and value_of(values.first.nodes[j]).dtype == value_of(node).dtype

    for base, taken in ways:
        x, product = terms[base], terms[taken]
        if not flat(x) or not own(product) or x is None or product is None or x == product:
            continue
        y, factor = _scaled(values, product)
        square = None if negative else _square(values, product, y, factor, own)
        if square is not None and flat(square[0]):
            return Fused("addcmul", (x, square[0], square[0]), square[1])
        if y is not None and flat(y):
            return Fused("sub" if negative else "add", (x, y), factor)
    return None


def _square(values: Values, product: int, y: int | None, factor: Any, own: Callable[[int], bool]) -> tuple[int, Any] | None:
    """(value, factor) of a product that is the square of a value times a number of the host."""
    if y is not None:  # (z * z) * factor
        first, second = _factors(values, y) if own(y) else (None, None)
        return (first, factor) if first is not None and first == second else None
    first, second = _factors(values, product)
    for a, b in ((first, second), (second, first)):  # (z * factor) * z
        if a is not None and own(a):
            inner, factor = _scaled(values, a)
            if inner is not None and inner == b:
                return inner, factor
    return None


def _factors(values: Values, i: int) -> tuple[int | None, int | None]:
    """The two factors of a product, where they are values."""
    node = values.first.nodes[i]
    if base_of(node) != "mul" or len(node.args) != 2:
        return None, None
    first, second = (values.root(values.place[arg]) if isinstance(arg, fx.Node) else None for arg in node.args)
    return first, second


def _scaled(values: Values, i: int) -> tuple[int | None, Any]:
    """(value, factor) of a product with a number of the host; (None, None) of another one."""
    for a, b in (values.first.nodes[i].args, values.first.nodes[i].args[::-1]):
        on_host = isinstance(b, int | float) or (
            isinstance(b, fx.Node) and values.kinds[values.root(values.place[b])] is Kind.HOST
        )
        if isinstance(a, fx.Node) and on_host and values.kinds[values.root(values.place[a])] is Kind.FLAT:
            return values.root(values.place[a]), b
    return None, None


def function_of(fused: Fused) -> Any:
    return getattr(torch, fused.name)
