"""A chain bound to parameters: a real ``torch.optim.Optimizer``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from gradchain.chains.chain import Chain
from gradchain.chains.partition import Partition, Recipe
from gradchain.optim_wrapper.bound import BoundLinks, Links
from gradchain.optim_wrapper.calls import ascend, check_options, collect, gated, means, needed, refuse, settle
from gradchain.optim_wrapper.checkpoint import LoadReport, apart, fresh_state, host_step, load
from gradchain.optim_wrapper.collectives import nothing_but_zeros
from gradchain.optim_wrapper.common import taking_step
from gradchain.optim_wrapper.drivers import DRIVERS, Job, Row, check_flatten, refuse_flat_shards
from gradchain.optim_wrapper.drivers.total import counts_total, total
from gradchain.optim_wrapper.hyperparameters import Binder, check, common_defaults, name_in, scalar, with_rate
from gradchain.optim_wrapper.modes import averages, check_training, set_mode
from gradchain.optim_wrapper.names import as_groups, bind, drop_repeated, found, numbered, unpair
from gradchain.optim_wrapper.report import Report, report
from gradchain.optim_wrapper.solve import check_solver, refuse_shards, solve
from gradchain.types import ChainError, ChainWarning, ParamInfo


class ChainOptimizer(Optimizer):
    """Runs a chain on every parameter that has a gradient.

    params: tensors, ``named_parameters()`` or group dicts, as for any torch optimizer; a group may set its own value for
    each hyperparameter of the chain. Names are also found where trainers leave them, see ``optim_wrapper.names``.
    chain: a Chain, or a Partition, for which groups are split by label. driver: how chains are executed, ``"loop"``,
    ``"stacked"``, ``"compiled"``, or ``"auto"``, compiled on a GPU and stacked elsewhere; see ``optim_wrapper.drivers``.
    accumulate: calls of ``step`` that make one step, with the mean of their gradients. finite_gate: leave parameters and state
    alone in a step in which any gradient is not finite, without reading it; without the gate, NaN in a gradient stays in that
    parameter and its state, unless a link looks at several parameters at once (a SharedTransform). flatten: make small
    parameters of one shape views of one buffer, see ``drivers.flat``. hyperparameters: override the chain's for all groups.
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
        **hyperparameters: Any,
    ) -> None:
        if not isinstance(chain, Chain | Partition):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ChainError(f"chain must be a Chain; found {chain!r}. Build one with gradchain.chain(...) or a preset.")
        if driver not in DRIVERS:
            raise ChainError(f"no driver is named {driver!r}; there are: {', '.join(DRIVERS)}. Use one of these.")
        chain = chain.map(with_rate)
        self.chain = chain.override(hyperparameters) if hyperparameters else chain
        check_options(accumulate, finite_gate, chain.links)
        check_flatten(flatten, driver)
        check_solver(chain.links, accumulate)
        self.driver, self.accumulate, self.finite_gate, self.flatten = driver, accumulate, finite_gate, flatten
        self._prepare()
        super().__init__(as_groups(params), common_defaults(self.chain))

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if not isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"param_group must be a dict; found {type(param_group).__name__}.")
        for part in [{**part, **check(self.chain, part)} for part in self._parts(param_group)]:
            known = self.binder.of(part)
            if followed := tuple(key for key in known.schedules if key not in part):
                part.update(scheduled=followed, scheduled_step=0)
            if self._averages:
                part.setdefault("train_mode", True)
            for key, value in known.defaults.items():  # each group its own tensor: schedulers write into it
                part.setdefault(key, _own(value))
            self._add(part)
            drop_repeated(self.param_groups[-1])
        self._mask()

    def bind_names(self, named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Give parameters their names after the fact, as from ``model.named_parameters()``; others keep what they have."""
        bind(self.param_groups, named_parameters)
        self._mask()

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. The closure, if given, computes loss and gradients anew; its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_training(self)
        refuse(self)
        if self.unsettled:
            settle(self)
        for label in self._solves:
            refuse_shards(self, label)
            closure = needed(closure, self._solves)
        if self._perturbs:
            ascend(self.jobs(), needed(closure, self._perturbs))
        if self._only_prepares():
            self.rows()
        elif self.accumulate == 1 or collect(self):
            self._run(closure, loss)
        return loss

    def _run(self, closure: Callable[[], Any] | None, loss: Any) -> None:
        with means(self) if self.accumulate > 1 else nullcontext():
            if self.finite_gate:
                self._drive.prepare(self)  # makes the state, in its place
            with gated(self) if self.finite_gate else nullcontext():
                self._advance_schedules()
                if self._solves and closure is not None:
                    solve(self, closure, loss)
                with taking_step(self):
                    self._drive(self)

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state under its flat names, and the groups."""
        settle(self)
        return super().state_dict()

    def report(self) -> Report:
        """What the links have to tell of the last step and of the parameters' names; ``print`` it for a table."""
        return report(self)

    def name_of(self, param: Tensor) -> str:
        """The parameter's name, or its group and position where parameters came without names."""
        for g, group in enumerate(self.param_groups):
            for i, other in enumerate(group["params"]):
                if other is param:
                    return name_in(group, g, i)
        raise ChainError("this parameter is not one of the optimizer's. Add it with add_param_group.")

    def by_label(self, values: Mapping[str, Any]) -> list[Any]:
        """One value for each group, by its label: ``LambdaLR(optimizer, optimizer.by_label({"muon": f, "adamw": g}))``."""
        if values.keys() != self.chain.parts.keys():
            labels, found = (", ".join(names) or "none" for names in (self.chain.parts, values))
            raise ChainError(f"by_label needs a value for each of {labels}; found: {found}. Pass one for each.")
        return [values[self.chain.label_of(group)] for group in self.param_groups]

    @override
    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]  (torch's returns nothing)
        self, state_dict: dict[str, Any], strict: bool = False
    ) -> LoadReport:
        """Load by link name, keeping each state's dtype; values are copied into the live state where there is one.

        Parameters are matched by name where both sides have names, by position otherwise. State that ``torch.optim`` has
        saved goes to the matching links. What the chain has no link for is dropped, what was not saved starts afresh: the
        report that is returned says so, with a ChainWarning; ``strict=True`` raises ChainError instead, as does state of
        the wrong shape. Nothing has changed when it raises.
        """
        report = load(self, state_dict, strict)
        if not report.clean:
            warnings.warn(f"the state was saved by another chain; {report}", ChainWarning, stacklevel=2)
        return report

    @property
    def _options(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("driver", "accumulate", "finite_gate", "flatten")}

    def __getstate__(self) -> dict[str, Any]:
        settle(self)
        return {**super().__getstate__(), "state": apart(self.state), "chain": self.chain, **self._options}

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._prepare()
        for group in self.param_groups:
            for key, value in self.binder.of(group).defaults.items():
                group.setdefault(key, _own(value))
            if self._averages:
                group.setdefault("train_mode", True)
        self._mask()

    def _parts(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """The group as it is, or one group for each label that occurs in it."""
        if not isinstance(self.chain, Partition):
            return [dict(group)]
        group, g = dict(group), len(self.param_groups)
        if names := found(group, g, self._guess):
            group["named"] = names
        unpair(group)
        names = names or [name_in(group, g, i) for i in range(len(group["params"]))]
        return self.chain.split(group, names)

    def _add(self, group: dict[str, Any]) -> None:
        """Hand the group to torch, which wants names in all groups or in none, together with the names that torch misses."""
        earlier, g = self.param_groups, len(self.param_groups)
        names = found(group, g, self._guess)
        if names is not None and earlier and "param_names" in earlier[0] and (names or self._names_found):
            group["param_names"] = names or [f"{g}.{i}" for i in range(len(group["params"]))]
        with_names = "param_names" in group or isinstance(next(iter(group["params"]), None), tuple)
        for empty in [other for other in (*earlier, group) if not other["params"]]:  # goes with either
            if with_names or any("param_names" in other for other in earlier):
                empty.setdefault("param_names", [])
        refuse_flat_shards(self.flatten, group["params"])
        super().add_param_group(group)
        if names:
            group["param_names"] = names
            numbered(self.param_groups)
            self._names_found = True

    def _prepare(self) -> None:
        self._names_found = False  # beyond what torch finds
        self.unsettled: list[Any] = []  # see calls.gated
        self._perturbs = [link.label for link in self.chain.links if "perturbs" in link.traits]
        self._solves = [link.label for link in self.chain.links if "solves" in link.traits]
        self._averages = averages(self.chain)
        if self._averages:  # no other optimizer has these, see modes
            self.train, self.eval = partial(set_mode, self, True), partial(set_mode, self, False)
        self.counts_total = counts_total(self)
        self._guess = any("names" in link.traits for link in self.chain.links)
        self.binder = Binder(self.chain)
        self._drive = DRIVERS[self.driver](self.flatten)

    def _only_prepares(self) -> bool:
        """Whether this step can do nothing but make the state, as torch.distributed.checkpoint asks for: it counts as none.

        The gradients are looked at in a first step at a learning rate of 0 only, so that no other step reads them.
        """
        if self.state or torch.compiler.is_compiling() or any(bool(group["lr"] != 0) for group in self.param_groups):
            return False
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        return nothing_but_zeros(grads)

    def _advance_schedules(self) -> None:
        for group in self.param_groups:
            if "scheduled" in group:
                group["scheduled_step"] += 1
                schedules = self.binder.of(group).schedules
                for key in group["scheduled"]:
                    if key in schedules:
                        group[key] = schedules[key](group["scheduled_step"])
        self._bound.renew()

    def values(self, g: int) -> tuple[Any, ...]:
        """The hyperparameters of the g-th group's links."""
        return self._bound.values(g)

    def links_at(self, g: int, i: int) -> Links:
        """The links of the i-th parameter of the g-th group, with their numbers where the group has them."""
        return self._bound.at(g, i)

    def _mask(self) -> None:
        self._bound = BoundLinks(self.binder, self)

    def jobs(self) -> list[Job]:
        """The parameters that have a gradient, each with its links and live state."""
        self._bound.renew()
        return [Job(*row) for row in self.rows()]

    def rows(self, stateful: bool = False) -> list[Row]:
        """The parameters that have a gradient, or ``stateful`` also those that had one, in their order."""
        places = enumerate((g, i) for g, group in enumerate(self.param_groups) for i in range(len(group["params"])))
        rows: list[Row] = []
        for place, (g, i) in places:
            param = self.param_groups[g]["params"][i]
            if param.grad is not None or (stateful and param in self.state):
                rows.append(self.row(g, i, place))
        return rows

    def row(self, g: int, i: int, place: int) -> Row:
        """The i-th parameter of the g-th group with what runs on it."""
        group = self.param_groups[g]
        links = self._bound.at(g, i, (param := group["params"][i]).device)
        info, lr = ParamInfo(name_in(group, g, i), param, group, place), scalar(group["lr"])
        used, label = self.binder.of(group).used, self.chain.label_of(group)
        return Row(info, links, lr, self._state_of(param, links, lr.device), used, label, total(self))

    def _state_of(self, param: Tensor, links: Links, counting: torch.device) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state.get(param, {})
        if "step" not in state:
            fresh = [fresh_state(link, param) for link in links]
            state = self.state[param]
            state["step"] = host_step()
            for made in fresh:
                state.update(made)
        if state["step"].device != counting:
            state["step"] = state["step"].to(counting)
        return state


def _own(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
