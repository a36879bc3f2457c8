"""Phase: a link that works between two steps of the run, and stands still before and after.

    start <= t < stop   the link;   otherwise   update and state stay as they are

Reads    what the link reads.   Writes  what the link writes.   State  the link's own.   Cost  none outside its steps.
Shapes   the link's.   Units  the link's.   t is the parameter's own count of steps with a gradient, 1 on the first.
Place    where the link would stand. Two links may take turns: Phase(Grams(), stop=50), Phase(Cautious(), start=50).
         An average that is corrected for its start from t = 1 starts small where it starts late.
Fields   start: first step at which the link works, >= 1; stop: first step at which it no longer does, None for never.
Raises   ChainError if start or stop is no whole number >= 1, or stop is not after start.
Source   the phases of Automagic CameAMP (hinablue/sd-scripts); MultiSteps and conditional transforms of optax are its kin.
Differs  there the phase is asked for inside each technique. Here the optimizer decides on the host, so that a link that is
         off costs nothing; only a traced graph works out both and selects.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from gradchain.types import Transform

T = TypeVar("T", bound=Transform[Any])


def Phase(link: T, *, start: int = 1, stop: int | None = None) -> T:
    """The same link, at work from step ``start`` until the step before ``stop``; its name and keys stay what they are."""
    return replace(link, window=(start, stop))
