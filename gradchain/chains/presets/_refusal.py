"""Keywords that an original program took and did nothing with."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from gradchain.chains.chain import Chain
from gradchain.types import ChainError

P = ParamSpec("P")


def refusing(why: str, *keywords: str) -> Callable[[Callable[P, Chain]], Callable[P, Chain]]:
    """A preset that says why it does not take these keywords."""

    def around(preset: Callable[P, Chain]) -> Callable[P, Chain]:
        @wraps(preset)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Chain:
            if refused := [key for key in keywords if key in kwargs]:
                raise ChainError(f"{preset.__name__} does not take {refused[0]!r}: {why}. Leave it out.")
            return preset(*args, **kwargs)

        return checked

    return around
