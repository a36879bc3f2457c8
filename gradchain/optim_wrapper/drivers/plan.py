"""The drivers that keep a plan: ``stacked`` runs small parameters of one shape as one, ``compiled`` compiles all that it runs.

A plan says which parameters run together and holds their state: that of a stack is one tensor, of which each parameter's
state is a row. It is made anew when parameters, states or step counts are no longer those it was made for.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradchain.optim_wrapper.drivers.batch import Batch, Home, Step
from gradchain.optim_wrapper.drivers.bundles import BUNDLE, Bundled, BundledHome
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.graphs import Graph
from gradchain.optim_wrapper.drivers.loop import Job, Row, loop
from gradchain.optim_wrapper.drivers.program import split
from gradchain.optim_wrapper.drivers.tiles import Tiled, TiledHome, rows_of_tile
from gradchain.optim_wrapper.hyperparameters import scalar

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer

SMALL = 1 << 15  # elements of a parameter up to which stacking costs less than running it alone
STACK = 1 << 20  # elements of a stack, so that it stays in the cache


class Planned:
    """A driver that keeps a plan for one optimizer."""

    def __init__(self, compile: bool) -> None:
        self.compile = compile
        self.plan: Plan | None = None
        self.graphs: dict[Hashable, Graph | None] = {}
        self.failures: list[Exception] = []
        self.asked: dict[Hashable, Any] = {}

    def prepare(self, optimizer: ChainOptimizer) -> None:
        optimizer.rows()
        if not _loops():
            params = _params(optimizer)
            self._plan(optimizer, params, [param.grad for param in params])

    def __call__(self, optimizer: ChainOptimizer) -> None:
        if _loops():
            loop(optimizer.jobs())
            return
        params = _params(optimizer)
        grads = [param.grad for param in params]
        self._plan(optimizer, params, grads).run(optimizer, grads, Step(self.graphs, self.compile, self.failures, self.asked))

    def _plan(self, optimizer: ChainOptimizer, params: list[Tensor], grads: list[Tensor | None]) -> Plan:
        if self.plan is None or not self.plan.fits(optimizer, params, grads):
            self.plan = Plan(optimizer, self.compile, {} if self.plan is None else self.plan.stacks)
        return self.plan


def _loops() -> bool:
    """Whether the step is traced as a whole, or tensors have no versions: there is nothing to plan."""
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled()


def _params(optimizer: ChainOptimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


class Plan:
    """Which parameters run together, and where their state is."""

    def __init__(self, optimizer: ChainOptimizer, compile: bool, stacks: dict[tuple[int, ...], Tensor]) -> None:
        """stacks: of an earlier plan, by the ids of their rows; they are used again where they fit."""
        rows = optimizer.rows(stateful=True)
        self.at = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
        kinds: dict[Hashable, list[Row]] = {}
        for row in rows:
            kinds.setdefault(self._kind(optimizer, row) if _ordinary(row) else None, []).append(row)
        self.odd = kinds.pop(None, [])  # run one by one
        batches = [batch for kind in kinds.values() for batch in _batches(kind, compile)]
        if not compile:
            alone = [batch[0] for batch in batches if len(batch) == 1]
            self.odd += [row for row in alone if not _traced(row.info.param)]
            batches = [batch for batch in batches if len(batch) > 1 or _traced(batch[0].info.param)]
        self.stacks: dict[tuple[int, ...], Tensor] = {}
        self.scratch = _scratch(batches)
        self.homes: list[Home] = []
        for batch in batches:
            self._house(batch, stacks)
        self._note(optimizer)

    def _note(self, optimizer: ChainOptimizer) -> None:
        """Remember what the plan was made for."""
        self.params = _params(optimizer)
        self.addresses = list(map(Tensor.data_ptr, self.params))
        self.states = list(optimizer.state.values())
        self.tensors = list(chain.from_iterable(map(dict[str, Tensor].values, self.states)))
        self.stateless = [i for i, param in enumerate(self.params) if param not in optimizer.state]
        self.version = self._counted()

    def fits(self, optimizer: ChainOptimizer, params: list[Tensor], grads: list[Tensor | None]) -> bool:
        """Whether the plan still holds."""
        states = list(optimizer.state.values())
        return (
            _same(params, self.params)
            and _same(states, self.states)
            and _same(chain.from_iterable(map(dict[str, Tensor].values, states)), self.tensors)
            and list(map(Tensor.data_ptr, params)) == self.addresses
            and self._counted() == self.version
            and all(grads[i] is None for i in self.stateless)
            and all(self._merged(optimizer, home) for home in self.homes)
        )

    def _counted(self) -> int:
        """How often step counts have been written."""
        return sum(home.steps._version for home in self.homes)

    def _merged(self, optimizer: ChainOptimizer, home: Home) -> bool:
        """Whether the groups that run together still have the same values."""
        first, *others = home.groups
        return not others or all(optimizer.values(g) == optimizer.values(first) for g in others)

    def _kind(self, optimizer: ChainOptimizer, row: Row) -> Hashable:
        """What parameters that run together have in common."""
        group = self.at[row.info.place][0]
        values = optimizer.values(group)
        group = group if any(isinstance(value, Tensor) for value in values) else None
        numbers = [(key, float(value)) for key, value in row.state.items() if _counts(key)]
        state = [(key, value.shape, value.dtype) for key, value in row.state.items() if not _counts(key)]
        param = row.info.param
        form = (param.shape, param.stride(), param.dtype, param.device)
        fixed, _ = split(row.links)
        return (row.label, fixed, values if group is None else group, tuple(numbers), tuple(state), form)

    def _house(self, batch: list[Row], stacks: dict[tuple[int, ...], Tensor]) -> None:
        """Give a batch its home: the rows of a stack become the parameters' state."""
        first, stacked = batch[0], len(batch) > 1 and _small(batch[0].info.param)
        state: dict[str, Tensor] = {}
        for key in [key for key in first.state if not _counts(key)]:
            tensors = [row.state[key] for row in batch]
            if not stacked:
                state[key] = tensors[0]
                continue
            known = stacks.get(tuple(map(id, tensors)))
            if known is None:
                known = torch.stack(tensors)
                for row, tensor in zip(batch, known.unbind(), strict=True):
                    row.state[key] = tensor
            self.stacks[tuple(id(row.state[key]) for row in batch)] = state[key] = known
        count = float(first.state["step"])
        steps = torch.full((len(batch),), count, dtype=torch.float32, device=first.state["step"].device)
        for row, step in zip(batch, steps.unbind(), strict=True):
            row.state["step"] = step
        kind = TiledHome if not stacked and rows_of_tile(first.info.param) else Home
        kind = BundledHome if len(batch) > 1 and not stacked else kind
        home = kind(
            infos=[row.info for row in batch],
            groups=sorted({self.at[row.info.place][0] for row in batch}),
            at=self.at[first.info.place],
            label=first.label,
            used=first.used,
            states=[row.state for row in batch],
            state=state,
            since={key: float(value) for key, value in first.state.items() if _counts(key) and key != "step"},
            count=count,
            steps=steps,
            scratch=self.scratch[_scratch_of(first)] if stacked else (),
        )
        self.homes.append(home)

    def run(self, optimizer: ChainOptimizer, grads: list[Tensor | None], step: Step) -> None:
        """One step of all parameters that have a gradient."""
        rates = [scalar(group["lr"]) for group in optimizer.param_groups]
        places = [row.info.place for row in self.odd]
        absent = {i for i, grad in enumerate(grads) if grad is None}
        batches: list[Batch] = []
        parted = False  # whether a home's parameters no longer have taken the same number of steps
        for home in self.homes:
            if absent and not absent.isdisjoint(home.places):
                parted = parted or not absent.issuperset(home.places)
                places += home.places
                continue
            home.bind(optimizer.links_at(*home.at))
            kind = Tiled if isinstance(home, TiledHome) else Bundled if isinstance(home, BundledHome) else Batch
            batches.append(kind(home, home.pick(grads), rates[home.at[0]], step))
        jobs = [Job(*optimizer.row(*self.at[place], place)) for place in sorted(places) if grads[place] is not None]
        try:
            loop(jobs, batches)
        finally:
            self.version = -1 if parted else self._counted()


