"""One graph for parameters of many sizes: it is traced with symbols for sizes, and says which sizes it holds for.

torch gives dimensions of equal size the same symbol, so a graph traced on a square matrix would be one for square matrices. A
graph is traced on stand-ins, therefore: tensors in which no two dimensions of the parameter have the same size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

Shape = Sequence[int]
StateShapes = Callable[[Shape], Sequence[Shape]]


def likeness(tensors: Sequence[Tensor]) -> Hashable | None:
    """A key that tensors of different sizes share if one graph may serve them; None for strides that no order explains."""
    forms: list[Hashable] = []
    for x in tensors:
        order = _order(x)
        if order is None:
            return None
        forms.append((order, tuple(size if size < 2 else -1 for size in x.shape), x.dtype, x.device))
    return tuple(forms)


def stand_in_shapes(tensors: Sequence[Tensor], states: StateShapes, own: Collection[int] = ()) -> list[Shape]:
    """Shapes to trace with, close to those of the tensors: the parameter, its gradient, its states, and others.

    states: gives the shapes of the states of a parameter of some shape. own: positions of tensors whose first size stands for
    itself, though it may equal one of the parameter.
    """
    param = tensors[0].shape
    taken: set[int] = set()
    sizes = [_free(size, taken) for size in param]
    others: dict[int, int] = {}

    def of(size: int, d: int) -> int:
        if d < len(param) and param[d] == size:
            return sizes[d]
        if size in param:
            return sizes[param.index(size)]
        if size == math.prod(param[1:]):  # of the parameter as a matrix
            return math.prod(sizes[1:])
        if size not in others:
            others[size] = _free(size, taken)
        return others[size]

    shapes: list[Shape] = [[of(size, d) for d, size in enumerate(x.shape)] for x in tensors]
    for i, (there, known) in enumerate(zip(states(param), states(sizes), strict=False)):
        if there == tensors[i + 2].shape:
            shapes[i + 2] = known
    for i in own:
        shapes[i] = [_free(tensors[i].shape[0], taken), *shapes[i][1:]]
    return shapes


def stand_in(tensor: Tensor, shape: Shape) -> Tensor:
    """A tensor of this shape whose dimensions lie in memory as those of the other do."""
    return torch.empty_permuted(tuple(shape), _order(tensor) or (), dtype=tensor.dtype, device=tensor.device)


def holds(graph: fx.Graph, tensors: Sequence[Tensor]) -> bool:
    """Whether a graph that was traced with symbols is right for these tensors, which are its inputs."""
    sizes: dict[Any, int] = {}
    derived: list[tuple[Any, int]] = []
    environment: ShapeEnv | None = None
    inputs = [node for node in graph.nodes if node.op == "placeholder"][: len(tensors)]
    for node, tensor in zip(inputs, tensors, strict=True):
        for size, actual in zip(node.meta["val"].shape, tensor.shape, strict=True):
            if isinstance(size, int):
                if size != actual:
                    return False
                continue
            environment, expression = size.node.shape_env, size.node.expr
            if not expression.is_Symbol:
                derived.append((expression, actual))
            elif sizes.setdefault(expression, actual) != actual:
                return False
    if environment is None:
        return True
    conditions = [environment.replace(guard.expr) for guard in environment.guards]  # that tracing and compiling rely on
    return all(expression.xreplace(sizes) == actual for expression, actual in derived) and all(
        bool(condition.xreplace(sizes)) for condition in conditions
    )


def _order(tensor: Tensor) -> tuple[int, ...] | None:
    """The dimensions from the outermost to the innermost in memory; None where they do not tell the strides."""
    order = tuple(sorted(range(tensor.dim()), key=lambda d: -tensor.stride(d)))
    dense = torch.empty_permuted(tuple(tensor.shape), order, device="meta")
    return order if dense.stride() == tensor.stride() else None


def _free(size: int, taken: set[int]) -> int:
    """A size near this one that no other dimension has; 0 and 1 are no sizes for a symbol."""
    while size > 1 and size in taken:
        size += 1
    taken.add(size)
    return size
