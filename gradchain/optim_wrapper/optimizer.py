"""A chain bound to parameters: a real ``torch.optim.Optimizer``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain._fields import instead
from gradchain.chains.chain import Chain
from gradchain.chains.partition import Partition, Recipe
from gradchain.chains.reports import LoadReport, Report
from gradchain.chains.runnable import Wrapper, register
from gradchain.optim_wrapper import functional
from gradchain.optim_wrapper.added import add, parts_of
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.calls import (
    ascend,
    check_capture,
    check_options,
    collect,
    evaluated,
    gated,
    means,
    needed,
    next_scheduled,
    settle,
)
from gradchain.optim_wrapper.checkpoint import load, sent
from gradchain.optim_wrapper.checks import check, check_gradients, check_states, only_prepares
from gradchain.optim_wrapper.common import taking_step
from gradchain.optim_wrapper.drivers.flat import check_flatten
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.drivers.registry import DRIVERS
from gradchain.optim_wrapper.drivers.total import TOTAL, counts_total
from gradchain.optim_wrapper.frozen import moving, resting
from gradchain.optim_wrapper.group_keys import GroupKeys, refuse_misspelled_options
from gradchain.optim_wrapper.hyperparameters import Binder, common_defaults, with_rate
from gradchain.optim_wrapper.maximize import MAXIMIZE, check_one_direction, checked_flag, downhill, uphill
from gradchain.optim_wrapper.mode import foreign_mode, import_dynamo, own_mode
from gradchain.optim_wrapper.modes import averages, check_training, set_mode
from gradchain.optim_wrapper.names import as_groups, bind, drop_repeated
from gradchain.optim_wrapper.parameters import Links, ParameterTable
from gradchain.optim_wrapper.report import report
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.rules import warn_about_rules
from gradchain.optim_wrapper.solve import check_solver, refuse_shards, solve
from gradchain.types import ChainError, ChainWarning


class ChainOptimizer(OptimizerBase):
    """Runs a chain on every parameter that has a gradient.

    params: tensors, ``named_parameters()`` or group dicts, as for any torch optimizer; a group may set its own value for
    each hyperparameter of the chain. Names are also found where trainers leave them, see ``optim_wrapper.names``.
    chain: a Chain, or a Partition, for which groups are split by label. driver: how chains are executed, ``"reference"``,
    ``"eager"``, ``"compiled"``, or ``"auto"``, compiled where sizes repay it; see ``optim_wrapper.drivers``.
    accumulate: calls of ``step`` that make one step, with the mean of their gradients. finite_gate: leave parameters and state
    alone in a step in which any gradient is not finite, without reading it; without the gate, NaN in a gradient stays in that
    parameter and its state, unless a link looks at several parameters at once (a SharedTransform). flatten: make small
    parameters views of one buffer, see ``drivers.flat``. maximize: go uphill, in all groups that do not set
    ``"maximize"`` themselves; the chain sees the negated gradient. hyperparameters: override the chain's for all groups.
    Raises ChainError for an unknown or unfit hyperparameter. A chain without a learning rate gets ``LearningRate(lr=1.0)`` at
    its end.

    State is flat: ``optimizer.state[p]["moments/first"]``; it is float32, or float64 for float64 parameters.
    A step can be captured in a CUDA graph where the learning rate is a tensor on the GPU: steps are then counted there too,
    and a replay goes by the rate's value at that time; other hyperparameters stay what they were, unless they are such tensors.
    """

    def __init__(
        self,
        params: Iterable[Any],
        chain: Recipe,
        *,
        driver: str = "auto",
        accumulate: int = 1,
        finite_gate: bool = False,
        flatten: bool = False,
        maximize: bool = False,
        **hyperparameters: Any,
    ) -> None:
        if not isinstance(chain, Chain | Partition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChainError(f"chain must be a Chain; found {chain!r}. Build one with gradchain.chain(...) or a preset.")
        if driver not in DRIVERS:
            raise ChainError(f"no driver is named {driver!r}; there are: {', '.join(DRIVERS)}. {instead(driver, DRIVERS)}")
        chain = chain.map(with_rate)
        refuse_misspelled_options(chain, hyperparameters)
        self.chain = chain.override(hyperparameters) if hyperparameters else chain
        check_options(accumulate, finite_gate, chain.links)
        check_flatten(flatten, driver)
        check_solver(chain.links, accumulate)
        self.driver, self.accumulate, self.finite_gate, self.flatten = driver, accumulate, finite_gate, flatten
        self._prepare()
        import_dynamo()
        super().__init__(as_groups(params), {**common_defaults(self.chain), MAXIMIZE: checked_flag(maximize)})

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"param_group must be a dict; found {type(param_group).__name__}.")
        for part in [self._keys.taken(part) for part in parts_of(self, param_group)]:
            known = self.binder.of(part)
            if followed := tuple(key for key in known.schedules if key not in part):
                part.update(scheduled=followed, scheduled_step=0)
            if self.averages:
                part.setdefault("train_mode", True)
            if self.counts_total:
                part.setdefault(TOTAL, 0)
            part = {**known.defaults, **part}  # one tensor in all groups, and the caller's own, as in torch.optim
            add(self, part)
            drop_repeated(self.param_groups[-1])
        self._table.follow(self)

    @override
    def bind_names(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        bind(self.param_groups, named_parameters)
        self._table.follow(self)

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if torch.compiler.is_compiling() or not foreign_mode(self.param_groups):
            return self._step(closure)
        with own_mode(self.param_groups) as in_callers_mode:
            return self._step(closure if closure is None else in_callers_mode(closure))

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = evaluated(closure)
        if self._drive.repeat(self):
            return loss
        self.follow()
        self._keys.look(self)
        check_training(self)
        check_capture(self)
        if not self.rules_checked:
            warn_about_rules(self)
        if self.unsettled:
            settle(self)
        if self.accumulate == 1 and not torch.compiler.is_compiling():
            check(self)
        else:
            check_gradients(self)
            if not torch.compiler.is_compiling():
                check_states(self)
        self._table.leave_other_chains(self)
        for label in self._solves:
            refuse_shards(self, label)
            check_one_direction(self, label)
            closure = needed(closure, self._solves)
        if self._perturbs:
            with uphill(self):
                jobs = moving(self)
            ascend(jobs, needed(closure, self._perturbs))
            check(self)
        if only_prepares(self):
            self.rows()
        elif self.accumulate == 1 or collect(self):
            self._run(closure, loss)
        return loss

    def _run(self, closure: Callable[[], Any] | None, loss: Any) -> None:
        with means(self) if self.accumulate > 1 else nullcontext(), uphill(self):
            if self.accumulate > 1:
                check(self)
            if self.finite_gate:
                self._drive.prepare(self)  # makes the state, in its place
            with gated(self) if self.finite_gate else nullcontext(), next_scheduled(self):
                self._table.renew()
                if self._solves and closure is not None:
                    solve(self, *downhill(self, closure, loss))
                    check(self)
                with resting(self), taking_step(self):
                    self._drive(self)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state under its flat names, and the groups."""
        settle(self)
        with suppress(ChainError):  # an unknown label is for the next step to refuse
            self.follow()
        return super().state_dict()

    @override
    def report(self) -> Report:
        return report(self)

    @override
    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]  (torch's returns nothing)
        self, state_dict: dict[str, Any], strict: bool = False
    ) -> LoadReport:
        report = load(self, state_dict, strict)
        if not report.clean:
            warnings.warn(f"the state was saved by another chain; {report}", ChainWarning, stacklevel=2)
        return report

    @property
    def _options(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("driver", "accumulate", "finite_gate", "flatten")}

    def __getstate__(self) -> dict[str, Any]:
        settle(self)
        own = {"chain": self.chain, "names_found": self.names_found, **self._options}
        return {**super().__getstate__(), "state": sent(self.state), **own}

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()
        self.rules_checked = bool(self.state)  # the optimizer that this is a copy of has warned
        for group in self.param_groups:
            self._keys.complete(group, {MAXIMIZE: self.defaults.get(MAXIMIZE, False), **self.binder.of(group).defaults})
            if self.averages:
                group.setdefault("train_mode", True)
        self._table.follow(self)

    def _prepare(self) -> None:
        self.names_found = getattr(self, "names_found", False)  # names beyond what torch finds
        self.rules_checked = False  # see rules
        self.unsettled: list[Any] = []  # see calls.gated
        self._perturbs = [link.label for link in self.chain.links if "perturbs" in link.traits]
        self._solves = [link.label for link in self.chain.links if "solves" in link.traits]
        self.averages = averages(self.chain)
        self.counts_total = counts_total(self)
        self.guesses_names = any("names" in link.traits for link in self.chain.links)
        self.binder = Binder(self.chain)
        self._keys = GroupKeys(self.chain)
        self._drive = DRIVERS[self.driver](self.flatten)
        self._table = ParameterTable(self.binder)

    @property
    @override
    def train(self) -> Callable[[], None]:
        return self._switch(True)

    @property
    @override
    def eval(self) -> Callable[[], None]:
        return self._switch(False)

    def _switch(self, training: bool) -> Callable[[], None]:
        if not self.averages:
            raise AttributeError("no link of this chain averages the weights, so there is no train() and no eval()")
        return lambda: set_mode(self, training)

    @override
    def values(self, g: int) -> tuple[Any, ...]:
        return self._table.values(self, g)

    @property
    @override
    def groups_version(self) -> int:
        return self._table.version

    @override
    def follow(self) -> None:
        self._table.follow(self)

    @override
    def links_at(self, g: int, i: int) -> Links:
        return self._table.links(self, g, i)

    @override
    def jobs(self) -> list[Job]:
        self._table.renew()
        return [Job(*row) for row in self.rows()]

    @override
    def rows(self, stateful: bool = False) -> list[Row]:
        return self._table.rows(self, stateful)

    @override
    def row(self, g: int, i: int, place: int) -> Row:
        return self._table.row(self, g, i, place)


register(Wrapper(ChainOptimizer, functional.init, functional.update))