def _counts(key: str) -> bool:
    """Whether a state counts steps."""
    return key.rpartition("/")[2] in ("step", "since")


def _same(first: Iterable[Any], second: Iterable[Any]) -> bool:
    return all(map(operator.is_, first, second))


def _ordinary(row: Row) -> bool:
    """Whether a parameter may run with others, or compiled: a dense tensor of real numbers with a place in memory.

    Links with the trait "eager" run plain tensors one by one, whatever the driver.
    """
    param, grad = row.info.param, row.info.param.grad
    if any("eager" in link.transform.traits for link in row.links):
        return False
    if type(param) not in (Tensor, nn.Parameter) or (grad is not None and type(grad) is not Tensor):
        return False
    if param.is_complex() or param.is_meta or param.numel() == 0:
        return False
    return torch.empty_like(param, device="meta").stride() == param.stride()


def _small(param: Tensor) -> bool:
    """Whether a parameter is one for a stack."""
    return param.numel() <= SMALL and param.is_contiguous()


def _batches(kind: list[Row], compile: bool) -> list[list[Row]]:
    """Stacks of small parameters; the others alone, or some in a call where calls are what takes time."""
    param = kind[0].info.param
    most = max(1, STACK // param.numel()) if _small(param) else BUNDLE if compile and param.is_cuda else 1
    size = most if _small(param) else -(-len(kind) // -(-len(kind) // most))  # bundles of one size have one graph
    return [kind[i : i + size] for i in range(0, len(kind), size)]


def _traced(param: Tensor) -> bool:
    """Whether a parameter that runs alone, uncompiled, had better be a graph: in tiles, or with numbers made on the host."""
    return param.is_cuda or rows_of_tile(param) > 0


def _scratch_of(row: Row) -> Hashable:
    return (compute_dtype(row.info.param), row.info.param.device)


def _scratch(batches: list[list[Row]]) -> dict[Hashable, list[Tensor]]:
    """Memory to put the parameters of a stack and their gradients into, one stack after the other."""
    sizes: dict[Any, int] = {}
    for batch in batches:
        if len(batch) > 1 and _small(batch[0].info.param):
            kind = _scratch_of(batch[0])
            sizes[kind] = max(sizes.get(kind, 0), len(batch) * batch[0].info.param.numel())
    return {kind: [torch.empty(size, dtype=kind[0], device=kind[1]) for _ in "pg"] for kind, size in sizes.items()}
