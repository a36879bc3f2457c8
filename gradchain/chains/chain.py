"""A chain: an ordered, checked sequence of links, and the surgery on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from gradchain._fields import instead
from gradchain.chains.branches import Branch, Merge
from gradchain.chains.describe import describe
from gradchain.chains.lints import nonsense, share_parameters
from gradchain.chains.runnable import Runnable
from gradchain.types import ChainError, ChainWarning, Transform

GIVEN = frozenset(  # hold something at the start
    {"grad", "param", "update", "gate", "processed", "scale", "bump_scale", "eps_scale"}
)
ONE = {  # traits of which a parameter can have one
    "owns": "own the parameter's write",
    "averages": "give the weights to evaluate with",
    "perturbs": "send the parameters uphill in one step",
}
WRITERS = {
    "second_moment": "Moments() or SecondMoment()",
    "residual": "ResidualMomentum() or TorqueMomentum()",
    "regularized": "DualMomentum()",
}
SLOTS = GIVEN | WRITERS.keys()
# keys in parameter groups that belong to schedulers and trainers
FOREIGN = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "lr_scale"}


@dataclass(frozen=True, repr=False)
class Chain(Runnable):
    """Links in the order in which they run; checked when built. Make one with ``chain(...)`` or a preset."""

    links: tuple[Transform[Any], ...]
    note: str = field(default="", compare=False)  # what an ablation took out besides the link it is named after

    def __post_init__(self) -> None:
        for link in self.links:
            if not isinstance(link, Transform):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ChainError(f"a chain is made of transforms; found {link!r}. Pass instances, as in Normalize(eps=1e-8).")
        _check_names(self.links)
        _check_branches(self.links)
        _check_owners(self.links)
        _check_slots(self.links)
        _ = self.hyperparameters

    @property
    def parts(self) -> Mapping[str, Chain]:
        """The chain under no label, as ``Partition.parts`` has several by label."""
        return {"": self}

    def label_of(self, group: Mapping[str, Any]) -> str:
        """The key in ``parts`` of the chain that a parameter group runs."""
        return ""

    def map(self, change: Callable[[Chain], Chain]) -> Chain:
        """The chain changed, as ``Partition.map`` changes every one."""
        return change(self)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(link.label for link in self.links)

    @property
    def hyperparameters(self) -> dict[str, tuple[Transform[Any], str]]:
        """Key in ``param_groups`` -> (link, field).

        The key is the field's name; with the link's name ahead where it was given one, or where schedulers write into that key.
        """
        keys: dict[str, tuple[Transform[Any], str]] = {}
        for link in self.links:
            for field_name in link.hyperparameters():
                named = link.name or field_name in FOREIGN
                key = "/".join(filter(None, (link.label if named else link.scope, field_name)))
                if key in keys:
                    raise ChainError(
                        f"{keys[key][0].label!r} and {link.label!r} both have a hyperparameter {key!r}, so a parameter group "
                        f"could not tell them apart. Name one of them, as in {type(link).__name__}(name='my_{link.label}'): "
                        f"its key is then 'my_{link.label}/{field_name}'."
                    )
                keys[key] = (link, field_name)
        return keys

    def __getitem__(self, name: str) -> Transform[Any]:
        return self.links[self._position(name)]

    def without(self, *names: str) -> Chain:
        """The chain with these links left out."""
        gone = {self._position(name) for name in names}
        return Chain(tuple(link for i, link in enumerate(self.links) if i not in gone))

    def replace(self, **links: Transform[Any]) -> Chain:
        """The chain with the named links exchanged: ``replace(normalize=Normalize(eps=1e-6))``."""
        new = {self._position(name): replace(link, scope=self[name].scope) for name, link in links.items()}
        return Chain(tuple(new.get(i, link) for i, link in enumerate(self.links)))

    def insert_before(self, name: str, *links: Transform[Any]) -> Chain:
        """The chain with more links ahead of the named one."""
        at, scope = self._position(name), self[name].scope
        return Chain((*self.links[:at], *(replace(link, scope=scope) for link in links), *self.links[at:]))

    def insert_after(self, name: str, *links: Transform[Any]) -> Chain:
        """The chain with more links behind the named one."""
        at, scope = self._position(name) + 1, name if isinstance(self[name], Branch) else self[name].scope
        return Chain((*self.links[:at], *(replace(link, scope=scope) for link in links), *self.links[at:]))

    def override(self, values: Mapping[str, Any]) -> Chain:
        """The chain with hyperparameters exchanged by key, checked; ChainError names the keys there are."""
        keys = self.hyperparameters
        if unknown := [key for key in values if key not in keys]:
            raise ChainError(
                f"this chain has no hyperparameter {unknown[0]!r}; it has: {', '.join(keys)}. {instead(unknown[0], keys)}"
            )
        changes: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            link, name = keys[key]
            changes.setdefault(link.label, {})[name] = value
        return Chain(tuple(replace(link, **changes[link.label]) if link.label in changes else link for link in self.links))

    def ablations(self) -> dict[str, Chain]:
        """One shorter chain per removable link, by the name of the link left out.

        Where a link is the only writer of a slot, the links that read it are left out with it, and the shorter chain's
        ``note`` says which.
        """
        shorter: dict[str, Chain] = {}
        for link in self.links:
            if link.removable:
                rest = tuple(other for other in self.links if other is not link)
                taken: list[str] = []
                while (orphan := _first_orphan(rest)) is not None:
                    taken.append(orphan.label)
                    rest = tuple(other for other in rest if other is not orphan)
                note = f"without {link.label!r}; what it wrote was read by {', '.join(map(repr, taken))}: left out too"
                shorter[link.label] = Chain(rest, note=note if taken else "")
        return shorter

    def describe(self) -> str:
        """A table of the links, their hyperparameters and state, and what looks wrong."""
        return describe(self.links, self.note)

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.links))})"

    def _position(self, name: str) -> int:
        if name not in self.names:
            raise ChainError(
                f"no link is named {name!r}; this chain has: {', '.join(self.names) or 'none'}. {instead(name, self.names)}"
            )
        return self.names.index(name)


def chain(*links: Transform[Any] | Chain | Sequence[Transform[Any]]) -> Chain:
    """A chain of these links; a chain among them, or what ``parallel`` gives, stands for its own links."""
    flat = [link for part in links for link in links_of(part)]
    built = Chain(tuple(flat))
    for complaint in nonsense(built.links):
        warnings.warn(complaint, ChainWarning, stacklevel=2)
    return built


def links_of(part: Transform[Any] | Chain | Sequence[Transform[Any]]) -> Sequence[Transform[Any]]:
    """The links that a part of a chain stands for."""
    return (
        part.links if isinstance(part, Chain) else part if isinstance(part, tuple | list) else (cast("Transform[Any]", part),)
    )


def _check_names(links: Sequence[Transform[Any]]) -> None:
    seen: set[str] = set()
    for link in links:
        if link.label in seen:
            raise ChainError(
                f"two links are named {link.label!r}; their state could not be told apart. "
                f"Name one of them, as in {type(link).__name__}(name='second_{link.label}')."
            )
        seen.add(link.label)


def _first_orphan(links: Sequence[Transform[Any]]) -> Transform[Any] | None:
    """The first link that reads a slot which nobody before it has written, for all parameters that it works on."""
    written: dict[Any, set[str]] = {None: set(GIVEN)}  # by the rule of masked()
    entered: list[dict[Any, set[str]]] = []  # what was written where the open parallels began
    for link in links:
        if isinstance(link, Branch) and link.first:
            entered.append(_copied(written))
        elif isinstance(link, Branch | Merge):
            written = _copied(entered[-1]) if isinstance(link, Branch) else entered.pop()
        mine = written.setdefault(link.only, set())
        if not link.reads <= written[None] | mine:
            return link
        mine |= link.writes if link.window == (1, None) else set()
    return None


def _check_owners(links: Sequence[Transform[Any]]) -> None:
    """At most one link owns a parameter's write, and none behind it changes the step."""
    for trait, what in ONE.items():
        having = [link for link in links if trait in link.traits]
        pairs = [(a, b) for i, a in enumerate(having) for b in having[i + 1 :] if trait == "perturbs" or share_parameters(a, b)]
        if pairs:
            names = " and ".join(repr(link.label) for link in pairs[0])
            raise ChainError(f"{names} both {what}; one link can. Leave one out, or mask them for different parameters.")
    for i, owner in enumerate(links):
        for later in links[i + 1 :] if "owns" in owner.traits else ():
            if "update" in later.writes and share_parameters(owner, later):
                raise ChainError(
                    f"{owner.label!r} owns the parameter's write, so no link behind it may change the step; "
                    f"found {later.label!r}. Put {later.label!r} before it."
                )


