"""Shapes and dtypes of what a function of tensors gives, without doing its work, and once for all functions alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

_KNOWN: dict[Any, Any] = {}


def foreseen(work: Callable[..., Any], pieces: Sequence[Tensor], shape: torch.Size) -> Any:
    """What ``work`` gives for tensors of this shape with the pieces' dtypes, as tensors of the meta device.

    It is found by running the work on tensors without data. That takes longer than most work itself, so it is done once
    for functions that differ only in the values of tensors.
    """
    key = (_likeness(work), tuple(piece.dtype for piece in pieces), shape)
    if key not in _KNOWN:
        with FakeTensorMode(allow_non_fake_inputs=True):
            done = work(*[piece.new_empty(shape) for piece in pieces])
        _KNOWN[key] = tree_map_only(Tensor, _without_data, done)
    return _KNOWN[key]


def _without_data(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _likeness(x: Any) -> Any:
    """Equal for functions whose results have the same shapes: same code, around it the same numbers, and tensors alike."""
    if isinstance(x, Tensor):
        return tuple(x.shape), x.dtype
    if isinstance(x, FunctionType):
        return x.__code__, _likeness(x.__defaults__), _likeness(tuple(cell.cell_contents for cell in x.__closure__ or ()))
    if isinstance(x, MethodType):
        return _likeness(x.__func__), _likeness(x.__self__)
    if isinstance(x, partial):
        return _likeness(x.func), _likeness(x.args), _likeness(tuple(x.keywords.items()))
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return type(x), tuple(_likeness(getattr(x, field.name)) for field in dataclasses.fields(x))
    if isinstance(x, tuple):
        return type(x), *map(_likeness, x)  # pyright: ignore[reportUnknownVariableType] (of anything)
    return x if isinstance(x, int | float | str | torch.dtype | type | BuiltinFunctionType | None) else type(x)
