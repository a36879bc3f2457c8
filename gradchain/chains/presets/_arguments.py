"""Arguments of presets: checked against their annotations, and handed on from a preset to its forms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from gradchain._fields import checked, refuse_unknown
from gradchain.chains.chain import Chain
from gradchain.chains.partition import Recipe

P = ParamSpec("P")
R = TypeVar("R", bound=Recipe)
F = TypeVar("F", bound=Callable[..., Chain])


def preset(function: Callable[P, R]) -> Callable[P, R]:
    """A preset that answers a keyword it does not take with its own name and the nearest one."""

    @wraps(function)
    def with_known_keywords(*args: P.args, **kwargs: P.kwargs) -> R:
        refuse_unknown(function.__name__, with_known_keywords, kwargs)
        return function(*args, **kwargs)

    return with_known_keywords


def checking(preset: Callable[P, Chain]) -> Callable[P, Chain]:
    """A preset whose arguments are checked as fields of links are, before it computes with them."""
    takes = inspect.signature(preset, eval_str=True)

    @wraps(preset)
    def with_checks(*args: P.args, **kwargs: P.kwargs) -> Chain:
        given = takes.bind(*args, **kwargs)
        for key, value in given.arguments.items():
            takes_here = takes.parameters[key]
            given.arguments[key] = checked(repr(preset.__name__), key, value, takes_here.annotation, takes_here.default)
        return preset(*given.args, **given.kwargs)

    return with_checks


def form_of(preset: Callable[..., Chain]) -> Callable[[F], F]:
    """Shows in a form's signature, behind its own keywords, the keywords that it hands on to the preset."""
    all_keywords = inspect.signature(preset, eval_str=True).parameters

    def showing(form: F) -> F:
        own = inspect.signature(form, eval_str=True).parameters
        shown = [
            all_keywords[key].replace(kind=inspect.Parameter.KEYWORD_ONLY) if key not in own else own[key]
            for key in all_keywords
        ]
        vars(form)["__signature__"] = inspect.Signature(shown, return_annotation=Chain)
        return form

    return showing
