"""The parameter table: which links, with which values, run on each parameter. It follows edits of the groups made by hand.

Masks, chains and names belong to parameters and labels, not to places in a group: a parameter that moves takes them along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradchain._fields import hashable
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.checkpoint import SEEN, fresh_state, host_step
from gradchain.optim_wrapper.drivers.program import placed
from gradchain.optim_wrapper.drivers.total import TOTAL, total
from gradchain.optim_wrapper.drivers.watch import same_objects
from gradchain.optim_wrapper.hyperparameters import Binder, BoundLink, has_tensor, name_in, scalar, without
from gradchain.optim_wrapper.maximize import MAXIMIZE
from gradchain.optim_wrapper.names import PLACEHOLDERS, mark
from gradchain.optim_wrapper.rows import Row
from gradchain.types import ParamInfo

Links = tuple[BoundLink, ...]
HOST = torch.device("cpu")
NOTES = ("scheduled_step", "train_mode", SEEN, TOTAL)  # keys in which the optimizer keeps what it has to know of a group


class Seen(NamedTuple):
    """A group as it was when the table looked at it last."""

    group: dict[str, Any]
    params: list[Tensor]
    names: list[str] | None
    placeholders: frozenset[str]  # among the names
    label: str
    shapes: list[torch.Size]  # of its parameters, where rules of masked() may look at them

    def is_still(self, group: Mapping[str, Any], label: str) -> bool:
        """Whether the group has the same parameters, names and label."""
        same = self.group is group and self.label == label and self.names == group.get("param_names")
        same = same and same_objects(group["params"], self.params)
        return same and (not self.shapes or [param.shape for param in group["params"]] == self.shapes)


class GroupRow(NamedTuple):
    """The entries that rows of one group have in common."""

    links: Links  # before those are left out that do not work on a parameter
    keys: list[str]  # of the state that these have
    lr: Tensor
    used: frozenset[str]
    label: str
    total: Tensor


class ParameterTable:
    """By group and position in it. It keeps no reference to the optimizer, which would be a cycle."""

    def __init__(self, binder: Binder) -> None:
        self._binder = binder
        self.version = 0  # how often the groups have been found edited
        self._seen: list[Seen] = []
        self._stepped: list[Seen] = []  # as they were in the last step
        self._bound: dict[int, tuple[tuple[Any, ...], Links, dict[Any, Links]]] = {}
        self._live: set[int] = set()  # groups with tensors among their values, which may be written to from step to step
        self._absent: dict[int, tuple[int, ...]] = {}  # positions of the links that do not work on a parameter, by its id

    def follow(self, optimizer: OptimizerBase) -> None:
        """Look for edits of the groups; names, masks and chains go with the parameters."""
        if torch.compiler.is_compiling():  # what was traced goes by the groups as they were then
            return
        groups, label_of = optimizer.param_groups, optimizer.chain.label_of
        still = len(groups) == len(self._seen) and all(
            seen.is_still(group, label_of(group)) for seen, group in zip(self._seen, groups, strict=True)
        )
        if still:
            return
        labels = [label_of(group) for group in groups]
        before = {id(param): (seen, i) for seen in self._seen for i, param in enumerate(seen.params)}
        for g, group in enumerate(groups):
            self._rename(g, group, before)
        absent: dict[int, tuple[int, ...]] = {}
        for g, group in enumerate(groups):
            known = self._binder.of(group)
            for i, param in enumerate(group["params"]) if known.masked else ():
                missing = known.absent(name_in(group, g, i), param)
                known.check_owners(missing, name_in(group, g, i))
                if missing:
                    absent[id(param)] = missing
        for group, label in zip(groups, labels, strict=True):
            self._complete(optimizer, group, label, _source(group, before))
        self._absent = absent
        self.version += 1
        self._bound.clear()
        self._live.clear()
        self._seen = [
            Seen(
                group,
                list(group["params"]),
                _copied(group.get("param_names")),
                frozenset(group.get(PLACEHOLDERS, ())),
                label,
                [param.shape for param in group["params"]] if self._binder.of(group).masked else [],
            )
            for group, label in zip(groups, labels, strict=True)
        ]

    def _rename(self, g: int, group: dict[str, Any], before: Mapping[int, tuple[Seen, int]]) -> None:
        """Let the names follow the parameters, where the list of names was left as it was or does not fit any more."""
        names, params = group.get("param_names"), group["params"]
        if names is None:
            if not any(_name_of(before[id(param)]) for param in params if id(param) in before):
                return
            names = []  # a group put there by hand, of parameters that have names
        known = next((seen for seen in self._seen if seen.group is group), None)
        untouched = known is not None and known.names == names and not same_objects(known.params, params)
        if len(names) == len(params) and not untouched:
            return
        kept = {id(param): _name_of(before[id(param)]) for param in params if id(param) in before}
        taken = {name for name in kept.values() if name is not None}
        placeholders = {name for seen, _ in before.values() for name in seen.placeholders}
        renamed: list[str] = []
        for i, param in enumerate(params):
            name = kept.get(id(param))
            if name is None:  # new: it takes the place, and the name, of the one that it replaces
                replaces = i < len(names) and names[i] not in taken
                name = names[i] if replaces else f"{g}.{i}"
                placeholders |= set() if replaces else {name}
            renamed.append(name)
        group["param_names"] = renamed
        mark(group, placeholders.intersection(renamed))

    def _complete(self, optimizer: OptimizerBase, group: dict[str, Any], label: str, source: Seen | None) -> None:
        """Give a group what its chain needs, and one that was put there by hand what the optimizer noted in the group before.

        source: the group that most of its parameters come from.
        """
        known, seen = self._binder.of(group), next((seen for seen in self._seen if seen.group is group), None)
        if seen is not None and seen.label != label:  # the schedules were those of the other chain
            for key in ("scheduled", "scheduled_step"):
                group.pop(key, None)
        values = {MAXIMIZE: optimizer.defaults.get(MAXIMIZE, False), **known.defaults}
        given = {key: value for key, value in values.items() if key not in group}
        group.update(given)
        notes = {} if source is None or seen is not None else {key: source.group[key] for key in NOTES if key in source.group}
        if followed := tuple(key for key in known.schedules if key in given):
            step = notes.get("scheduled_step", 0)
            group.update({"scheduled": followed, "scheduled_step": step})
        for key, value in notes.items():
            group.setdefault(key, value)
        if optimizer.averages:
            states = [optimizer.state.get(param, {}) for param in group["params"]]
            held = any(key.endswith("/held") for state in states for key in state)
            group["train_mode"] = not held and group.get("train_mode", True)

    def leave_other_chains(self, optimizer: OptimizerBase) -> None:
        """Drop the state that parameters have from the chain of another label; called when the step is known to be taken."""
        if self._stepped is self._seen or torch.compiler.is_compiling():
            return
        before = {id(param): seen for seen in self._stepped for param in seen.params}
        for now in self._seen:
            for param in now.params:
                seen = before.get(id(param))
                if seen is not None and seen.label != now.label and param in optimizer.state:
                    left = optimizer.binder.of({"label": seen.label}).state_keys
                    state = optimizer.state[param]
                    for key in [key for key in state if key in left or key.rpartition("/")[2] in ("since", "held")]:
                        del state[key]
        self._stepped = self._seen

    def renew(self) -> None:
        """Look at tensors among the values anew."""
        for g in self._live:
            del self._bound[g]
        self._live.clear()

    def values(self, optimizer: OptimizerBase, g: int) -> tuple[Any, ...]:
        """The hyperparameters of the group's links."""
        group = optimizer.param_groups[g]
        return tuple(hashable(group[key]) for key in self._binder.of(group).keys)

    def links(self, optimizer: OptimizerBase, g: int, i: int) -> Links:
        """The links as they run for the i-th parameter of the g-th group, with their numbers where the group has them."""
        return self._with_absent(self._of_group(optimizer, g), g, optimizer.param_groups[g]["params"][i])

    def _with_absent(self, links: Links, g: int, param: Tensor, device: torch.device = HOST) -> Links:
        """The group's links without those that do not work on this parameter, with their numbers on a device."""
        absent = self._absent.get(id(param), ())
        if not absent and device.type != "cuda":
            return links
        if torch.compiler.is_compiling():
            return placed(without(links, absent), device)
        variants = self._bound[g][2]
        if (absent, device) not in variants:
            variants[absent, device] = placed(without(links, absent), device)
        return variants[absent, device]

    def _of_group(self, optimizer: OptimizerBase, g: int) -> Links:
        if torch.compiler.is_compiling():
            return self._binder.bind(optimizer.param_groups[g])
        values, known = self.values(optimizer, g), self._bound.get(g)
        if known is None or (g not in self._live and known[0] != values):
            known = self._bound[g] = (values, self._binder.bind(optimizer.param_groups[g]), {})
            if has_tensor(values):
                self._live.add(g)
        return known[1]

    def rows(self, optimizer: OptimizerBase, stateful: bool = False) -> list[Row]:
        """The parameters that have a gradient, or ``stateful`` also those that had one, in their order."""
        rows: list[Row] = []
        first = 0  # place of the group's first parameter
        for g, group in enumerate(optimizer.param_groups):
            common: GroupRow | None = None
            for i, param in enumerate(group["params"]):
                if param.grad is not None or (stateful and optimizer.state.get(param)):
                    common = common or self._group_row(optimizer, g)
                    rows.append(self._row(optimizer, common, g, i, first + i))
            first += len(group["params"])
        return rows

    def row(self, optimizer: OptimizerBase, g: int, i: int, place: int) -> Row:
        """The i-th parameter of the g-th group with what runs on it."""
        return self._row(optimizer, self._group_row(optimizer, g), g, i, place)

    def _group_row(self, optimizer: OptimizerBase, g: int) -> GroupRow:
        group, links = optimizer.param_groups[g], self._of_group(optimizer, g)
        keys = ["step", *(key for link in links for key in link.state_keys)]
        label = optimizer.chain.label_of(group)
        return GroupRow(links, keys, scalar(group["lr"]), self._binder.of(group).used, label, total(optimizer))

    def _row(self, optimizer: OptimizerBase, common: GroupRow, g: int, i: int, place: int) -> Row:
        group = optimizer.param_groups[g]
        param, lr = group["params"][i], common.lr
        links = self._with_absent(common.links, g, param, param.device)
        state: dict[str, Tensor] = optimizer.state.get(param, {})
        if not all(map(state.__contains__, common.keys)) or state["step"].device != lr.device:
            state = state_of(optimizer, param, links, lr.device)
        info = ParamInfo(name_in(group, g, i), param, group, place)
        return Row(info, links, lr, state, common.used, common.label, common.total)


