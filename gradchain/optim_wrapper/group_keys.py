"""Keys of parameter groups: which are hyperparameters of the chain, which would change its rule, which are somebody else's.

    a hyperparameter of the group's chain     taken in every form that torch takes, or refused as when the chain is made
    ``maximize``                              honored, see ``maximize``
    a key by which torch.optim would run      refused where its value asks for another rule than that of the chain
    another rule (``RULES``)
    the misspelled name of a hyperparameter,  a ChainWarning, once
    or an option of the optimizer as a whole
    anything else                             left alone: it belongs to a scheduler or a trainer

Groups are looked at when they are added, and ahead of a step where their values are no longer those of the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch.optim import Optimizer

import gradchain.transforms as t
from gradchain._fields import nearest
from gradchain.chains import Chain
from gradchain.chains.chain import FOREIGN
from gradchain.chains.partition import Recipe
from gradchain.optim_wrapper.hyperparameters import check, defaults, fitting
from gradchain.optim_wrapper.maximize import MAXIMIZE, checked_flag
from gradchain.types import ChainError, ChainWarning, Transform

OPTIONS = ("driver", "accumulate", "finite_gate", "flatten")  # of the optimizer as a whole
EXECUTION = ("foreach", "fused", "capturable")  # how torch.optim computes, not what: any value goes
USUAL = ("eps", "betas")  # that trainers give to every optimizer: no slips, where the chain has others
HARMLESS = {*FOREIGN, *EXECUTION, *USUAL, "params", "param_names", "named", "label"}


def _has(*kinds: type) -> Callable[[Chain], bool]:
    return lambda chain: any(type(link) in kinds for link in chain.links)


def _never(chain: Chain) -> bool:
    return False


def _decoupled(chain: Chain) -> bool:
    return not _has(t.L2)(chain)


SWITCHES: dict[str, Callable[[Chain], bool]] = {  # key -> whether the chain does what the key says
    "nesterov": _has(t.NesterovMomentum, t.NesterovAverage),
    "amsgrad": _has(t.AMSGradMoments, t.LargestSecondMoment),
    "centered": _has(t.CenteredSecondMoment),
    "decoupled_weight_decay": _decoupled,
    "differentiable": _never,
}
AMOUNTS = ("momentum", "dampening", "weight_decay")  # keys whose value 0 says that the rule has no such part
MUON: dict[str, tuple[Any, str]] = {  # key -> a value in torch.optim and what links call it
    "ns_coefficients": ((3.4445, -4.775, 2.0315), "jordan"),
    "adjust_lr_fn": (None, "original"),
}
RULES = (*SWITCHES, *AMOUNTS)


def other_rules(chain: Chain, group: Mapping[str, Any]) -> Iterator[str]:
    """The keys with which a group asks for another rule than that of its chain."""
    keys = chain.hyperparameters
    for key in RULES:
        if key not in group or key in keys or (value := group[key]) is None:
            continue
        if key in AMOUNTS:
            if not _is_zero(value):
                yield key
        elif bool(value) != SWITCHES[key](chain) and not _without_effect(key, group):
            yield key


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and value == 0


def _without_effect(key: str, group: Mapping[str, Any]) -> bool:
    """Whether a switch turns something that the group's values leave out."""
    if key == "decoupled_weight_decay":
        return _is_zero(group.get("weight_decay", 0))
    return key == "nesterov" and _is_zero(group.get("momentum", 0))


def refuse_other_rules(recipe: Recipe, group: Mapping[str, Any], known: frozenset[str]) -> None:
    """ChainError where a group asks for another rule than that of its chain; known: the keys of all chains."""
    chain = recipe.parts[recipe.label_of(group)]
    for key in other_rules(chain, group):
        if key in known or key == "weight_decay":
            continue  # it came with a group that was split, for another chain; trainers give each group a decay, wanted or not
        has = ", ".join(chain.hyperparameters)
        raise ChainError(
            f"a group of parameters has {key}={group[key]!r}, which asks for another rule than that of its chain; the chain's "
            f"hyperparameters are: {has}. Leave the key out, or build the chain for it{_advice(key)}."
        )


