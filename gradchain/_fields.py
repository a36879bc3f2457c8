"""Hyperparameter fields: reading their annotations, checking values against them, and what classes declare of them."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from torch import Tensor


class ChainError(ValueError):
    """Something is wrong with a chain, a hyperparameter or a saved state.

    Every message says what is wrong, what was found and what to do.
    """


class UnknownKeyword(ChainError, TypeError):
    """A keyword that a function does not take: a TypeError, as Python would raise it, with the nearest one suggested."""


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


def _plain(value: Any) -> Any:
    """A numpy scalar, or an array of one element, as the Python number that it holds; anything else as it is."""
    if isinstance(value, Tensor | numbers.Number) or getattr(value, "size", None) != 1:
        return value
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _number(value: Any, bare: type, interval: str) -> Any:
    """value as the field keeps it, or a sentence fragment (str) that names the accepted forms."""
    wanted = f"{'a whole number' if bare is int else 'a number'}{f' in {interval}' if interval else ''}"
    if bare is float and isinstance(value, Tensor):
        if value.numel() != 1:
            return f"{wanted}, a 0-d tensor or a schedule (step -> value)"
        return value if value.dim() == 0 else value.reshape(())  # the caller's own memory, which the caller may write to
    if bare is float and callable(value):
        return value  # a schedule; what it gives is checked when it is asked
    kind = numbers.Integral if bare is int else numbers.Real
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        return f"{wanted}, a 0-d tensor or a schedule (step -> value)" if bare is float else wanted
    value = bare(cast(Any, value))
    return value if not math.isnan(value) and (not interval or _inside(value, interval)) else wanted


def _sequence(value: Any) -> list[Any] | None:
    """The entries of a list, a tuple, an array or tensor of one dimension, or any other sequence that is no text; or None."""
    if isinstance(value, Tensor):
        return list(value.unbind()) if value.dim() == 1 else None  # views: a tensor is followed
    if isinstance(value, Sequence):
        return None if isinstance(value, str | bytes) else list(cast("Sequence[Any]", value))
    return list(value) if getattr(value, "ndim", None) == 1 else None


def _tuple(value: Any, args: tuple[Any, ...]) -> tuple[bool, Any]:
    entries = _sequence(value)
    if entries is None or len(entries) != len(args):
        return False, f"{len(args)} numbers, ({', '.join('...' for _ in args)})"
    parts = [_value(v, a) for v, a in zip(entries, args, strict=True)]
    wrong = [part for good, part in parts if not good]
    return (False, "each " + wrong[0]) if wrong else (True, tuple(part for _, part in parts))


def _value(value: Any, hint: Any) -> tuple[bool, Any]:
    """(True, the value as kept) or (False, the accepted forms in words)."""
    bare, interval = _inner(hint)
    origin, args = get_origin(bare), get_args(bare)
    if origin in (Union, UnionType):
        tried = [_value(value, arg) for arg in args]
        fitting = [kept for good, kept in tried if good]
        return (True, fitting[0]) if fitting else (False, " or ".join(wanted for _, wanted in tried))
    if origin is Literal:
        return (value in args, value if value in args else "one of " + ", ".join(map(repr, args)))
    if origin is tuple:
        return _tuple(value, args)
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
    value = _plain(value) if bare is bool else value
    return isinstance(value, bare), value if isinstance(value, bare) else _with_article(bare.__name__)


def _with_article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def nearest(word: Any, choices: Iterable[str], cutoff: float = 0.7) -> str | None:
    """The choice that was most likely meant by a word that is none of them."""
    if not isinstance(word, str):
        return None
    folded = {choice.lower(): choice for choice in reversed(list(choices))}
    found = difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=cutoff)
    return folded[found[0]] if found else None


def instead(word: Any, choices: Iterable[str]) -> str:
    """The last sentence of an error about a word that is none of the choices it lists."""
    meant = nearest(word, choices)
    return f"Did you mean {meant!r}?" if meant is not None else "Use one of these."


@cache
def _keywords(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The keywords that a function takes; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(one.name for one in parameters if one.kind in kinds and one.name != "self")


def refuse_unknown(name: str, function: Callable[..., Any], given: Iterable[str], more: Sequence[str] = ()) -> None:
    """UnknownKeyword where the function takes a keyword that was given neither by itself nor among ``more``."""
    takes = _keywords(function)
    if takes is None:
        return
    known = [*takes, *more]
    if unknown := [key for key in given if key not in known]:
        raise UnknownKeyword(
            f"{name} takes no keyword {unknown[0]!r}; it takes: {', '.join(known) or 'none'}. {instead(unknown[0], known)}"
        )


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


def _remedy(field: str, value: Any, hint: Any, like: Any) -> str:
    """The remedy that an error names: which values fit, ``like`` for example."""
    bare, _ = _inner(hint)
    if isinstance(value, str):
        if get_origin(bare) is Literal:
            return instead(value, [choice for choice in get_args(bare) if isinstance(choice, str)])
        try:
            return f"Pass a number, not a text: {field}={float(value)!r}."
        except ValueError:
            pass
    if isinstance(like, int | float | str | tuple) and _value(like, hint)[0]:
        return f"Pass {field}={like!r}, for example."
    return "Pass one of these." if get_origin(bare) in (Literal, Union, UnionType) else f"Pass {field} in this form."


def checked(owner: str, field: str, value: Any, hint: Any, like: Any = None) -> Any:
    """The value in the form the field keeps it; ChainError where it does not fit the annotation. like: one that fits."""
    good, kept = _value(value, hint)
    if good:
        return kept
    if isinstance(value, Tensor):
        found = f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
        if get_origin(_inner(hint)[0]) is not tuple and value.numel() != 1:
            raise ChainError(f"{owner}: Tensor {field} must be 1-element; found shape {tuple(value.shape)}. Pass a 0-d tensor.")
    else:
        found = repr(value)
    raise ChainError(f"{owner}: {field} must be {kept}; found {found}. {_remedy(field, value, hint, like)}")
