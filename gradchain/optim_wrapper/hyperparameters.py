"""Between a chain's fields and the entries of ``param_groups``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from typing_extensions import override

from gradchain._fields import checked, field_hints, is_dynamic
from gradchain.chains import Chain
from gradchain.chains.partition import Recipe
from gradchain.chains.where import rule
from gradchain.transforms import LearningRate
from gradchain.types import Carry, ChainError, Context, NoState, Transform

ROUNDING = 1e-12  # a scheduler that ends at 0 may come out below it by as much


def forgiven(value: Any) -> Any:
    """A number with the rounding of a scheduler that ends at 0 taken off."""
    return 0.0 if isinstance(value, float) and -ROUNDING < value < 0 else value


def has_tensor(values: Iterable[Any]) -> bool:
    """Whether some value, or a number in it, is a tensor, which may be written to from step to step."""
    return any(isinstance(one, Tensor) or (isinstance(one, tuple) and has_tensor(cast("Any", one))) for one in values)


def is_schedule(value: Any) -> bool:
    """Whether a value, or a number in it, is a function of the step."""
    if isinstance(value, tuple | list):
        return any(map(is_schedule, cast("Sequence[Any]", value)))
    return callable(value) and not isinstance(value, Tensor)


def _at(value: Any, step: Any) -> Any:
    """A value with the schedules in it asked for a step."""
    if isinstance(value, tuple):
        return tuple(_at(one, step) for one in cast("tuple[Any, ...]", value))
    return value(step) if is_schedule(value) else value


class Schedule(NamedTuple):
    """A hyperparameter as a function of the step, where the chain has it so, or some of its numbers."""

    given: Any  # a function of the step, or a tuple in which some are
    owner: str  # the link's label
    field: str
    hint: Any

    def __call__(self, step: Any) -> Any:
        """The value of a step, in the form the group keeps it; ChainError where it does not fit the field."""
        value = forgiven(_at(self.given, step))
        if torch.compiler.is_compiling() or isinstance(value, Tensor):
            return value
        return checked(f"{self.owner!r}, step {step}", self.field, value, self.hint)


def schedules(chain: Chain) -> dict[str, Schedule]:
    """The hyperparameters that the chain gives as functions of the step."""
    return {
        key: Schedule(value, link.label, field, field_hints(type(link))[field])
        for key, (link, field) in chain.hyperparameters.items()
        if is_schedule(value := getattr(link, field)) and is_dynamic(type(link), field)
    }


def defaults(chain: Chain) -> dict[str, Any]:
    """The values that a parameter group of the chain starts from: the chain's own, schedules at their first."""
    values = {key: getattr(link, field) for key, (link, field) in chain.hyperparameters.items()}
    return {**values, **{key: schedule(1) for key, schedule in schedules(chain).items()}}


def with_rate(chain: Chain) -> Chain:
    """The chain with a learning rate: where it has none, behind all links but those that work on the finished step."""
    if "lr" in chain.hyperparameters:
        return chain
    last = [i for i, link in enumerate(chain.links) if link.traits & {"owns", "averages"}]
    end = min(last, default=len(chain.links))
    return Chain((*chain.links[:end], LearningRate(lr=1.0), *chain.links[end:]))


def common_defaults(recipe: Recipe) -> dict[str, Any]:
    """What every group starts from: the keys that all chains have, with the first chain's values."""
    first, *others = map(defaults, recipe.parts.values())
    return {key: value for key, value in first.items() if all(key in other for other in others)}


def fitting(key: str, link: Transform[Any], field: str, value: Any) -> Any:
    """A value from a group in the form that the link's field keeps; ChainError where it does not fit."""
    if is_schedule(value) and is_dynamic(type(link), field):
        raise ChainError(
            f"{key}: a schedule is part of the chain, not of a parameter group; found {value!r}. "
            f"Give it to the chain, as in .optimizer(params, {key}=schedule)."
        )
    hint, like = field_hints(type(link))[field], type(link).__dataclass_fields__[field].default
    return checked(f"{link.label!r}", field, forgiven(value), hint, like)


def check(recipe: Recipe, group: Mapping[str, Any]) -> dict[str, Any]:
    """The group's values of its chain's hyperparameters, in the form they are kept in; ChainError where one does not fit.

    Keys that belong to no link are looked at by ``group_keys.refuse_other_rules``.
    """
    chain = recipe.parts[recipe.label_of(group)]
    given: dict[str, Any] = {}
    links: dict[str, dict[str, Any]] = {}
    for key, (link, field) in chain.hyperparameters.items():
        if key in group:
            given[key] = fitting(key, link, field, group[key])
            links.setdefault(link.label, {})[field] = given[key]
    for name, values in links.items():
        _with(chain[name], values).__post_init__()  # limits that concern several fields at once
    return given


def _with(link: Transform[Any], values: Mapping[str, Any]) -> Transform[Any]:
    bound = copy.copy(link)
    for field, value in values.items():
        object.__setattr__(bound, field, value)
    return bound


def name_in(group: Mapping[str, Any], g: int, i: int) -> str:
    """The name of the i-th parameter of the g-th group, or both positions where parameters came without names."""
    return group["param_names"][i] if "param_names" in group else f"{g}.{i}"


