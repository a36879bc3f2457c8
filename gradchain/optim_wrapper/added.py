"""Groups of parameters on their way into the optimizer: split by label, with names, as torch wants them."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from gradchain.chains.partition import Partition
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.drivers.flat import refuse_flat_shards
from gradchain.optim_wrapper.hyperparameters import name_in
from gradchain.optim_wrapper.names import found, number, numbered, unpair


def parts_of(optimizer: OptimizerBase, group: dict[str, Any]) -> list[dict[str, Any]]:
    """The group as it is, or one group for each label that occurs in it."""
    if not isinstance(optimizer.chain, Partition):
        return [dict(group)]
    group, g = dict(group), len(optimizer.param_groups)
    if names := found(group, g, optimizer.guesses_names):
        group["named"] = names
    unpair(group)
    names = names or [name_in(group, g, i) for i in range(len(group["params"]))]
    return optimizer.chain.split(group, names)


def add(optimizer: OptimizerBase, group: dict[str, Any]) -> None:
    """Hand the group to torch, which wants names in all groups or in none, together with the names that torch misses."""
    earlier, g = optimizer.param_groups, len(optimizer.param_groups)
    names = found(group, g, optimizer.guesses_names)
    if names is not None and earlier and "param_names" in earlier[0] and (names or optimizer.names_found):
        group.update({"param_names": names} if names else {})
        number(group, g)
    with_names = "param_names" in group or isinstance(next(iter(group["params"]), None), tuple)
    for empty in [other for other in (*earlier, group) if not other["params"]]:  # goes with either
        if with_names or any("param_names" in other for other in earlier):
            empty.setdefault("param_names", [])
    refuse_flat_shards(optimizer.flatten, group["params"])
    Optimizer.add_param_group(optimizer, group)
    if names:
        group["param_names"] = names
        numbered(optimizer.param_groups)
        optimizer.names_found = True
