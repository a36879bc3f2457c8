"""Keywords that an original program took and did nothing with, or that say what holds here anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

from gradchain.chains.chain import Chain
from gradchain.types import ChainError

P = ParamSpec("P")


def refusing(
    why: str, *keywords: str, harmless: Mapping[str, Any] | None = None, switch: str = ""
) -> Callable[[Callable[P, Chain]], Callable[P, Chain]]:
    """A preset that says why it does not take these keywords.

    harmless: by keyword, the value with which the program does what the preset does; it is taken. switch: the keyword that
    makes all others harmless, where it has its harmless value.
    """
    idle = harmless or {}

    def means_nothing(key: str, given: Mapping[str, Any]) -> bool:
        return key in idle and type(given[key]) is type(idle[key]) and given[key] == idle[key]

    def around(preset: Callable[P, Chain]) -> Callable[P, Chain]:
        @wraps(preset)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Chain:
            off = switch in kwargs and means_nothing(switch, kwargs)
            for key in [key for key in keywords if key in kwargs]:
                if not off and not means_nothing(key, kwargs):
                    raise ChainError(f"{preset.__name__} does not take {key!r}: {why}. Leave it out.")
                del kwargs[key]
            return preset(*args, **kwargs)

        return checked

    return around
