"""A part of a chain for some parameters only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

from gradchain.chains.chain import Chain
from gradchain.chains.where import Where, rule
from gradchain.types import Transform

Part = TypeVar("Part", bound="Transform[Any] | Chain | tuple[Transform[Any], ...]")


def masked(part: Part, by: Where) -> Part:
    """The same link, or links, at work on the parameters that a rule takes, and absent for the others.

        masked(WeightDecay(weight_decay=0.1), by=~biases_and_norms)

    by: see ``gradchain.chains.where``. Where a link is absent it keeps no state, and a shared link does not measure. What a
    masked link writes can be read by links that are masked by the same rule.
    """
    if isinstance(part, Chain):
        return replace(part, links=masked(part.links, by))
    if isinstance(part, tuple):
        return cast(Part, tuple(masked(link, by) for link in cast("tuple[Transform[Any], ...]", part)))
    return replace(part, only=rule(by) if part.only is None else rule(part.only) & by)
