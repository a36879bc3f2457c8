"""Ways of executing a chain over the parameters of a step. ``reference`` is the one that every other must equal.

reference  one parameter at a time, link by link
eager      small parameters of any shapes in one buffer, by generated code (see ``execution``); large ones in tiles of rows;
           others as in the reference
compiled   small parameters of one shape as one, each shape as one compiled graph, or one for each question to other tiles; a
           parameter that is one of many is left whole, as its temporaries are few beside all; on a GPU no tiles, but some large
           ones of a shape in one call
auto       compiled where all parameters are on a GPU that Triton works on, otherwise eager

All but the reference hand a chain that is as a whole what a fused kernel of torch computes to that kernel, see ``fused``,
unless it is to be compiled and has large parameters on a GPU, where a graph of its own is faster.

Compiling takes seconds to minutes. On a GPU an uncompiled step of ``ladam`` takes 12 times as long. On a CPU compiling is left
to be asked for: it pays in a long run there too, but needs a compiler that is not everywhere.
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
