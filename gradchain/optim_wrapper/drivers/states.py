"""States of several parameters in one tensor, of which each parameter's state becomes a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradchain.optim_wrapper.rows import Row


class Kept(NamedTuple):
    """Stacks and buffers of a plan that the next plan uses again if they fit."""

    stacks: dict[tuple[int, ...], Tensor]  # of states, by the ids of their rows
    buffers: list[Tensor]  # of which parameters are rows, with ``flatten``


def stacked_state(rows: Sequence[Row], key: str, earlier: Kept, kept: Kept) -> Tensor:
    """A state of parameters of one shape in one tensor, whose rows become theirs; an earlier one where it is that already."""
    stack = earlier.stacks.get(tuple(id(row.state[key]) for row in rows))
    if stack is None or not _are_rows(stack, [row.state[key] for row in rows]):
        stack = torch.stack([row.state[key] for row in rows])
        for row, tensor in zip(rows, stack.unbind(), strict=True):
            row.state[key] = tensor
    kept.stacks[tuple(id(row.state[key]) for row in rows)] = stack
    return stack


def flat_state(rows: Sequence[Row], key: str, earlier: Kept, kept: Kept) -> Tensor:
    """A state of parameters of any shapes in one flat tensor, likewise."""
    own = [row.state[key] for row in rows]
    buffer = earlier.stacks.get(tuple(map(id, own)))
    if buffer is None or not _are_parts(buffer, own):
        buffer = torch.cat([tensor.reshape(-1) for tensor in own])
        parts = buffer.split([tensor.numel() for tensor in own])
        for row, tensor, part in zip(rows, own, parts, strict=True):
            row.state[key] = part.view(tensor.shape)
    kept.stacks[tuple(id(row.state[key]) for row in rows)] = buffer
    return buffer


def _are_rows(stack: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether these tensors still are the rows of the stack: users may have put other memory behind them."""
    if stack.dim() == 0 or len(stack) != len(tensors):
        return False
    places = [(row.data_ptr(), row.shape, row.stride()) for row in stack.unbind()]
    return places == [(tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in tensors]


def _are_parts(buffer: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether these tensors still lie one after the other in the buffer, and fill it."""
    at = buffer.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != at or not tensor.is_contiguous() or tensor.dtype != buffer.dtype:
            return False
        at += tensor.numel() * tensor.element_size()
    return buffer.dim() == 1 and at == buffer.data_ptr() + buffer.numel() * buffer.element_size()
