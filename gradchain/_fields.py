"""Hyperparameter fields: reading their annotations, checking values against them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor


class ChainError(ValueError):
    """Something is wrong with a chain, a hyperparameter or a saved state.

    Every message says what is wrong, what was found and what to do.
    """


@cache
def field_hints(cls: type) -> dict[str, Any]:
    """Annotations of a dataclass, evaluated, with the intervals kept."""
    return get_type_hints(cls, include_extras=True)


def _inner(hint: Any) -> tuple[Any, str]:
    """(bare hint, interval) of a possibly Annotated hint."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[0], get_args(hint)[1]
    return hint, ""


@cache
def is_dynamic(cls: type, field: str) -> bool:
    """Whether a field may change from step to step: numbers that are not counts (float, or tuples of them)."""

    def holds_float(hint: Any) -> bool:
        bare, _ = _inner(hint)
        return bare is float or any(holds_float(arg) for arg in get_args(bare) if get_origin(bare) is not Literal)

    return holds_float(field_hints(cls)[field])


def _inside(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    return (low <= value if interval[0] == "[" else low < value) and (value <= high if interval[-1] == "]" else value < high)


def _number(value: Any, bare: type, interval: str) -> Any:
    """value as the field keeps it, or a sentence fragment (str) that says what would do."""
    wanted = f"{'a whole number' if bare is int else 'a number'}{f' in {interval}' if interval else ''}"
    if bare is float and isinstance(value, Tensor):
        return value.reshape(())
    if bare is float and callable(value):
        return value  # a schedule; its values are checked by nobody, like those a torch scheduler writes
    kind = numbers.Integral if bare is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        return f"{wanted}, a 0-d tensor or a schedule (step -> value)" if bare is float else wanted
    value = bare(cast(Any, value))
    return value if not math.isnan(value) and (not interval or _inside(value, interval)) else wanted


def _value(value: Any, hint: Any) -> tuple[bool, Any]:
    """(True, the value as kept) or (False, what would do)."""
    bare, interval = _inner(hint)
    origin, args = get_origin(bare), get_args(bare)
    if origin in (Union, UnionType):
        tried = [_value(value, arg) for arg in args]
        fitting = [kept for good, kept in tried if good]
        return (True, fitting[0]) if fitting else (False, " or ".join(wanted for _, wanted in tried))
    if origin is Literal:
        return (value in args, value if value in args else "one of " + ", ".join(map(repr, args)))
    if origin is tuple:
        if not isinstance(value, tuple | list) or len(value) != len(args):
            return False, f"{len(args)} numbers, ({', '.join('...' for _ in args)})"
        parts = [_value(v, a) for v, a in zip(value, args, strict=True)]
        wrong = [part for good, part in parts if not good]
        return (False, "each " + wrong[0]) if wrong else (True, tuple(part for _, part in parts))
    if bare in (int, float):
        kept = _number(value, bare, interval)
        return (False, kept) if isinstance(kept, str) else (True, kept)
    if origin is Callable:
        return callable(value), value if callable(value) else "a function"
    if bare is type(None):
        return (True, None) if value is None else (False, "None")
    return isinstance(value, bare), value if isinstance(value, bare) else f"a {bare.__name__}"


def checked(owner: str, field: str, value: Any, hint: Any) -> Any:
    """The value in the form the field keeps it; ChainError where it does not fit the annotation."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ChainError(f"{owner}: Tensor {field} must be 1-element; found shape {tuple(value.shape)}. Pass a 0-d tensor.")
    good, kept = _value(value, hint)
    if not good:
        raise ChainError(f"{owner}: {field} must be {kept}; found {value!r}. Pass a {field} that fits.")
    return kept