def scalar(value: Any) -> Tensor:
    """A number as a link sees it: 0-d, float64, on the host unless it is a tensor elsewhere."""
    if isinstance(value, Tensor):
        return value.to(torch.float64).reshape(())
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def _seen(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_seen(v) for v in value)  # pyright: ignore[reportUnknownVariableType]
    return scalar(value) if isinstance(value, int | float | Tensor) else value


class Absent(Transform):
    """Stands where a masked link does not work."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry, state


ABSENT = Absent()


class BoundLink(NamedTuple):
    """A link as it runs for one group."""

    transform: Transform[Any]  # its fields are the group's current values
    label: str
    state_keys: tuple[str, ...]  # flat names of its state, in the order of its State


def without(links: tuple[BoundLink, ...], absent: tuple[int, ...]) -> tuple[BoundLink, ...]:
    """The links with those at some positions absent."""
    if not absent:
        return links
    return tuple(BoundLink(ABSENT, link.label, ()) if i in absent else link for i, link in enumerate(links))


class Binder:
    """Puts a group's values into the links of its chain. What depends on the chains alone is worked out once."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._binders = {label: ChainBinder(chain) for label, chain in recipe.parts.items()}
        self._may_idle = any(link.idle for link in recipe.links)

    def of(self, group: Mapping[str, Any]) -> ChainBinder:
        """The binder of the group's chain."""
        return self._binders[self._recipe.label_of(group)]

    def idle(self, groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, ...]]:
        """By group, the positions of the links that do nothing with its values."""
        return [self.of(group).idle(group) for group in groups] if self._may_idle else []

    def bind(self, group: Mapping[str, Any]) -> tuple[BoundLink, ...]:
        """The links with the group's values: numbers that may change as 0-d tensors, the rest as it is."""
        return self.of(group).bind(group)


class ChainBinder:
    """A binder for the groups of one chain."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.defaults = defaults(chain)
        self.schedules = schedules(chain)
        places = {(link.label, field): key for key, (link, field) in chain.hyperparameters.items()}
        self.keys = tuple(chain.hyperparameters)
        self.used = frozenset[str]().union(*(link.reads | link.writes for link in chain.links))
        self._masks = tuple((i, rule(link.only)) for i, link in enumerate(chain.links) if link.only is not None)
        self._idle = tuple((i, places[link.label, f], v) for i, link in enumerate(chain.links) for f, v in link.idle.items())
        self._having = {
            trait: [link.label if trait in link.traits else "" for link in chain.links] for trait in ("owns", "averages")
        }
        self._plans = tuple(
            (
                link,
                tuple((f, places[link.label, f], is_dynamic(type(link), f)) for f in link.hyperparameters()),
                link.label,
                tuple(f"{link.label}/{name}" for name in getattr(link.State, "_fields", ())),
            )
            for link in chain.links
        )

    @property
    def state_keys(self) -> frozenset[str]:
        """Names of the state of all links."""
        return frozenset(key for *_, keys in self._plans for key in keys)

    @property
    def masked(self) -> bool:
        """Whether some link works on some parameters only."""
        return bool(self._masks)

    def scheduled(self, group: Mapping[str, Any], step: int) -> dict[str, Any]:
        """The values that schedules of the chain give a group in a step; ChainError where one does not fit."""
        return {key: self.schedules[key](step) for key in group["scheduled"] if key in self.schedules}

    def check_owners(self, absent: tuple[int, ...], name: str) -> None:
        """ChainError where a parameter is left with two links of which it can have one; rules of masked() may overlap."""
        for trait in ("owns", "averages"):
            having = [label for i, label in enumerate(self._having[trait]) if label and i not in absent]
            if len(having) > 1:
                raise ChainError(
                    f"parameter {name!r} has two links of which one can own its write or average it: "
                    f"{having[0]!r} and {having[1]!r}. Make the rules of masked() disjoint."
                )

    def absent(self, name: str, param: Tensor) -> tuple[int, ...]:
        """Positions of the links that do not work on this parameter."""
        return tuple(i for i, only in self._masks if not only(name, param))

    def idle(self, group: Mapping[str, Any]) -> tuple[int, ...]:
        """Positions of the links that do nothing with the group's values, and keep no state meanwhile."""
        return tuple(i for i, key, value in self._idle if not isinstance(group[key], Tensor) and group[key] == value)

    def bind(self, group: Mapping[str, Any]) -> tuple[BoundLink, ...]:
        """The links with the group's values; idle ones are absent."""
        return without(self.bind_all(group), self.idle(group))

    def bind_all(self, group: Mapping[str, Any]) -> tuple[BoundLink, ...]:
        """The links with the group's values, idle ones too."""
        bound: list[BoundLink] = []
        for plain, places, label, state_keys in self._plans:
            link = object.__new__(type(plain))  # not through __init__, which would check numbers where tensors stand now
            for field in plain.settings:
                object.__setattr__(link, field, getattr(plain, field))
            for field, key, dynamic in places:
                object.__setattr__(link, field, _seen(group[key]) if dynamic else group[key])
            bound.append(BoundLink(link, label, state_keys))
        return tuple(bound)
