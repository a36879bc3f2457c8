"""The optimizer as its drivers and policies know it, so that they need not import it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from torch import Tensor
from typing_extensions import override

from gradchain.chains.partition import Recipe
from gradchain.chains.runnable import RecipeOptimizer
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.drivers.watch import Watch
from gradchain.optim_wrapper.group_keys import GroupKeys
from gradchain.optim_wrapper.hyperparameters import Binder, BoundLink, name_in
from gradchain.optim_wrapper.rows import Row
from gradchain.types import ChainError


class OptimizerBase(RecipeOptimizer[Recipe]):
    """Recipe, options, groups and state of an optimizer, and the rows of its parameter table."""

    driver: str
    accumulate: int  # calls of ``step`` that make one step
    finite_gate: bool
    flatten: bool
    averages: bool  # whether a link keeps weights for evaluation
    counts_total: bool  # whether a link goes by the optimizer's steps
    guesses_names: bool  # whether a link needs names, so that they are looked for
    names_found: bool  # whether names were found where torch does not look
    rules_checked: bool  # whether rules of masked() were compared with the parameters
    unsettled: list[Any]  # steps that may have to be taken back, see calls.gated
    binder: Binder
    _keys: GroupKeys
    _drive: Driver

    @override
    def name_of(self, param: Tensor) -> str:
        for g, group in enumerate(self.param_groups):
            for i, other in enumerate(group["params"]):
                if other is param:
                    return name_in(group, g, i)
        raise ChainError("this parameter is not one of the optimizer's. Add it with add_param_group.")

    @override
    def by_label(self, values: Mapping[str, Any]) -> list[Any]:
        if values.keys() != self.chain.parts.keys():
            labels, found = (", ".join(names) or "none" for names in (self.chain.parts, values))
            raise ChainError(f"by_label needs a value for each of {labels}; found: {found}. Pass one for each.")
        return [values[self.chain.label_of(group)] for group in self.param_groups]

    @property
    def groups_version(self) -> int:
        """How often edits of the groups have been found: plans are made for one version."""
        raise NotImplementedError

    def follow(self) -> None:
        """Look for edits of the groups made by hand."""
        raise NotImplementedError

    def values(self, g: int) -> tuple[Any, ...]:
        """The hyperparameters of the g-th group's links."""
        raise NotImplementedError

    def links_at(self, g: int, i: int) -> tuple[BoundLink, ...]:
        """The links of the i-th parameter of the g-th group, with their numbers where the group has them."""
        raise NotImplementedError

    def rows(self, stateful: bool = False) -> list[Row]:
        """The parameters that have a gradient, or ``stateful`` also those that had one, in their order."""
        raise NotImplementedError

    def row(self, g: int, i: int, place: int) -> Row:
        """The i-th parameter of the g-th group with what runs on it."""
        raise NotImplementedError

    def jobs(self) -> list[Job]:
        """The parameters that have a gradient, each with its links and live state."""
        raise NotImplementedError


class Driver(Protocol):
    """A way of executing the chains of one optimizer."""

    watch: Watch | None  # on the tensors that were found fitting; None where they have to be checked
    unfit: Collection[int]  # ids of parameters without gradient that their state does not fit

    def prepare(self, optimizer: OptimizerBase) -> None:
        """Make the state of all parameters that have a gradient, in its place."""
        ...

    def __call__(self, optimizer: OptimizerBase) -> None:
        """Take one step."""
        ...

    def repeat(self, optimizer: OptimizerBase) -> bool:
        """Take one step if it is like the last; False, with nothing done, if it is not."""
        ...
