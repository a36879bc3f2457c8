"""Buffers of a bucket's function, and the function with its buffers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.execution.values import Kind


@dataclass(frozen=True)
class Run:
    """Parameters of one shape, next to each other in a bucket."""

    count: int
    shape: torch.Size


@dataclass
class Buffer:
    """Numbers of all parameters of a bucket."""

    kind: Kind
    dtype: torch.dtype
    source: str  # param, grad, state0, leaf1; empty for memory that only the function uses


@dataclass
class Code:
    """A function of a bucket, still without its buffers."""

    body: CodeType
    text: str
    buffers: dict[str, Buffer]
    views: dict[str, tuple[str, str, int]]  # name -> buffer, form, run
    lists: dict[str, list[str]]  # name -> names of views
    fixed: dict[str, Any]  # name -> functions and constants
    made: Kind  # of the first output
    out: str  # the buffer that holds it, if there is one


def bound(code: Code, runs: Sequence[Run], buffers: dict[str, Tensor]) -> Callable[[Any, Any, Any], Any]:
    """The function with its buffers."""
    scope: dict[str, Any] = {**code.fixed, **buffers}
    for name, (buffer, form, run) in code.views.items():
        scope[name] = view(buffers[buffer], form, run, runs, code.buffers[buffer].kind)
    for name, names in code.lists.items():
        scope[name] = [scope[one] for one in names]
    exec(code.body, scope)
    return scope.pop("run")  # left in its own globals, it would be in a cycle with the state


def view(buffer: Any, form: str, run: int, runs: Sequence[Run], kind: Kind) -> Tensor:
    """The part of a buffer that belongs to the parameters of one shape."""
    if kind is Kind.SHAPED:  # a list of tensors
        return buffer[run]
    count, shape = runs[run].count, runs[run].shape
    width = [one.shape.numel() if kind is Kind.FLAT else 1 for one in runs]
    start = sum(one.count * wide for one, wide in zip(runs[:run], width, strict=False))
    part = buffer[start : start + count * width[run]]
    if form == "each":
        return part
    if form in ("rows", "column"):
        return part.view(count, width[run])
    own = tuple(shape) if kind is Kind.FLAT else ()
    return part.view((count, *own) if count > 1 else own)


class Scratch:
    """Memory that buckets use one after the other."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}

    def take(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        found = self._tensors.get((name, dtype, device))
        if found is None or found.numel() < size:
            found = self._tensors[name, dtype, device] = torch.zeros(size, dtype=dtype, device=device)
        return found[:size]
