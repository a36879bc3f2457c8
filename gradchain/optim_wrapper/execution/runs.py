"""Parameters of a bucket, those of one shape next to each other, and the parts of its buffers that belong to each shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.flow import compute_dtype, plan_of
from gradchain.optim_wrapper.drivers.program import Split, kind_of
from gradchain.optim_wrapper.drivers.step import Members
from gradchain.optim_wrapper.execution.memory import Run, Scratch
from gradchain.optim_wrapper.execution.values import Kind
from gradchain.types import UNSET


@dataclass
class Bucket(Members):
    """Small parameters that run together: their state is in flat buffers, of which each parameter's state is a part."""

    buffers: dict[str, Tensor]  # states by key, flat
    since: dict[str, float]  # steps at which links have joined a saved run
    scratch: Scratch

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.split = Split(())
        shapes = [info.param.shape or torch.Size([1]) for info in self.infos]
        self.runs: list[Run] = []
        for shape in shapes:
            if self.runs and self.runs[-1].shape == shape:
                self.runs[-1] = Run(self.runs[-1].count + 1, shape)
            else:
                self.runs.append(Run(1, shape))
        self.starts = [0, *accumulate(run.count for run in self.runs)]
        self.offsets = [0, *accumulate(run.count * run.shape.numel() for run in self.runs)]
        self.dtype, self.device = compute_dtype(self.raw[0]), self.raw[0].device
        state_forms = tuple((key, buffer.dtype) for key, buffer in self.buffers.items())
        self.state_shapes = [[self.states[self.starts[r]][key].shape for key in self.buffers] for r in range(len(self.runs))]
        runs = tuple((run.count, run.shape, *shapes) for run, shapes in zip(self.runs, self.state_shapes, strict=True))
        common = (self.used, tuple(self.since), self.raw[0].dtype, self.device)
        self.form = kind_of((*common, state_forms, runs))
        self.run_forms = [kind_of((*common, state_forms, *run[1:])) for run in runs]

    def members(self, run: int) -> range:
        """The positions of a run's parameters."""
        return range(self.starts[run], self.starts[run + 1])

    @cached_property
    def shaped_states(self) -> list[list[Tensor]]:
        """The states by key and run, as links see them."""
        return [self._by_run(key) for key in self.buffers]

    def _by_run(self, key: str) -> list[Tensor]:
        """A state as links see it, stacked for each run of several parameters."""
        found: list[Tensor] = []
        at = 0
        for run, shapes in zip(self.runs, self.state_shapes, strict=True):
            shape = shapes[list(self.buffers).index(key)]
            part = self.buffers[key][at : at + run.count * shape.numel()]
            found.append(part.view((run.count, *shape) if run.count > 1 else shape))
            at += part.numel()
        return found

    def bind(self, split: Split) -> None:
        """Take the links as they are now."""
        self.split = split

    def plan(self, total: Tensor = UNSET) -> Mapping[str, tuple[bool, bool]]:
        """By link: at work in this step, refreshed in it."""
        if not self.split.timed:
            return self.split.always
        return plan_of(self.split.links, lambda: self.count + 1, self.since, total)

    def kind_of_state(self, position: int, first: int, stop: int) -> Kind:
        """The kind of a state in the parameters of some runs."""
        shapes = [self.state_shapes[r][position] for r in range(first, stop)]
        if shapes == [self.runs[r].shape for r in range(first, stop)]:
            return Kind.FLAT
        return Kind.EACH if all(shape == () for shape in shapes) else Kind.SHAPED
