"""What looks wrong in a chain that can run. Links say what they are by ``traits``; the rules stand here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gradchain.types import Transform

Links = Sequence[Transform[Any]]
ONCE = {
    "normalizes": "normalize the update",
    "aligns": "align the update with the gradient",
    "favors_b": "multiply the step of B in LoRA pairs",
    "learning_rate": "multiply by the learning rate",
}


def _having(links: Links, trait: str) -> list[str]:
    return [link.label for link in links if trait in link.traits]


def share_parameters(one: Transform[Any], other: Transform[Any]) -> bool:
    """Whether two links may work on one parameter: what masked() sets apart by different rules is taken for disjoint."""
    return one.only is None or other.only is None or one.only == other.only


def _meeting(links: Links) -> list[str]:
    """Names of the links that have a step in common with another of them; by Phase() links can take turns."""

    def overlap(one: Transform[Any], other: Transform[Any]) -> bool:
        (start, stop), (first, last) = one.window, other.window
        if not share_parameters(one, other):
            return False
        if not (one.scope.startswith(other.scope) or other.scope.startswith(one.scope)):
            return False  # in different branches
        return (last is None or start < last) and (stop is None or first < stop)

    return [one.label for one in links if any(overlap(one, other) for other in links if other is not one)]


def nonsense(links: Links) -> list[str]:
    """Complaints about chains that most likely do not do what was meant; building one with ``chain()`` warns."""
    found: list[str] = []
    for trait, what in ONCE.items():
        if names := _meeting([link for link in links if trait in link.traits]):
            found.append(f"{' and '.join(map(repr, names))} {what}; the second undoes or repeats the first. Keep one.")
    return found


def _order(links: Links) -> Iterator[str]:
    """Remarks on pairs of links that work on the same parameters, in the order in which they stand."""
    for i, link in enumerate(links):
        for later in links[i + 1 :]:
            if not share_parameters(link, later):
                continue
            if "caps" in link.traits and "enlarges" in later.traits:
                yield f"{later.label!r} may enlarge what {link.label!r} has capped. Put {link.label!r} behind it."
            if "learning_rate" in link.traits and "decays" in later.traits:
                yield f"{later.label!r} stands after the learning rate, so its decay is not scaled by it. Put it before."
            if "gate" in link.writes and "decays" in later.traits:
                yield f"{link.label!r} skips steps, and where it does, the decay of {later.label!r} is skipped with them."
            if "averages" in link.traits and "update" in later.writes:
                yield f"{link.label!r} averages the weights without what {later.label!r} does to the step. Put it last."


def lints(links: Links) -> list[str]:
    """All remarks on a chain, for ``describe()``."""
    found = [*nonsense(links), *_order(links)]
    if not _having(links, "learning_rate"):
        found.append("no learning rate: the optimizer appends LearningRate(lr=1.0).")
    for i, link in enumerate(links):
        if "second_moment" in link.writes and not any("second_moment" in later.reads for later in links[i + 1 :]):
            found.append(f"{link.label!r} writes second_moment, and no link after it reads it.")
        if is_off(link):
            found.append(f"{link.label!r} is off ({', '.join(f'{k}={v:g}' for k, v in link.off.items())}).")
    return found


def is_off(link: Transform[Any]) -> bool:
    """Whether a link's hyperparameters make it do nothing."""
    return bool(link.off) and all(isinstance(v := getattr(link, k), float) and v == off for k, off in link.off.items())
