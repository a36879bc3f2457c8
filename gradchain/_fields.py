"""Hyperparameter fields: reading their annotations, checking values against them, and what classes declare of them."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
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
    if bare is Any:
        return True, value
    if isinstance(origin, type):  # dict[str, float] and the like: what is in it is the link's business
        return isinstance(value, origin), value if isinstance(value, origin) else f"a {origin.__name__}"
    if bare is type(None):
        return (True, None) if value is None else (False, "None")
    return isinstance(value, bare), value if isinstance(value, bare) else f"a {bare.__name__}"


class Same:
    """Stands for a value that has no hash: equal to what stands for the very same object."""

    def __init__(self, value: Any) -> None:
        self.value = value  # kept, so that no other object takes its place in memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def hashable(value: Any) -> Hashable:
    """The value, or where it has no hash, what can stand for it in comparisons: by content for dicts, lists, sets, arrays."""
    if isinstance(value, dict):
        return (dict, *((key, hashable(own)) for key, own in cast("dict[Any, Any]", value).items()))
    if isinstance(value, list | tuple):
        return (type(value), *map(hashable, cast("list[Any]", value)))
    if isinstance(value, set):
        return (set, frozenset(cast("set[Any]", value)))
    if hasattr(value, "__array_interface__"):
        return (type(value), value.shape, str(value.dtype), value.tobytes())
    try:
        hash(value)
    except TypeError:
        return Same(value)
    return value


def checked(owner: str, field: str, value: Any, hint: Any) -> Any:
    """The value in the form the field keeps it; ChainError where it does not fit the annotation."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ChainError(f"{owner}: Tensor {field} must be 1-element; found shape {tuple(value.shape)}. Pass a 0-d tensor.")
    good, kept = _value(value, hint)
    if not good:
        raise ChainError(f"{owner}: {field} must be {kept}; found {value!r}. Pass a {field} that fits.")
    return kept


# What a class of links declares: checked when it is defined or, where fields are needed, with its first link.

RESERVED = ("step", "since")  # names of states that count steps
COUNTS = ("step", "optimizer_step")  # of Context, by which a refresh can fall due
REACHES = ("optimizer", "group")  # parameters for which a common state is one number


def _known_only(where: str, attribute: str, found: Iterable[str], known: Collection[str]) -> None:
    """ChainError where one of the names is unknown."""
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "Use one of these."
            names = ", ".join(sorted(known)) or "none"
            raise ChainError(f"{where}: {attribute} names {name!r}, which does not exist; there are: {names}. {hint}")


def check_class(cls: Any, traits: Collection[str], slots: Collection[str]) -> None:
    """ChainError where the class declares what nobody would look at."""
    where = f"class {cls.__name__}"
    for attribute, known in (("traits", traits), ("reads", slots), ("writes", slots)):
        found = getattr(cls, attribute)
        if not isinstance(found, set | frozenset):
            raise ChainError(f"{where}: {attribute} must be a set of names; found {found!r}. Write frozenset({{...}}).")
        _known_only(where, attribute, cast("Iterable[str]", found), known)
    if not isinstance(cls.alias, str) or "/" in cls.alias or "." in cls.alias:
        raise ChainError(f"{where}: {cls.alias!r} cannot name a link: '/' and '.' are kept for state keys. Use '_'.")
    if not isinstance(cls.off, Mapping):
        raise ChainError(
            f"{where}: off must map fields to the values at which they do nothing; found {cls.off!r}. Pass a dict."
        )
    state = cls.State
    if not (isinstance(state, type) and issubclass(state, tuple) and hasattr(state, "_fields")):
        raise ChainError(f"{where}: State must be a NamedTuple of tensors; found {state!r}. Derive it from typing.NamedTuple.")
    names: tuple[str, ...] = getattr(state, "_fields")  # noqa: B009 (a NamedTuple has it, a tuple does not)
    if taken := [name for name in names if name in RESERVED]:
        raise ChainError(f"{where}: a state cannot be named {taken[0]!r}, as counts of steps are. Choose another name.")
    if isinstance(cls.common, str):
        raise ChainError(f"{where}: common must be a tuple of names; found {cls.common!r}. Write ({cls.common!r},).")
    _known_only(where, "common", cls.common, names)
    _known_only(where, "common_to", [cls.common_to], REACHES)
    _known_only(where, "refreshes_by", [cls.refreshes_by], COUNTS)
    if cls.refreshes_by == "optimizer_step" and "optimizer_step" not in cls.traits:
        raise ChainError(f"{where} refreshes by optimizer_step, which is missing in its traits. Add it there.")


@cache
def check_fields(cls: Any) -> None:
    """ChainError where the class declares something about fields that it does not have, or a State of no tensors."""
    where, names = f"class {cls.__name__}", [field.name for field in fields(cls)]
    _known_only(where, "off", cls.off, [name for name in names if name not in cls.settings])
    _known_only(where, "settings", cls.settings, names)
    try:
        hints = get_type_hints(cls.State)
    except NameError:  # defined inside a function, with annotations that mean nothing outside
        return
    for name, hint in hints.items():
        if not (isinstance(hint, type) and issubclass(hint, Tensor)):
            raise ChainError(f"{where}: State must be a NamedTuple of tensors; found {name}: {hint}. Make it a Tensor.")


def check_schedule(label: str, schedule: Any) -> None:
    """ChainError where refresh_schedule is neither None nor (first step, interval)."""
    if schedule is None:
        return
    pair = cast("Sequence[Any]", schedule if isinstance(schedule, tuple) else ())
    whole = [isinstance(number, int) and not isinstance(number, bool) for number in pair]
    if whole != [True, True] or pair[1] < 1:
        found = "a method" if callable(schedule) else repr(schedule)
        raise ChainError(
            f"{label!r}: refresh_schedule must be a property that gives None or (first step, interval), whole numbers with an "
            f"interval of at least 1; found {found}. Return such a pair."
        )
