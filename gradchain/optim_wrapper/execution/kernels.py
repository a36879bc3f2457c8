"""Parameters of one shape, each stepped where it is by a call of one compiled graph: nothing is copied together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Batch, Home, Untraceable
from gradchain.optim_wrapper.drivers.graphs import Graph
from gradchain.optim_wrapper.drivers.program import Answer, joined
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.layouts import WHOLE, is_sharded
from gradchain.optim_wrapper.shards import elements, local


@dataclass
class KernelBucket(Home):
    """A bucket of parameters of one shape, with a call of the compiled chain for each."""

    gathers = False

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        rows = zip(self.raw, self.states, strict=True)
        self.own = [[elements(param), elements(param), *(local(state[key]) for key in self.state)] for param, state in rows]
        self.last: Graph | None = None  # of the last step, if all parameters went through one
        self.as_they_are = False  # whether the gradients have the strides of their parameters

    @override
    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> KernelStep:
        return KernelStep(self, self.pick(grads), lr, step)

    def given(self, i: int, grad: Tensor) -> list[Tensor]:
        """The i-th parameter, its gradient and states as a program takes them."""
        tensors = list(self.own[i])
        tensors[1] = elements(self.aligned(grad, self.raw[i]))
        return tensors

    @override
    def is_direct(self) -> bool:
        """Whether each step runs the same graph: no link meets others or does something in some steps only."""
        return not self.split.timed and not self.split.shared and self.layout is WHOLE

    @override
    def repeats(self) -> bool:
        grads = [info.param.grad for info in self.infos]
        self.as_they_are = all(
            grad is not None and grad.dim() > 0 and not is_sharded(grad) and grad.stride() == param.stride()
            for grad, param in zip(grads, self.raw, strict=True)
        )
        return self.last is not None or not self.is_direct()

    @override
    def keep(self, lr: float) -> None:
        self.lr = torch.tensor(lr, dtype=torch.float64, device="cpu")

    @override
    def repeat(self, grads: Sequence[Tensor | None], step: Step) -> None:
        graph = self.last
        assert graph is not None
        numbers = [step.coming(self), self.lr, *map(step.count, self.since.values()), *self.split.numbers]
        made = step.made(graph, [numbers[i - len(self.own[0])] for i in graph.common], self.raw[0].device)
        mine: Sequence[Any] = self.pick(grads)
        if not self.as_they_are:
            mine = [elements(self.aligned(grad, param)) for grad, param in zip(mine, self.raw, strict=True)]
        for (param, _, *states), grad in zip(self.own, mine, strict=True):
            given = [param, grad, *states]
            more = made if graph.of_own is None else graph.of_own(*[given[k] for k in graph.own], *made)
            graph.run(*[given[k] for k in graph.places], *more)
        torch.autograd.graph.increment_version(self.raw)  # written past them
        self.advance()


class KernelStep(Batch):
    """A bucket of kernels in one step."""

    home: KernelBucket

    @override
    def measured(self, position: int) -> Sequence[Tensor]:
        return [graph.run(*tensors)[0] for graph, tensors in self.calls(position)]

    @override
    def make(self) -> None:
        self.calls(None)

    @override
    def write(self) -> None:
        home = self.home
        home.last = None
        try:
            calls = self.calls(None)
        except Untraceable:
            self.complain()
            self.one_by_one(len(self.links))
        else:
            for graph, tensors in calls:
                graph.run(*tensors)
            home.last = calls[0][0] if len({id(graph) for graph, _ in calls}) == 1 else None
            torch.autograd.graph.increment_version(home.raw)  # written past them
            home.steps.add_(1)
        home.count += 1
        home.expected.copy_(home.steps)

    def calls(self, until: int | None) -> list[tuple[Graph, Sequence[Tensor]]]:
        """The graph of each parameter with its inputs; Untraceable, with nothing run, where there is none for one of them."""
        if self.jobs is not None:
            raise Untraceable
        return [self.call(i, until) for i in range(len(self.home.raw))]

    def call(self, i: int, until: int | None) -> tuple[Graph, Sequence[Tensor]]:
        answers = self.answers_of(i, until)
        graph, given = self.located(until, answers, self.home.given(i, self.grads[i]))
        return graph, [*[given[k] for k in graph.places], *self.step.on_host(graph, given)]

    def answers_of(self, i: int, until: int | None) -> dict[int, Answer]:
        """The results for one parameter of the shared links before ``until``."""
        place, told = self.home.places[i], self.told.items()
        return {position: joined([said[place]]) for position, said in told if until is None or position < until}
