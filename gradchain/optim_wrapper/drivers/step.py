"""What stays from step to step of parameters that run together, and what all of them have in common in one step."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.drivers.graphs import Graph
from gradchain.optim_wrapper.drivers.watch import Watch
from gradchain.optim_wrapper.numbers import on_device
from gradchain.optim_wrapper.shards import local
from gradchain.types import UNSET, ParamInfo


@dataclass
class Members:
    """Parameters that run together: what stays from step to step."""

    infos: Sequence[ParamInfo]
    groups: Sequence[int]  # theirs
    at: tuple[int, int]  # group and position of the first of them
    label: str
    used: frozenset[str]
    states: Sequence[dict[str, Tensor]]  # live, flat, by parameter
    count: float  # steps so far
    steps: Tensor  # the same, as the parameters' states have it

    def __post_init__(self) -> None:
        self.raw = [local(info.param.detach()) for info in self.infos]
        self.places = [info.place for info in self.infos]
        self.expected = self.steps.clone()  # counts as the last step left them

    def advance(self) -> None:
        """Count a step."""
        self.steps.add_(1)
        self.expected.add_(1)
        self.count += 1


@dataclass
class Step:
    """What all batches of one step have in common."""

    graphs: dict[Hashable, Graph | None]  # None where a program cannot be traced
    families: dict[Hashable, list[Graph]]  # the same, by all but sizes
    compile: bool
    failures: list[Exception]  # of the compiler, of all steps; the first is told
    asked: dict[Hashable, Any]  # by program: the questions along it, where a parameter runs in tiles
    first: bool = True  # of a plan: graphs are made before anything is written
    counts: dict[Any, Tensor] = field(default_factory=lambda: {})  # step counts as tensors
    numbers: dict[Any, tuple[Any, Sequence[Tensor]]] = field(default_factory=lambda: {})
    total: Tensor = UNSET  # steps of the optimizer, this one included, where a link asks

    def count(self, value: float) -> Tensor:
        if value not in self.counts:
            self.counts[value] = torch.tensor(value, dtype=torch.float64, device="cpu")
        return self.counts[value]

    def coming(self, home: Members) -> Tensor:
        """The number of this step, where it is counted; homes that have taken equally many on the host have on the GPU."""
        if not home.steps.is_cuda:
            return self.count(home.count + 1)
        key = (home.count, home.steps.device)
        if key not in self.counts:
            self.counts[key] = home.steps[0].to(torch.float64) + 1
        return self.counts[key]

    def on_host(self, graph: Graph, given: Sequence[Tensor]) -> Sequence[Tensor]:
        """What a graph runs on, made of the numbers among the inputs; where graphs make the same of the same, it is made once.

        It is made on the host, unless some of them are on the GPU.
        """
        made = self.made(graph, [given[i] for i in graph.common], given[0].device)
        return made if graph.of_own is None else graph.of_own(*[given[i] for i in graph.own], *made)

    def made(self, graph: Graph, numbers: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
        """Values that a graph takes, made of the numbers that many graphs have."""
        key = (id(graph.of_common), device, *map(id, numbers))
        if key not in self.numbers:
            sent = on_device(numbers, device) if any(number.is_cuda for number in numbers) else numbers
            made = on_device(graph.of_common(*sent), device)
            self.numbers[key] = (numbers, made)  # with the numbers, whose ids must not be used again
        return self.numbers[key][1]


class Library:
    """Graphs and measurements of chains that a driver keeps from plan to plan."""

    def __init__(self) -> None:
        self.graphs: dict[Hashable, Graph | None] = {}
        self.families: dict[Hashable, list[Graph]] = {}
        self.failures: list[Exception] = []
        self.asked: dict[Hashable, Any] = {}
        self.watch: Watch | None = None

    def step(self, compile: bool, first: bool, total: Tensor = UNSET) -> Step:
        """A step that uses and extends it."""
        return Step(self.graphs, self.families, compile, self.failures, self.asked, first, total=total)