def _copied(written: Mapping[Any, set[str]]) -> dict[Any, set[str]]:
    return {only: set(slots) for only, slots in written.items()}


def _check_branches(links: Sequence[Transform[Any]]) -> None:
    depth = 0
    for link in links:
        depth += link.first if isinstance(link, Branch) else 0
        if isinstance(link, Branch | Merge) and depth == 0:
            raise ChainError(f"{link.label!r} has no parallel() that it belongs to. Leave out a parallel as a whole.")
        depth -= isinstance(link, Merge)
    if depth:
        raise ChainError(
            f"a parallel() of this chain is not closed; links are {', '.join(link.label for link in links)}. "
            "Leave out a parallel as a whole."
        )


def _check_slots(links: Sequence[Transform[Any]]) -> None:
    for link in links:
        if unknown := (link.reads | link.writes) - SLOTS:
            raise ChainError(
                f"{link.label!r} names the slot {sorted(unknown)[0]!r}; slots are {', '.join(sorted(SLOTS))}. "
                f"{instead(sorted(unknown)[0], sorted(SLOTS))}"
            )
        if fixed := link.writes & {"grad", "param"}:
            raise ChainError(f"{link.label!r} writes {sorted(fixed)[0]}, which no link may rewrite. Write update instead.")
    if (orphan := _first_orphan(links)) is not None:
        before = [link.label for link in links[: list(links).index(orphan)]]
        slot = sorted(orphan.reads - GIVEN)[0]
        raise ChainError(
            f"{orphan.label!r} reads {slot}, but no link before it writes it; links before it: {', '.join(before) or 'none'}. "
            f"Put {WRITERS[slot]} earlier."
        )
