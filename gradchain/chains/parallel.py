"""Branches over the same gradient.

    parallel({"adam": chain(Moments(), Normalize()), "sgd": chain(Momentum())}, merge="graft")

Each branch starts from the carry that enters the parallel, with its own state and hyperparameters under its own name:
``state[p]["adam/moments/first"]``, ``group["adam/betas"]``. Behind the parallel stands one update; what branches have
written to other slots is gone with them. The links stand in the chain one after the other, so windows, masks, shared links
and surgery by name (``without("adam/normalize")``) work as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradchain.chains.branches import Branch, How, Merge
from gradchain.chains.chain import Chain, links_of
from gradchain.types import ChainError, Transform


def parallel(
    branches: Mapping[str, Transform[Any] | Chain | Sequence[Transform[Any]]], *, merge: How = "sum", name: str = "parallel"
) -> tuple[Transform[Any], ...]:
    """The branches and their merge, to stand in a chain.

    branches: a link, a chain or several links, by name. merge: "sum", "mean", "graft" (the length of the first branch's
    update, per parameter, with the direction of the second's), or a function of the sequence of updates. name: of the
    merging link; to be set where a chain has two parallels.
    """
    if len(branches) < 2 or (merge == "graft" and len(branches) > 2):
        wanted = "two branches, the first for the length" if merge == "graft" else "two branches or more"
        found = ", ".join(branches) or "none"
        raise ChainError(f"{name!r} needs {wanted}; found {found}. Pass {{'adam': chain(...), ...}}.")
    links: list[Transform[Any]] = []
    for label, part in branches.items():
        inner = links_of(part)
        if rates := [link.label for link in inner if link.traits & {"learning_rate", "owns", "averages"}]:
            raise ChainError(
                f"branch {label!r} has {rates[0]!r}, which belongs behind the merge, where there is one for all branches. "
                f"Leave it out with .without({rates[0]!r})."
            )
        if climbs := [link.label for link in inner if "perturbs" in link.traits]:
            raise ChainError(
                f"branch {label!r} has {climbs[0]!r}, which moves the parameters for all branches. Put it first in the chain."
            )
        links.append(Branch(name=label, first=not links))
        links += [replace(link, scope=f"{label}/{link.scope}".rstrip("/")) for link in inner]
    return (*links, Merge(name=name, merge=merge))
