"""The links of an optimizer as they run for each of its parameters; made anew only when a value has changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradchain.optim_wrapper.hyperparameters import Binder, BoundLink, name_in, without

Links = tuple[BoundLink, ...]


class BoundLinks:
    """By group and position in it."""

    def __init__(self, binder: Binder, optimizer: Optimizer) -> None:
        self._binder, self._optimizer = binder, optimizer
        self._bound: dict[int, tuple[tuple[Any, ...], Links, dict[tuple[int, ...], Links]]] = {}
        self._absent: dict[tuple[int, int], tuple[int, ...]] = {}
        self._mask()

    def values(self, g: int) -> tuple[Any, ...]:
        """The hyperparameters of the group's links."""
        group = self._optimizer.param_groups[g]
        return tuple(group[key] for key in self._binder.of(group).keys)

    def at(self, g: int, i: int) -> Links:
        """The links as they run for the i-th parameter of the g-th group."""
        links, absent = self._of_group(g), self._absent.get((g, i), ())
        if not absent:
            return links
        if torch.compiler.is_compiling():
            return without(links, absent)
        variants = self._bound[g][2]
        if absent not in variants:
            variants[absent] = without(links, absent)
        return variants[absent]

    def _of_group(self, g: int) -> Links:
        if torch.compiler.is_compiling():
            return self._binder.bind(self._optimizer.param_groups[g])
        values, known = self.values(g), self._bound.get(g)
        if known is None or any(isinstance(value, Tensor) for value in values) or known[0] != values:
            known = self._bound[g] = (values, self._binder.bind(self._optimizer.param_groups[g]), {})
        return known[1]

    def _mask(self) -> None:
        """Find which links are absent for which parameter, by its place; the rules are asked here and nowhere else."""
        for g, group in enumerate(self._optimizer.param_groups):
            known = self._binder.of(group)
            for i, param in enumerate(group["params"]) if known.masked else ():
                if absent := known.absent(name_in(group, g, i), param):
                    self._absent[g, i] = absent
                known.check_owners(absent, name_in(group, g, i))
