"""The drivers that keep a plan: ``stacked`` runs small parameters of one shape as one, ``compiled`` compiles all that it runs.

A plan says which parameters run together and holds their state: that of a stack is one tensor, of which each parameter's
state is a row. It is made anew when parameters, states or step counts are no longer those it was made for.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gradchain.optim_wrapper.drivers.batch import Batch, Home, Step
from gradchain.optim_wrapper.drivers.bundles import BUNDLE, BundledHome
from gradchain.optim_wrapper.drivers.flat import moved
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.fused import Call, Fused, Kernel, kernel_of
from gradchain.optim_wrapper.drivers.graphs import Graph
from gradchain.optim_wrapper.drivers.loop import Job, Row, loop
from gradchain.optim_wrapper.drivers.program import split
from gradchain.optim_wrapper.drivers.tiles import TiledHome, rows_of_tile
from gradchain.optim_wrapper.hyperparameters import scalar

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer

SMALL = 1 << 15  # elements of a parameter up to which stacking costs less than running it alone
STACK = 1 << 17  # elements of a stack, so that what it is worked out with stays in a core's cache
ACCELERATED = 1 << 20  # the same off the CPU, where a launch costs more


class Planned:
    """A driver that keeps a plan for one optimizer."""

    def __init__(self, compile: bool, flatten: bool = False) -> None:
        self.compile, self.flatten = compile, flatten
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
            kept = Kept({}, []) if self.plan is None else self.plan.kept
            self.plan = None  # it holds parameters that may be moved
            self.plan = Plan(optimizer, self.compile, self.flatten, kept)
        return self.plan


def _loops() -> bool:
    """Whether the step is traced as a whole, or tensors have no versions: there is nothing to plan."""
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled()


def _params(optimizer: ChainOptimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


class Kept(NamedTuple):
    """What a plan leaves to the next, which uses it again where it fits."""

    stacks: dict[tuple[int, ...], Tensor]  # of states, by the ids of their rows
    buffers: list[Tensor]  # of which parameters are rows, with ``flatten``


class Part(NamedTuple):
    """Parameters that run together."""

    rows: list[Row]
    kernel: Kernel | None  # which makes the whole step
    stacked: bool  # small ones of one shape, with one state; otherwise a list for a kernel, large ones, or one alone


class Plan:
    """Which parameters run together, and where their state is."""

    def __init__(self, optimizer: ChainOptimizer, compile: bool, flatten: bool, earlier: Kept) -> None:
        self.at = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
        self.odd: list[Row] = []  # run one by one
        parts = self._parts(optimizer, compile, flatten)
        self.scratch = _scratch([part.rows for part in parts if part.stacked])
        self.kept = Kept({}, list(earlier.buffers))
        self.homes: list[Home | Fused] = []
        for part in parts:
            buffer = moved([row.info.param for row in part.rows], self.kept.buffers) if flatten and part.stacked else None
            self._house(part, buffer, earlier)
        used = {param.untyped_storage().data_ptr() for param in _params(optimizer)} if self.kept.buffers else set[int]()
        self.kept.buffers[:] = [one for one in self.kept.buffers if one.untyped_storage().data_ptr() in used]
        self._note(optimizer)

    def _parts(self, optimizer: ChainOptimizer, compile: bool, flatten: bool) -> list[Part]:
        """The parameters that run together; the others are noted as odd."""
        kinds: dict[tuple[Kernel | None, bool, Hashable], list[Row]] = {}
        for row in optimizer.rows(stateful=True):
            if not _ordinary(row):
                self.odd.append(row)
                continue
            kernel = kernel_of(row.links, row.info, row.state)
            listed = kernel is not None and not (flatten and _small(row) and row.info.param.device.type == "cpu")
            kinds.setdefault((kernel, listed, self._kind(optimizer, row, listed)), []).append(row)
        parts: list[Part] = []
        for (kernel, listed, _), rows in kinds.items():
            stacks = not listed and _small(rows[0])
            batches = [rows] if listed else _batches(rows, compile)
            parts += [Part(batch, kernel, stacks and len(batch) > 1) for batch in batches]
        if not compile:
            kept = [bool(part.stacked or part.kernel or _traced(part.rows[0].info.param)) for part in parts]
            self.odd += [part.rows[0] for part, keep in zip(parts, kept, strict=True) if not keep]
            parts = list(compress(parts, kept))
        return parts

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

    def _merged(self, optimizer: ChainOptimizer, home: Home | Fused) -> bool:
        """Whether the groups that run together still have the same values."""
        first, *others = home.groups
        return not others or all(optimizer.values(g) == optimizer.values(first) for g in others)

    def _kind(self, optimizer: ChainOptimizer, row: Row, listed: bool) -> Hashable:
        """What parameters that run together have in common."""
        group = self.at[row.info.place][0]
        values = optimizer.values(group)
        group = group if any(isinstance(value, Tensor) for value in values) else None
        numbers = [(key, float(value)) for key, value in row.state.items() if _counts(key)]
        state = [(key, value.shape, value.dtype) for key, value in row.state.items() if not _counts(key)]
        param = row.info.param
        form = (param.dtype, param.device)
        fixed, _ = split(row.links)
        common = (row.label, fixed, values if group is None else group, tuple(numbers), form)
        return common if listed else (*common, param.shape, param.stride(), tuple(state))

    def _house(self, part: Part, buffer: Tensor | None, earlier: Kept) -> None:
        """Give parameters their home: the rows of a stack become their state."""
        common, first = self._common(part.rows, earlier), part.rows[0]
        stacked = part.stacked and (part.kernel is None or buffer is not None)
        state: dict[str, Tensor] = {}
        for key in [key for key in first.state if not _counts(key)] if stacked or part.kernel is None else ():
            state[key] = self._stacked(part.rows, key, earlier) if stacked else first.state[key]
        scratch = self.scratch[_scratch_of(first)] if stacked else ()
        if buffer is not None and all(buffer is not one for one in self.kept.buffers):
            self.kept.buffers.append(buffer)
        if part.kernel is not None:
            keys = [key for link in first.links for key in link.state_keys]
            self.homes.append(Fused(**common, kernel=part.kernel, keys=keys, stacks=state, buffer=buffer, scratch=scratch))
        else:
            since = {key: float(value) for key, value in first.state.items() if _counts(key) and key != "step"}
            kind = Home if stacked or not rows_of_tile(first.info.param) else TiledHome
            kind = BundledHome if len(part.rows) > 1 and not stacked else kind
            self.homes.append(kind(**common, state=state, since=since, scratch=scratch, buffer=buffer))

    def _stacked(self, rows: list[Row], key: str, earlier: Kept) -> Tensor:
        """The state of all rows in one tensor, whose rows become theirs."""
        stack = earlier.stacks.get(tuple(id(row.state[key]) for row in rows))
        if stack is None:
            stack = torch.stack([row.state[key] for row in rows])
            for row, tensor in zip(rows, stack.unbind(), strict=True):
                row.state[key] = tensor
        self.kept.stacks[tuple(id(row.state[key]) for row in rows)] = stack
        return stack

    def _common(self, batch: list[Row], earlier: Kept) -> dict[str, Any]:
        """What homes of all kinds know of their parameters, whose step counts become parts of one tensor."""
        first = batch[0]
        return {
            "infos": [row.info for row in batch],
            "groups": sorted({self.at[row.info.place][0] for row in batch}),
            "at": self.at[first.info.place],
            "label": first.label,
            "used": first.used,
            "states": [row.state for row in batch],
            "count": float(first.state["step"]),
            "steps": self._stacked(batch, "step", earlier),
        }

    def run(self, optimizer: ChainOptimizer, grads: list[Tensor | None], step: Step) -> None:
        """One step of all parameters that have a gradient."""
        rates = [scalar(group["lr"]) for group in optimizer.param_groups]
        places = [row.info.place for row in self.odd]
        absent = {i for i, grad in enumerate(grads) if grad is None}
        batches: list[Batch | Call] = []
        parted = False  # whether a home's parameters no longer have taken the same number of steps
        for home in self.homes:
            if absent and not absent.isdisjoint(home.places):
                if absent.issuperset(home.places):
                    continue
                parted = True
                if isinstance(home, Home):
                    places += home.places
                    continue
            home.bind(optimizer.links_at(*home.at))
            batches.append(home.batch(grads, rates[home.at[0]], step))
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


def _small(row: Row) -> bool:
    """Whether a parameter is one for a stack."""
    return row.info.param.numel() <= SMALL and row.info.param.is_contiguous()


def _batches(kind: list[Row], compile: bool) -> list[list[Row]]:
    """Stacks of small parameters; the others alone, or some in a call where calls are what takes time."""
    param, small = kind[0].info.param, _small(kind[0])
    stack = STACK if param.device.type == "cpu" else ACCELERATED
    most = max(1, stack // param.numel()) if small else BUNDLE if compile and param.is_cuda else 1
    size = most if small else -(-len(kind) // -(-len(kind) // most))  # bundles of one size have one graph
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
        if len(batch) > 1:
            kind = _scratch_of(batch[0])
            sizes[kind] = max(sizes.get(kind, 0), len(batch) * batch[0].info.param.numel())
    return {kind: [torch.empty(size, dtype=kind[0], device=kind[1]) for _ in "pg"] for kind, size in sizes.items()}
