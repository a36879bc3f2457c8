"""Ways of executing a chain over the parameters of a step. ``reference`` is the one that every other must equal.

reference  one parameter at a time, link by link
eager      small parameters of any shapes in one buffer, by generated code (see ``execution``); large ones in tiles of rows;
           others as in the reference
compiled   each parameter by a call of a compiled graph, which serves many shapes of one number of dimensions; a native loop
           makes the calls for small parameters of one shape, if the graph consists of kernels alone; large ones in tiles of
           rows, if links ask for what is next to an element. On a GPU small parameters of one shape run as one, and some
           large ones of a shape in one call
auto       compiled where that is repaid: all parameters are on a GPU that Triton works on, or they are on a CPU with a C++
           compiler and have 4M elements or more in all, each counted for 4,096 at least; otherwise eager

All but the reference hand a chain that is as a whole what a fused kernel of torch computes to that kernel, see ``fused``,
unless it is to be compiled and has large parameters on a GPU, where a graph of its own is faster.

Compiling takes 5 to 40 seconds on a CPU, less in the next process, which finds the graphs in torch's cache. The logger
"gradchain" tells of each graph at level INFO.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

import torch

from gradchain.optim_wrapper.drivers.flat import check_flatten, refuse_flat_shards
from gradchain.optim_wrapper.drivers.flow import choose, compute_dtype, due, within
from gradchain.optim_wrapper.drivers.loop import Job, Row, loop, working
from gradchain.optim_wrapper.drivers.memory import few, overlapping
from gradchain.optim_wrapper.drivers.plan import Planned
from gradchain.optim_wrapper.drivers.total import observers
from gradchain.optim_wrapper.drivers.watch import Watch, watched

if TYPE_CHECKING:
    from gradchain.optim_wrapper.optimizer import ChainOptimizer

__all__ = [
    "DRIVERS",
    "Driver",
    "Job",
    "Row",
    "check_flatten",
    "choose",
    "compute_dtype",
    "due",
    "loop",
    "refuse_flat_shards",
    "within",
    "working",
]


class Driver(Protocol):
    """A way of executing the chains of one optimizer."""

    watch: Watch | None  # on the tensors that were found fitting; None where they have to be checked
    unfit: Collection[int]  # ids of parameters without gradient that their state does not fit

    def prepare(self, optimizer: ChainOptimizer) -> None: ...  # the state of all parameters that have a gradient, in its place
    def __call__(self, optimizer: ChainOptimizer) -> None: ...  # one step
    def repeat(
        self, optimizer: ChainOptimizer
    ) -> bool: ...  # one step, if it is like the last; False, with nothing done, if not


class Reference:
    """One parameter after the other."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.unfit: Collection[int] = ()
        self.shared: Collection[int] = ()  # places of parameters that share memory

    def prepare(self, optimizer: ChainOptimizer) -> None:
        optimizer.rows()

    def repeat(self, optimizer: ChainOptimizer) -> bool:
        return False

    def __call__(self, optimizer: ChainOptimizer) -> None:
        jobs = [*optimizer.jobs(), *observers(optimizer)]
        if self.watch is None and not torch.compiler.is_compiling():
            self.watch, self.shared = watched(optimizer, self.unfit), overlapping(jobs)
        loop(jobs, in_turn=self.shared, hold=few(jobs))


DRIVERS: dict[str, Callable[[bool], Driver]] = {  # name -> what makes the driver of one optimizer, told of ``flatten``
    "auto": lambda flatten: Planned(compile=None, flatten=flatten),
    "reference": lambda flatten: Reference(),
    "eager": lambda flatten: Planned(compile=False, flatten=flatten),
    "compiled": lambda flatten: Planned(compile=True, flatten=flatten),
}
