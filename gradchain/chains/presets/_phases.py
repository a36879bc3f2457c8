"""Phases in the length of a warm-up, which the CameAMP presets share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradchain.transforms import Phase
from gradchain.types import Transform

Link = Transform[Any]


def half_of(warmup_steps: int) -> int:
    """The first step that is not below half of the warm-up."""
    return max(1, -(-warmup_steps // 2))


def when(wanted: bool, *links: Link) -> Sequence[Link]:
    """The links, or none."""
    return links if wanted else ()


def until(stop: int, *links: Link) -> Sequence[Link]:
    """The links at work until the step before; none where that is before the first step."""
    return [Phase(link, stop=stop) for link in links] if stop > 1 else []


def since(start: int, *links: Link) -> Sequence[Link]:
    """The links at work from this step on."""
    return [Phase(link, start=start) for link in links]
