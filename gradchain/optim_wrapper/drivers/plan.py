"""A plan: which parameters run together, and the tensors that hold their state.

The state of a flat buffer or a stack is one tensor, of which each parameter's state is a part. A plan is made anew when
parameters, states or step counts are no longer those it was made for.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.drivers.batch import Batch, Home
from gradchain.optim_wrapper.drivers.bundles import BundledHome
from gradchain.optim_wrapper.drivers.flat import moved
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.fused import Call, Fused
from gradchain.optim_wrapper.drivers.loop import Job, loop
from gradchain.optim_wrapper.drivers.memory import few, is_shared, overlapping
from gradchain.optim_wrapper.drivers.parts import Part, is_tiny, on_cpu, parted
from gradchain.optim_wrapper.drivers.program import Split, split
from gradchain.optim_wrapper.drivers.sharded import cut_alike, near
from gradchain.optim_wrapper.drivers.states import Kept, flat_state, stacked_state
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.drivers.tiles import TiledHome, left_whole, rows_of_tile
from gradchain.optim_wrapper.drivers.total import observers
from gradchain.optim_wrapper.execution.bucket import FlatBucket
from gradchain.optim_wrapper.execution.cpp_bucket import LargeBucket, NativeBucket
from gradchain.optim_wrapper.execution.kernels import KernelBucket
from gradchain.optim_wrapper.execution.memory import Scratch
from gradchain.optim_wrapper.hyperparameters import has_tensor, scalar
from gradchain.optim_wrapper.layouts import is_sharded
from gradchain.optim_wrapper.numbers import counts
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.shards import local

AnyHome = Home | Fused | FlatBucket


def params_of(optimizer: OptimizerBase) -> list[Tensor]:
    """The parameters of all groups."""
    return [param for group in optimizer.param_groups for param in group["params"]]


class Plan:
    """Which parameters run together, and where their state is."""

    def __init__(
        self, optimizer: OptimizerBase, compile: bool, flatten: bool, native: bool, earlier: Kept, unfit: Collection[int] = ()
    ) -> None:
        """native: whether C++ functions step small parameters.

        unfit: ids of parameters without gradient that their state does not fit.
        """
        self.compile, self.native, self.new = compile, native, True
        self.at = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
        self.whole = left_whole(params_of(optimizer)) if compile else 0
        rows = [row for row in optimizer.rows(stateful=True) if id(row.info.param) not in unfit]
        self.in_turn = overlapping(rows)
        alone = [row for row in rows if row.info.place in self.in_turn or is_shared(row.info.param, row.state)]
        places = {row.info.place for row in alone}
        rows = [row for row in rows if row.info.place not in places]
        parts, self.odd = parted(rows, lambda row: self._common_to(optimizer, row), compile, flatten, native)
        self.odd += alone
        self.scratch = _scratch([part.rows for part in parts if part.stacked])
        self.kept = Kept({}, list(earlier.buffers))
        self.homes: list[AnyHome] = []
        self.splits: dict[int, Split] = {}  # of links by their ids, which are kept
        self.memory = Scratch()
        everything = params_of(optimizer)
        for part in parts:
            buffer = (
                moved([row.info.param for row in part.rows], self.kept.buffers, everything)
                if flatten and (part.stacked or part.flat)
                else None
            )
            self._house(part, buffer, earlier)
        members = [info for home in self.homes for info in home.infos]
        self.sharded = [info.place for info in members if is_sharded(info.param)]
        used = {param.untyped_storage().data_ptr() for param in params_of(optimizer)} if self.kept.buffers else set[int]()
        self.kept.buffers[:] = [one for one in self.kept.buffers if one.untyped_storage().data_ptr() in used]
        self.version = self.counted()
        self.idle = optimizer.binder.idle(optimizer.param_groups)
        self.groups = optimizer.groups_version

    def fits(self, optimizer: OptimizerBase, params: list[Tensor], grads: list[Tensor | None]) -> bool:
        """Whether the plan still holds for the same tensors, which a ``Watch`` sees to."""
        return (
            self.counted() == self.version
            and optimizer.groups_version == self.groups
            and optimizer.binder.idle(optimizer.param_groups) == self.idle
            and all(cut_alike(grads[i], params[i]) for i in self.sharded)
            and all(self.merged(optimizer, home) and _counts(optimizer, home) for home in self.homes)
            and all(map(_has_its_count, self.homes))
        )

    def counted(self) -> int:
        """How often step counts have been written."""
        return sum(home.steps._version for home in self.homes)

    def merged(self, optimizer: OptimizerBase, home: AnyHome) -> bool:
        """Whether the groups that run together still have the same values."""
        first, *others = home.groups
        return not others or all(optimizer.values(g) == optimizer.values(first) for g in others)

    def _common_to(self, optimizer: OptimizerBase, row: Row) -> Hashable:
        """What parameters that run together have in common, beside their shapes."""
        group = self.at[row.info.place][0]
        values = optimizer.values(group)
        group = group if has_tensor(values) else None
        numbers = [(key, float(value)) for key, value in row.state.items() if counts(key)]
        form = (row.info.param.dtype, row.info.param.device)
        fixed, _ = split(row.links)
        return (row.label, fixed, values if group is None else group, tuple(numbers), form)

    def _house(self, part: Part, buffer: Tensor | None, earlier: Kept) -> None:
        """Give parameters their home: the rows of a stack become their state."""
        if (
            len(part.rows) > 1
            and part.kernel is None
            and not (part.flat or part.stacked or part.large)
            and self._tiled(part.rows[0])
        ):
            for row in part.rows:
                self._house(Part([row], None, stacked=False), None, earlier)
            return
        common, first = self._common(part.rows, earlier), part.rows[0]
        if buffer is not None and all(buffer is not one for one in self.kept.buffers):
            self.kept.buffers.append(buffer)
        if part.flat or part.large:
            since = {key: float(value) for key, value in first.state.items() if counts(key) and key != "step"}
            keys = [key for key in first.state if not counts(key)]
            if part.flat:
                states = {key: flat_state(part.rows, key, earlier, self.kept) for key in keys}
            else:
                for state in (row.state for row in part.rows):
                    state.update({key: state[key].contiguous() for key in keys})
                states = {key: first.state[key] for key in keys}
            kind = LargeBucket if part.large else NativeBucket if self.native else FlatBucket
            self.homes.append(kind(**common, buffers=states, since=since, scratch=self.memory, buffer=buffer))
            return
        stacked = part.stacked and (part.kernel is None or buffer is not None or is_tiny(first))
        state: dict[str, Tensor] = {}
        for key in [key for key in first.state if not counts(key)] if stacked or part.kernel is None else ():
            state[key] = stacked_state(part.rows, key, earlier, self.kept) if stacked else local(first.state[key])
        scratch = self.scratch[_scratch_of(first)] if stacked else ()
        if part.kernel is not None:
            keys = [key for link in first.links for key in link.state_keys]
            own: dict[str, Any] = {"stacked": stacked, "stacks": state, "buffer": buffer, "scratch": scratch}
            self.homes.append(Fused(**common, kernel=part.kernel, keys=keys, **own))
        else:
            since = {key: float(value) for key, value in first.state.items() if counts(key) and key != "step"}
            kind = Home if stacked else TiledHome if self._tiled(first) else BundledHome if len(part.rows) > 1 else Home
            if self.compile and kind is not TiledHome and on_cpu(first):
                kind = KernelBucket
            self.homes.append(kind(**common, state=state, since=since, scratch=scratch, buffer=buffer))

    def _tiled(self, row: Row) -> bool:
        """Whether a parameter is so large that it runs in tiles."""
        param = row.info.param
        return not is_sharded(param) and param.numel() > self.whole and rows_of_tile(param) > 0

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
            "steps": stacked_state(batch, "step", earlier, self.kept),
        }

    def run(self, optimizer: OptimizerBase, grads: list[Tensor | None], step: Step) -> None:
        """One step of all parameters that have a gradient."""
        rates = [scalar(group["lr"]) for group in optimizer.param_groups]
        places = [row.info.place for row in self.odd]
        absent = {i for i, grad in enumerate(grads) if grad is None}
        for i in self.sharded:
            grads[i] = near(grads[i])
        batches: list[Batch | Call] = []
        splits: dict[int, Split] = {}
        parted = False  # whether a home's parameters no longer have taken the same number of steps
        for home in self.homes:
            if absent and not absent.isdisjoint(home.places):
                if absent.issuperset(home.places):
                    continue
                parted = True
                if not isinstance(home, Fused):
                    places += home.places
                    continue
            links = optimizer.links_at(*home.at)
            splits[id(links)] = splits.get(id(links)) or self.splits.get(id(links)) or Split(links)
            home.bind(splits[id(links)])
            batches.append(home.batch(grads, rates[home.at[0]], step))
        self.splits = splits
        jobs = [Job(*optimizer.row(*self.at[place], place)) for place in sorted(places) if grads[place] is not None]
        jobs += observers(optimizer)
        hold = few(jobs)
        try:
            loop(jobs, batches, self.in_turn, hold)
            self.new = False
        finally:
            self.version = -1 if parted else self.counted()


def _counts(optimizer: OptimizerBase, home: AnyHome) -> bool:
    """Whether steps are counted where the learning rate is."""
    lr = optimizer.param_groups[home.at[0]]["lr"]
    return home.steps.device == (lr.device if isinstance(lr, Tensor) else torch.device("cpu"))


def _has_its_count(home: AnyHome) -> bool:
    """Whether the counts in the states are what the home goes by; a write through ``.data`` marks no version."""
    return home.steps.is_cuda or bool((home.steps == home.count).all())


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
