"""From the links of a bucket to its stages: C++ functions and calls of torch's libraries, for each shape."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from gradchain.optim_wrapper.execution.cache import Recent
from gradchain.optim_wrapper.execution.cpp_code import SUMS, Kernel, KernelWriter
from gradchain.optim_wrapper.execution.cpp_library import kernels
from gradchain.optim_wrapper.execution.cpp_places import aligned
from gradchain.optim_wrapper.execution.functions import Request, matching
from gradchain.optim_wrapper.execution.loopable import is_flat
from gradchain.optim_wrapper.execution.segments import batched
from gradchain.optim_wrapper.execution.stages import Cut, Form, Stage
from gradchain.optim_wrapper.execution.trace import Trace
from gradchain.optim_wrapper.execution.values import value_of

MOST = 64  # functions of a bucket; one takes up to half a second to build


@dataclass
class Library:
    """A call of torch for parameters of one shape."""

    module: fx.GraphModule  # for one parameter
    inputs: list[int]  # columns
    outputs: list[int]

    def __post_init__(self) -> None:
        self._functions: dict[int, Callable[..., Any]] = {}

    def function(self, count: int) -> Callable[..., Any]:
        """The function for so many parameters: of tensors, which are stacked where there are several."""
        if count not in self._functions:
            inputs = [value_of(node) for node in self.module.graph.nodes if node.op == "placeholder"]
            self._functions[count] = batched(copy.deepcopy(self.module), inputs, [True] * len(inputs), count)
        return self._functions[count]


@dataclass
class Stages:
    """The stages of the parameters of one shape."""

    steps: list[Kernel | Library]
    addresses: list[int]  # of the functions in C++, by stage; 0 for calls of torch
    forms: list[Form]  # of the columns

    def width(self, elements: int) -> int:
        """The bytes of one place in scratch memory."""
        own = [one for one in self.steps if isinstance(one, Kernel)]
        return max((aligned(one.width * elements) if one.flat else one.width for one in own), default=0)

    def size(self, elements: int, threads: int) -> int:
        """The bytes of scratch memory, if so many threads work on a parameter."""
        kept = max((one.kept for one in self.steps if isinstance(one, Kernel)), default=0)
        return self.slots * self.width(elements) + 8 * threads * (SUMS + kept)

    @property
    def slots(self) -> int:
        """The places in scratch memory that the largest function needs."""
        return max((one.slots for one in self.steps if isinstance(one, Kernel)), default=0)


BUILT: Recent[list[Stages]] = Recent(256)


def built(request: Request) -> list[Stages]:
    """The stages of a request, by run. Raises ValueError or OSError where they cannot be written or built."""
    return BUILT.get(request.key_with_surroundings, lambda: _build(request))


def _build(request: Request) -> list[Stages]:
    traces = request.traces()
    found = [stages for first, stop in matching(traces) for stages in _written(request, traces[first:stop])]
    bodies = list(dict.fromkeys(one.text for stages in found for one in stages.steps if isinstance(one, Kernel)))
    if len(bodies) > MOST:
        raise ValueError(f"{len(bodies)} functions would take too long to build")
    places = dict(zip(bodies, kernels(bodies), strict=True))
    for stages in found:
        stages.addresses = [places[one.text] if isinstance(one, Kernel) else 0 for one in stages.steps]
    return found


def _written(request: Request, traces: Sequence[Trace]) -> list[Stages]:
    """The stages of matching traces."""
    tensors, leaves = 2 + len(request.home.buffers), sum(len(one.kinds) for one in request.heard.values())
    columns = [*range(tensors), *(-1 - k for k in range(len(request.host))), *range(tensors, tensors + leaves)]
    outputs = [-1] if request.until is not None else [0, *(2 + j for j in traces[0].changed)]
    cuts = [Cut(trace, columns, outputs) for trace in traces]
    sizes = _sizes(traces) if len(cuts[0].stages) == 1 and all(map(is_flat, traces)) else None
    if sizes is not None:
        kernel = KernelWriter(cuts[0].stages[0], cuts[0].forms, True, sizes).written()
        return [Stages([kernel], [], cut.forms) for cut in cuts]
    found: list[Stages] = []
    for cut in cuts:
        steps: list[Kernel | Library] = []
        for level, stage in enumerate(cut.stages):
            own = level % 2 == 0
            steps.append(KernelWriter(stage, cut.forms).written() if own else _library(stage))
        found.append(Stages(steps, [], cut.forms))
    return found


def _library(stage: Stage) -> Library:
    assert isinstance(stage.trace.module, fx.GraphModule)
    return Library(stage.trace.module, stage.columns, stage.outputs)


def _sizes(traces: Sequence[Trace]) -> frozenset[tuple[int, int]] | None:
    """The numbers in flat traces that are the number of elements; None where other numbers differ."""
    counts = [value_of(trace.nodes[0]).numel() for trace in traces]
    found: set[tuple[int, int]] = set()
    for i, node in enumerate(traces[0].nodes):
        others = [trace.nodes[i] for trace in traces]
        if any(_plain(other.kwargs) != _plain(node.kwargs) for other in others):
            return None
        for k, arg in enumerate(node.args):
            given: list[Any] = [other.args[k] for other in others]
            if isinstance(arg, int | float) and any(one != arg for one in given):
                if given != counts or sum(one == arg for one in node.args) > 1:
                    return None
                found.add((i, k))
    return frozenset(found)


def _plain(arguments: Any) -> Any:
    """Arguments with the same thing in the place of every value."""
    return fx.map_arg(dict(arguments), lambda one: None)
