"""The links of an optimizer as they run for each of its parameters; made anew only when a value has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradchain._fields import hashable
from gradchain.optim_wrapper.drivers.program import placed
from gradchain.optim_wrapper.hyperparameters import Binder, BoundLink, name_in, without

Links = tuple[BoundLink, ...]
HOST = torch.device("cpu")


class BoundLinks:
    """By group and position in it."""

    def __init__(self, binder: Binder, optimizer: Optimizer) -> None:
        self._binder, self._optimizer = binder, optimizer
        self._bound: dict[int, tuple[tuple[Any, ...], Links, dict[Any, Links]]] = {}
        self._live: set[int] = set()  # groups with tensors among their values, which may be written to from step to step
        self._absent: dict[tuple[int, int], tuple[int, ...]] = {}
        self._mask()

    def renew(self) -> None:
        """Look at tensors among the values anew."""
        for g in self._live:
            del self._bound[g]
        self._live.clear()

    def values(self, g: int) -> tuple[Any, ...]:
        """The hyperparameters of the group's links."""
        group = self._optimizer.param_groups[g]
        return tuple(hashable(group[key]) for key in self._binder.of(group).keys)

    def at(self, g: int, i: int, device: torch.device = HOST) -> Links:
        """The links as they run for the i-th parameter of the g-th group, with their numbers on a device."""
        links, absent = self._of_group(g), self._absent.get((g, i), ())
        if not absent and device.type != "cuda":
            return links
        if torch.compiler.is_compiling():
            return placed(without(links, absent), device)
        variants = self._bound[g][2]
        if (absent, device) not in variants:
            variants[absent, device] = placed(without(links, absent), device)
        return variants[absent, device]

    def _of_group(self, g: int) -> Links:
        if torch.compiler.is_compiling():
            return self._binder.bind(self._optimizer.param_groups[g])
        values, known = self.values(g), self._bound.get(g)
        if known is None or (g not in self._live and known[0] != values):
            known = self._bound[g] = (values, self._binder.bind(self._optimizer.param_groups[g]), {})
            if any(isinstance(value, Tensor) for value in values):
                self._live.add(g)
        return known[1]

    def _mask(self) -> None:
        """Find which links are absent for which parameter, by its place; the rules are asked here and nowhere else."""
        for g, group in enumerate(self._optimizer.param_groups):
            known = self._binder.of(group)
            for i, param in enumerate(group["params"]) if known.masked else ():
                if absent := known.absent(name_in(group, g, i), param):
                    self._absent[g, i] = absent
                known.check_owners(absent, name_in(group, g, i))
