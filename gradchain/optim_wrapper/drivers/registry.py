"""The drivers by name."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from gradchain.optim_wrapper.base import Driver, OptimizerBase
from gradchain.optim_wrapper.drivers.loop import loop
from gradchain.optim_wrapper.drivers.memory import few, overlapping
from gradchain.optim_wrapper.drivers.planned import Planned
from gradchain.optim_wrapper.drivers.total import observers, resting
from gradchain.optim_wrapper.drivers.watch import Watch, watched
from gradchain.optim_wrapper.execution import reference


class Reference:
    """One parameter after the other."""

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.unfit: Collection[int] = ()
        self.shared: Collection[int] = ()  # places of parameters that share memory

    def prepare(self, optimizer: OptimizerBase) -> None:
        optimizer.rows()

    def repeat(self, optimizer: OptimizerBase) -> bool:
        return False

    def __call__(self, optimizer: OptimizerBase) -> None:
        if torch.compiler.is_compiling():  # a graph cannot decide by step counts
            loop([*optimizer.jobs(), *observers(optimizer)])
            return
        rows, others = optimizer.rows(), resting(optimizer)
        if self.watch is None:
            self.watch, self.shared = watched(optimizer, self.unfit), overlapping([*rows, *others])
        reference.step(rows, others, in_turn=self.shared, hold=few(rows))


DRIVERS: dict[str, Callable[[bool], Driver]] = {  # name -> what makes the driver of one optimizer, told of ``flatten``
    "auto": lambda flatten: Planned(compile=None, flatten=flatten),
    "reference": lambda flatten: Reference(),
    "eager": lambda flatten: Planned(compile=False, flatten=flatten),
    "compiled": lambda flatten: Planned(compile=True, flatten=flatten),
}
