"""The operations that can stand in a loop over elements."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

from gradchain.optim_wrapper.execution.cpp import TYPES, Unwritten, expression
from gradchain.optim_wrapper.execution.sums import Sum
from gradchain.optim_wrapper.execution.trace import Trace
from gradchain.optim_wrapper.execution.values import base_of, is_pointwise, value_of

TOGETHER = ("cat", "stack")
MOST = 4096  # elements of a constant tensor
SUMS = ("sum", "mean", "linalg_vector_norm", "amax", "amin", "all", "any")
FILLS = {"zeros_like": 0, "ones_like": 1, "zeros": 0, "ones": 1, "new_zeros": 0, "new_ones": 1}  # operation -> number
FULLS = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}  # operation -> position of the number


def is_view(node: fx.Node) -> bool:
    """Whether an operation reads the memory of its input in another way."""
    schema = getattr(node.target, "_schema", None)
    returned = schema.returns[0].alias_info if schema is not None and schema.returns else None
    return returned is not None and not returned.is_write


def is_written(node: fx.Node) -> bool:
    """Whether an operation can stand in a loop."""
    base, known = base_of(node), cast("Any", node.meta.get("val"))
    inputs: list[Any] = [one.meta.get("val") for one in node.all_input_nodes]
    if any(not isinstance(one, Tensor) or one.dtype not in TYPES for one in [known, *inputs]):
        return False
    if any(one.op == "get_attr" and value_of(one).numel() > MOST for one in node.all_input_nodes):
        return False
    if base in FILLS or base in FULLS:
        return base in FILLS or not isinstance(node.args[FULLS[base]], fx.Node)
    if is_view(node):
        source = node.all_input_nodes[0]
        while is_view(source):
            source = source.all_input_nodes[0]
        return inputs[0].dtype == known.dtype and value_of(source).is_contiguous()
    if base in TOGETHER:
        return all(one.dim() for one in inputs)
    try:
        if base in SUMS:
            return bool(inputs[0].dim()) and Sum(0, node, "", "").keeps in (True, False)
        return (is_pointwise(node) or base in ("clone", "lift_fresh_copy")) and bool(expression(node, lambda arg, kind: "x"))
    except Unwritten:
        return False


def is_flat(trace: Trace) -> bool:
    """Whether every tensor of a trace has the parameter's shape, element for element, so that one loop serves all shapes."""
    shape = value_of(trace.nodes[0]).shape
    found: list[Any] = [node.meta.get("val") for node in trace.nodes]
    if not all(isinstance(value, Tensor) and value.shape in (shape, torch.Size()) for value in found):
        return False
    moved = any(is_view(node) and not value_of(node).is_contiguous() for node in trace.nodes if node.op == "call_function")
    return not moved and not any(base_of(node) in (*TOGETHER, "flip", "roll") for node in trace.nodes)
