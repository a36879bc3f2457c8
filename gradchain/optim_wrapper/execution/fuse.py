"""Products and sums as one operation, where torch has one: fewer calls, and fewer passes over memory.

add(x, mul(y, a))                add(x, y, alpha=a)         a: a number of the host
sub(x, mul(y, a))                sub(x, y, alpha=a)
add(x, mul(y, z))                addcmul(x, y, z)           x, y, z: one number per element each
add(x, mul(mul(y, z), a))        addcmul(x, y, z, value=a)
add(x, div(y, z)), likewise      addcdiv(x, y, z)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from gradchain.optim_wrapper.execution.values import Kind, Values, name_of, value_of


@dataclass(frozen=True)
class Fused:
    """An operation that takes the place of several."""

    name: str  # add, sub, addcmul, addcdiv
    tensors: tuple[int, ...]
    factor: Any  # a node on the host, a number, or None
    negative: bool = False  # whether to subtract

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

    def own(j: int | None, names: tuple[str, ...]) -> bool:
        return j is not None and j not in kept and users.get(j) == 1 and _plain(values, j, names)

    def flat(j: int | None) -> bool:
        return j is not None and values.kinds[j] is Kind.FLAT and value_of(values.first.nodes[j]).dtype == value_of(node).dtype

    for base, taken in ways:
        x, product = terms[base], terms[taken]
        if not flat(x) or not own(product, ("mul.Tensor", "div.Tensor")) or x is None or product is None or x == product:
            continue
        y, factor = _scaled(values, product)
        if y is None:
            pair = _pair(values, product, flat)
            name = "addcmul" if _is_product(values, product) else "addcdiv"
            inner, scale = _scaled(values, pair[0]) if pair is not None and own(pair[0], ("mul.Tensor",)) else (None, None)
            if pair is not None and inner is not None and flat(inner):
                return Fused(name, (x, inner, pair[1]), scale, negative)
            if pair is not None:
                return Fused(name, (x, *pair), None, negative)
            continue
        if not flat(y):
            continue
        if own(y, ("mul.Tensor", "div.Tensor")) and (pair := _pair(values, y, flat)) is not None:
            return Fused("addcmul" if _is_product(values, y) else "addcdiv", (x, *pair), factor, negative)
        return Fused("sub" if negative else "add", (x, y), factor)
    return None


def _is_product(values: Values, i: int) -> bool:
    return name_of(values.first.nodes[i]) == "mul.Tensor"


def _scaled(values: Values, i: int) -> tuple[int | None, Any]:
    """(value, factor) of a product with a number of the host; (None, None) of another one."""
    if not _is_product(values, i):
        return None, None
    for a, b in (values.first.nodes[i].args, values.first.nodes[i].args[::-1]):
        on_host = isinstance(b, int | float) or (
            isinstance(b, fx.Node) and values.kinds[values.root(values.place[b])] is Kind.HOST
        )
        if isinstance(a, fx.Node) and on_host and values.kinds[values.root(values.place[a])] is Kind.FLAT:
            return values.root(values.place[a]), b
    return None, None


def _pair(values: Values, i: int, flat: Any) -> tuple[int, int] | None:
    """The two factors of a product, or dividend and divisor, if both have one number per element."""
    args = values.first.nodes[i].args
    places = [values.root(values.place[arg]) if isinstance(arg, fx.Node) else None for arg in args[:2]]
    if len(args) != 2 or values.first.nodes[i].kwargs or not all(map(flat, places)):
        return None
    first, second = places
    assert first is not None and second is not None
    return first, second


def function_of(fused: Fused) -> Any:
    return getattr(torch, fused.name)