def state_of(optimizer: OptimizerBase, param: Tensor, links: Iterable[BoundLink], counting: torch.device) -> dict[str, Tensor]:
    """The parameter's live state. A link that has none gets it, and counts its steps from now on."""
    state: dict[str, Tensor] = optimizer.state.get(param, {})
    new = "step" not in state  # then all links are asked, since one without state may refuse the parameter
    missing = [link for link in links if new or not all(key in state for key in link.state_keys)]
    if missing or new:
        fresh = {key: value for link in missing for key, value in fresh_state(link, param).items()}
        state = optimizer.state.setdefault(param, {})
        if not new:
            fresh |= {f"{link.label}/since": host_step(state["step"]) for link in missing}
        else:
            state["step"] = host_step()
        state.update(fresh)
    if state["step"].device != counting:
        state["step"] = state["step"].to(counting)
    return state


def _source(group: Mapping[str, Any], before: Mapping[int, tuple[Seen, int]]) -> Seen | None:
    """The group, as it was, that most of a group's parameters were in."""
    sources = [before[id(param)][0] for param in group["params"] if id(param) in before]
    return max(sources, key=lambda one: sum(one is other for other in sources), default=None)


def _copied(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _name_of(place: tuple[Seen, int]) -> str | None:
    seen, i = place
    return seen.names[i] if seen.names is not None and i < len(seen.names) else None
