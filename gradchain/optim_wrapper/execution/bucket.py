"""Small parameters of any shapes in one buffer: what works on elements runs once for all of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Batch, Untraceable
from gradchain.optim_wrapper.drivers.graphs import TRACING
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.execution.functions import Bound, Request, Told, bind_stretch, told
from gradchain.optim_wrapper.execution.runs import Bucket
from gradchain.optim_wrapper.execution.values import Kind
from gradchain.types import UNSET

STACKED = 4  # parameters of one shape from which torch.stack gathers them faster than a copy of each


@dataclass
class FlatBucket(Bucket):
    """A bucket that a generated function steps, on copies of parameters and gradients."""

    buffer: Tensor | None = None  # of which the parameters are parts, see flat

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.sizes = [param.numel() for param in self.raw]
        self.singles = [i for r, run in enumerate(self.runs) if run.count < STACKED for i in self.members(r)]
        self.single_raw = [self.raw[i] for i in self.singles]
        self.functions: dict[Hashable, list[Bound]] = {}
        self.last: list[Bound] | None = None  # those of the last step; None where it was taken one by one

    @cached_property
    def param(self) -> Tensor:
        """The parameters, one after the other, in the dtype of the states."""
        if self.buffer is not None and self.buffer.dtype == self.dtype:
            return self.buffer
        return self.scratch.take("param", self.offsets[-1], self.dtype, self.device)

    @cached_property
    def grad(self) -> Tensor:
        """The gradients likewise."""
        return self.scratch.take("grad", self.offsets[-1], self.dtype, self.device)

    @cached_property
    def params(self) -> list[Tensor]:
        """The parts of ``param``."""
        return [part.view(x.shape) for part, x in zip(self.param.split(self.sizes), self.raw, strict=True)]

    @cached_property
    def grads(self) -> list[Tensor]:
        """The parts of ``grad``."""
        return [part.view(x.shape) for part, x in zip(self.grad.split(self.sizes), self.raw, strict=True)]

    @cached_property
    def gathers(self) -> list[tuple[Tensor, Tensor | None]]:
        """By run, the buffers that ``torch.stack`` fills: parameters and gradients, or None if the run is short."""
        return [_gather(self, run) for run in range(len(self.runs))]

    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> FlatStep:
        return FlatStep(self, [grads[place] for place in self.places], lr, step)  # pyright: ignore[reportArgumentType]

    def is_direct(self) -> bool:
        """Whether each step runs the same functions: no link meets others or does something in some steps only."""
        return not self.split.timed and not self.split.shared

    def repeats(self) -> bool:
        """Whether the last step went through functions."""
        return self.last is not None

    def keep(self, lr: float) -> None:
        """Take the numbers of the coming steps."""
        self.rest = (lr, *self.since.values(), *self.split.floats)

    def repeat(self, grads: Sequence[Tensor | None], step: Step) -> None:
        """Take a step like the last one, with gradients by place."""
        self.gather([grads[place] for place in self.places])  # pyright: ignore[reportArgumentType]
        host = (self.count + 1, *self.rest)
        for _, function, _ in self.last or ():
            function(host, (), ())
        self.scatter()
        self.advance()

    def gather(self, grads: Sequence[Tensor]) -> None:
        """Copy parameters and gradients into the buffers."""
        copy = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage]
        own = self.buffer is None
        if self.buffer is not None and self.buffer is not self.param:
            self.param.copy_(self.buffer)
        for run, (params, into) in enumerate(self.gathers):
            if into is not None:
                members = self.members(run)
                torch.stack(grads[members.start : members.stop], out=into)  # pyright: ignore[reportArgumentType]
                if own:
                    torch.stack(self.raw[members.start : members.stop], out=params)
        if self.singles:
            copy([self.grads[i] for i in self.singles], [grads[i] for i in self.singles])
            if own:
                copy([self.params[i] for i in self.singles], self.single_raw)

    def scatter(self) -> None:
        """Copy the new parameters to where they live."""
        if self.buffer is None:
            torch._foreach_copy_(self.raw, self.params)  # pyright: ignore[reportPrivateImportUsage]
            return
        if self.buffer is not self.param:
            self.buffer.copy_(self.param)
        torch.autograd.graph.increment_version(self.raw)  # written past them


def _gather(bucket: FlatBucket, run: int) -> tuple[Tensor, Tensor | None]:
    one, start = bucket.runs[run], bucket.offsets[run]
    shape = bucket.raw[bucket.starts[run]].shape
    parts = [
        flat[start : start + one.count * one.shape.numel()].view(one.count, *shape) for flat in (bucket.param, bucket.grad)
    ]
    return parts[0], parts[1] if one.count >= STACKED else None


class FlatStep(Batch):
    """A flat bucket in one step."""

    home: FlatBucket  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, home: FlatBucket, grads: Sequence[Tensor], lr: Tensor, step: Step) -> None:
        self.home, self.links, self.label, self.step, self.lr = home, home.split.links, home.label, step, lr  # pyright: ignore
        self.plan = home.plan(step.total)
        self.grads = grads
        self.told = {}
        self.jobs = None
        totals = () if step.total is UNSET else (float(step.total),)
        self.host = (home.count + 1, float(lr), *totals, *home.since.values(), *home.split.floats)

    @override
    def measured(self, position: int) -> Sequence[Tensor]:
        home, rows = self.home, list[Tensor]()
        for (stretch, _, buffers), result in self._execute(position):
            runs = home.runs[stretch.first : stretch.stop]
            if stretch.code.out:
                whole = buffers[stretch.code.out].clone()
                sizes = [run.shape.numel() if stretch.code.made is Kind.FLAT else 1 for run in runs for _ in range(run.count)]
                shapes = [run.shape if stretch.code.made is Kind.FLAT else () for run in runs for _ in range(run.count)]
                rows += [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
            elif stretch.code.made in (Kind.COMMON, Kind.HOST):
                rows += [result[0]] * sum(run.count for run in runs)
            else:
                for run, tensor in zip(runs, result, strict=True):
                    rows += tensor.clone().unbind() if run.count > 1 else [tensor.clone()]
        return rows

    @override
    def make(self) -> None:
        self._functions(self._request(None))

    @override
    def write(self) -> None:
        home = self.home
        try:
            for _ in self._execute(None):
                pass
        except Untraceable:
            home.last = None
            self.complain()
            self.one_by_one(len(self.links))
        else:
            home.last = home.functions[self._request(None).key]
            home.scatter()
            home.steps.add_(1)
        home.count += 1
        home.expected.copy_(home.steps)

    def _execute(self, until: int | None) -> Iterator[tuple[Bound, Any]]:
        """Run the functions one after the other, in the same memory; Untraceable where there are none."""
        if self.jobs is not None:
            raise Untraceable
        request = self._request(until)
        functions = self._functions(request)
        self.home.gather(self.grads)
        for one in functions:
            common, shaped = self._given(list(request.heard.values()), one) if request.heard else ((), ())
            yield one, one.function(self.host, common, shaped)

    def _request(self, until: int | None) -> Request:
        """Untraceable where the results of shared links have no common form."""
        heard: dict[int, Told] = {}
        for position, said in self.told.items():
            if until is None or position < until:
                try:
                    heard[position] = told(self.home, list(said.values()))
                except ValueError as error:
                    raise Untraceable from error
        return Request(self.home, self.plan, until, heard, self.host, self.step.total is not UNSET)

    def _functions(self, request: Request) -> list[Bound]:
        """The functions, made where they are not known; Untraceable where they cannot be."""
        home, key = self.home, request.key
        if key not in home.functions:
            known: Any = self.step.graphs
            if key not in known:
                with TRACING:
                    known[key] = self.attempted(request.stretches)
            if known[key] is None:
                raise Untraceable
            home.functions[key] = [bind_stretch(home, stretch) for stretch in known[key]]
        return home.functions[key]

    def _given(self, heard: Sequence[Told], one: Bound) -> tuple[list[Tensor], list[Tensor]]:
        """Results of shared links as a function takes them: those for all, and those that have a shape of their own."""
        home, common, shaped = self.home, list[Tensor](), list[Tensor]()
        first, stop = one.stretch.first, one.stretch.stop
        leaves = [leaf for results in heard for leaf in zip(results.kinds, results.columns, strict=True)]
        for k, (kind, column) in enumerate(leaves):
            if kind is Kind.COMMON:
                common += column
            elif kind is Kind.SHAPED:
                for r in range(first, stop):
                    mine = column[home.starts[r] : home.starts[r + 1]]
                    shaped.append(torch.stack(mine) if len(mine) > 1 else mine[0])
            else:
                parts = [tensor.reshape(-1) for tensor in column[home.starts[first] : home.starts[stop]]]
                torch.cat(parts, out=one.buffers[f"leaf{k}"])
        return common, shaped
