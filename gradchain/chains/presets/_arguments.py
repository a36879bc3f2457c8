"""Arguments of presets: checked against their annotations, and handed on from a preset to its forms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from gradchain._fields import checked
from gradchain.chains.chain import Chain

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Chain])


def checking(preset: Callable[P, Chain]) -> Callable[P, Chain]:
    """A preset whose arguments are checked as fields of links are, before it computes with them."""
    takes = inspect.signature(preset, eval_str=True)

    @wraps(preset)
    def with_checks(*args: P.args, **kwargs: P.kwargs) -> Chain:
        given = takes.bind(*args, **kwargs)
        for key, value in given.arguments.items():
            given.arguments[key] = checked(repr(preset.__name__), key, value, takes.parameters[key].annotation)
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
