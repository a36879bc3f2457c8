"""A step like the last one: everything that it depends on is compared, nothing is looked up or built again.

Most steps differ from the one before in gradients, counts and perhaps the learning rate alone. ``Ready.take`` finds that out
in one pass over groups, states and gradients, and calls the kernels. Whatever else differs goes the long way, which checks it,
tells what is wrong with it, and makes a new plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.common import has_common
from gradchain.optim_wrapper.drivers.loop import loop
from gradchain.optim_wrapper.drivers.plan import Plan
from gradchain.optim_wrapper.drivers.program import Split
from gradchain.optim_wrapper.drivers.step import Library
from gradchain.optim_wrapper.drivers.watch import same_objects
from gradchain.optim_wrapper.hyperparameters import has_tensor, scalar


@dataclass
class Seen:
    """A group as it was in the last step."""

    group: Mapping[str, Any]
    size: int
    keys: Sequence[str]
    values: list[Any]
    params: list[Tensor]
    names: list[str] | None
    label: str | None

    def is_still(self, group: Mapping[str, Any]) -> bool:
        """Whether it is the same group with the same keys, parameters and names."""
        same = group is self.group and len(group) == self.size and same_objects(group["params"], self.params)
        return same and group.get("param_names") == self.names and group.get("label") == self.label


class Ready:
    """The last step of an optimizer, to be taken again."""

    def __init__(self, optimizer: OptimizerBase, library: Library, plan: Plan) -> None:
        self.plan, self.watch = plan, library.watch  # but not the driver, which would be a cycle
        self.groups = [_seen(optimizer, group) for group in optimizer.param_groups]
        self.homes = list(plan.homes)
        self.direct = all(home.is_direct() for home in self.homes)

    def take(self, optimizer: OptimizerBase, library: Library) -> bool:
        """Take the step; False, with nothing done, where something differs."""
        watch, groups = self.watch, optimizer.param_groups
        if watch is None or watch is not library.watch or len(groups) != len(self.groups):
            return False
        changed = False
        for seen, group in zip(self.groups, groups, strict=True):
            if not seen.is_still(group):
                return False
            changed = changed or not all(map(is_, map(group.get, seen.keys), seen.values))
        grads = [param.grad for param in watch.params]
        if not watch.holds(optimizer, watch.params, grads) or not watch.gradients_hold(grads):
            return False
        for home in self.homes:
            if not torch.equal(home.steps, home.expected):
                return False
        if changed and not self._take_values(optimizer):
            return False
        step = library.step(self.plan.compile, first=True)
        if self.direct:
            for home in self.homes:
                home.repeat(grads, step)
            self.plan.version = self.plan.counted()
            return True
        loop([], [home.batch(grads, scalar(groups[home.at[0]]["lr"]), step) for home in self.homes])
        self.plan.version = self.plan.counted()
        return True

    def _take_values(self, optimizer: OptimizerBase) -> bool:
        """Take numbers that were written into the groups; False where they ask for more than other numbers."""
        optimizer._keys.look(optimizer)
        for seen, group in zip(self.groups, optimizer.param_groups, strict=True):
            if not _is_plain(optimizer, group):
                return False
            seen.values = list(map(group.get, seen.keys))
        if optimizer.binder.idle(optimizer.param_groups) != self.plan.idle:
            return False
        splits: dict[int, Split] = {}
        for home in self.homes:
            links = optimizer.links_at(*home.at)
            split = splits[id(links)] = splits.get(id(links)) or Split(links)
            if split.fixed != home.split.fixed or not split.on_host or not self.plan.merged(optimizer, home):
                return False
            home.bind(split)
            home.keep(float(optimizer.param_groups[home.at[0]]["lr"]))
        return True


def ready(optimizer: OptimizerBase, library: Library, plan: Plan) -> Ready | None:
    """A Ready for the next step; None if a step of this optimizer is more than a plan and its numbers."""
    known = all(home.steps.device.type == "cpu" for home in plan.homes)
    if not known or plan.odd or plan.sharded or not plan.homes or not _is_simple(optimizer) or library.watch is None:
        return None
    if any(param.grad is None for home in plan.homes for param in (info.param for info in home.infos)):
        return None
    if not library.watch.all_train or not all(_is_plain(optimizer, group) for group in optimizer.param_groups):
        return None
    for home in plan.homes:
        if not home.repeats():
            return None
        home.keep(float(optimizer.param_groups[home.at[0]]["lr"]))
    return Ready(optimizer, library, plan)


def _is_simple(optimizer: OptimizerBase) -> bool:
    """Whether a step is a plan with numbers, and no policy or link makes more of it."""
    if optimizer.accumulate > 1 or optimizer.finite_gate or optimizer.averages or optimizer.counts_total:
        return False
    if any(link.traits & {"perturbs", "solves"} for link in optimizer.chain.links):
        return False
    return not any(map(has_common, optimizer.chain.parts.values()))


def _is_plain(optimizer: OptimizerBase, group: Mapping[str, Any]) -> bool:
    """Whether a group's values are numbers of the host, and the group is neither frozen nor goes uphill nor by a schedule."""
    values = [group.get(key) for key in optimizer.binder.of(group).keys]
    return (
        not has_tensor([*values, group["lr"]]) and group["lr"] != 0 and not group.get("maximize") and "scheduled" not in group
    )


def _seen(optimizer: OptimizerBase, group: Mapping[str, Any]) -> Seen:
    keys = optimizer._keys.watched(group)
    names = group.get("param_names")
    values = list(map(group.get, keys))
    return Seen(
        group, len(group), keys, values, list(group["params"]), None if names is None else list(names), group.get("label")
    )
