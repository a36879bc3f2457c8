"""Check the declarations of a class of links: when it is defined or, if they name fields, with its first link."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, cast, get_type_hints

from torch import Tensor

from gradchain._fields import ChainError, nearest

RESERVED = ("step", "since")  # names of states that count steps
COUNTS = ("step", "optimizer_step")  # of Context, by which a refresh can fall due
REACHES = ("optimizer", "group")  # parameters for which a common state is one number


def _known_only(where: str, attribute: str, found: Iterable[str], known: Collection[str]) -> None:
    """ChainError where one of the names is unknown."""
    for name in found:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            near = nearest(name, known, 0.6)
            hint = "Use one of these." if near is None else f"Did you mean {near!r}?"
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
    if "eager" not in cls.traits and (taken := [name for name in names if name in RESERVED]):
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