def saved_rules(recipe: Recipe, groups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Remarks on what a saved run did by its groups and the chains do not."""
    for group in groups:
        for key in other_rules(recipe.parts[recipe.label_of(group)], group):
            yield f"it was saved with {key}={group[key]}" + ", for which this chain has no link" * (key in AMOUNTS)


def _advice(key: str) -> str:
    if key == "differentiable":
        return ": recipe.update() is a function that can be differentiated"
    return f", with {key} as an argument of the preset where it has one"


def doubtful(keys: frozenset[str], group: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, complaint) for what is most likely meant for the optimizer and not read by it."""
    for key in group.keys() - keys - HARMLESS - {*RULES, MAXIMIZE}:
        if key in OPTIONS:
            yield key, f"{key!r} is an option of the whole optimizer, and not read from a group. Pass it as a keyword."
        elif (meant := nearest(key, keys)) is not None and _misspells(key, meant):
            yield key, f"a group has the key {key!r}, which no link reads. Did you mean {meant!r}?"


def _misspells(key: str, meant: str) -> bool:
    """Whether one word is the other with a slip, and not a longer word made of it (weight_decay_scale)."""
    return abs(len(key) - len(meant)) <= 1 and len(meant) > 2 and nearest(key, [meant], 0.84) is not None


def refuse_misspelled_options(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """ChainError for a keyword that is no hyperparameter, and most likely one of the options."""
    known = {*recipe.parts, *(key for chain in recipe.parts.values() for key in chain.hyperparameters)}
    for key in given.keys() - known:
        if (meant := nearest(key, [*known, *OPTIONS, MAXIMIZE])) in (*OPTIONS, MAXIMIZE):
            raise ChainError(f"the optimizer has no option {key!r}; found {key}={given[key]!r}. Did you mean {meant!r}?")


class GroupKeys:
    """Looks at the groups of one optimizer."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._links = {label: chain.hyperparameters for label, chain in recipe.parts.items()}
        self._keys = {label: tuple(links) for label, links in self._links.items()}
        self._defaults = {label: defaults(chain) for label, chain in recipe.parts.items()}
        self._known = frozenset[str]().union(*self._keys.values())
        self._watched = {label: (*keys, *RULES, MAXIMIZE, "eps") for label, keys in self._keys.items()}
        self._seen: dict[int, list[Any]] = {}  # by the group's id: its label, its number of keys, its values
        self._warned: set[str] = set()

    def taken(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group with its values in the form they are kept in; ChainError where one does not fit."""
        own = self._defaults[self._recipe.label_of(group)]
        group = _as_here(group, own)
        refuse_other_rules(self._recipe, {**own, **group}, self._known)
        taken = {**group, **check(self._recipe, group)}
        if MAXIMIZE in group:
            taken[MAXIMIZE] = checked_flag(group[MAXIMIZE])
        for key, complaint in doubtful(self._known, group):
            if key not in self._warned:
                self._warned.add(key)
                warnings.warn(complaint, ChainWarning, stacklevel=6)
        return taken

    def complete(self, group: dict[str, Any], values: Mapping[str, Any]) -> None:
        """Give a loaded group the values that it was saved without; keys of another rule go, as the report has told."""
        for key in set(other_rules(self._recipe.parts[self._recipe.label_of(group)], group)) - self._known - {"weight_decay"}:
            del group[key]
        for key, value in values.items():
            group.setdefault(key, value)

    def look(self, optimizer: Optimizer) -> None:
        """Take the values that were written into groups since the last step; ChainError for one that does not fit."""
        if torch.compiler.is_compiling():
            return
        changed = [(group, changes) for group in optimizer.param_groups if (changes := self._changes(group)) is not None]
        for group, changes in changed:
            if "eps1" in changes and "eps" not in changes:
                group.pop("eps", None)  # see _as_here
            for key, value in changes.items():
                if group.get(key) is not value:
                    group[key] = value
            self._seen[id(group)] = self._now(group)
        if changed and len(self._seen) > len(optimizer.param_groups):
            live = set(map(id, optimizer.param_groups))
            self._seen = {key: seen for key, seen in self._seen.items() if key in live}

    def _changes(self, group: dict[str, Any]) -> dict[str, Any] | None:
        """What is to be written into a group; None where it has the very values with which it was last looked at."""
        seen, now = self._seen.get(id(group)), self._now(group)
        if seen is None or len(seen) != len(now) or seen[:2] != now[:2]:
            return self.taken(group)
        label = self._recipe.label_of(group)
        keys = [key for key, old, new in zip(self._watched[label], seen[2:], now[2:], strict=True) if old is not new]
        if not keys:
            return None
        links = self._links[label]
        if not SWITCHES.keys().isdisjoint(group) and not set(AMOUNTS).isdisjoint(keys):
            return self.taken(group)  # a switch may have an effect now
        if not {"eps", *MUON}.isdisjoint(keys):
            return self.taken(group)  # it may be in the form of torch.optim
        if any(key not in links or type(links[key][0]).__post_init__ is not Transform.__post_init__ for key in keys):
            return self.taken(group)
        return {key: fitting(key, *links[key], group[key]) for key in keys}

    def watched(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys whose values the optimizer goes by."""
        return self._watched[self._recipe.label_of(group)]

    def _now(self, group: dict[str, Any]) -> list[Any]:
        label = self._recipe.label_of(group)
        return [label, len(group), *map(group.get, self._watched[label])]


def _as_here(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The group with values that torch.optim has in another form: the two eps of Adafactor, the constants of Muon."""
    taken, eps = dict(group), group.get("eps")
    if {"eps1", "eps2"} <= own.keys() and isinstance(eps, tuple | list) and len(cast("Sequence[Any]", eps)) == 2:
        taken |= {"eps1": eps[0], "eps2": eps[1]}
        if "eps" in own:  # of another link
            taken["eps"] = own["eps"]
        else:
            del taken["eps"]
    for key, (theirs, ours) in MUON.items():
        if isinstance(own.get(key), str) and key in group and group[key] == theirs:
            taken[key] = ours
    return taken
