"""The drivers that keep a plan: ``eager``, ``compiled``, and ``auto``, which is one of the two."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.drivers.loop import loop
from gradchain.optim_wrapper.drivers.plan import Plan, params_of
from gradchain.optim_wrapper.drivers.states import Kept
from gradchain.optim_wrapper.drivers.step import Library
from gradchain.optim_wrapper.drivers.total import observers, total
from gradchain.optim_wrapper.drivers.watch import Watch, watched
from gradchain.optim_wrapper.execution.compiler import can_compile, compiling_pays
from gradchain.optim_wrapper.execution.cpp_library import compiler
from gradchain.optim_wrapper.execution.ready import Ready, ready


class Planned(Library):
    """A driver that keeps a plan for one optimizer."""

    watch: Watch | None

    def __init__(self, compile: bool | None, flatten: bool = False) -> None:
        """compile: None where the parameters say, see ``compiling_pays``."""
        super().__init__()
        self.compile, self.flatten = compile, flatten
        self.plan: Plan | None = None
        self.unfit: Collection[int] = ()
        self.ready: Ready | None = None

    def prepare(self, optimizer: OptimizerBase) -> None:
        optimizer.rows()
        if not _loops():
            params = params_of(optimizer)
            self._plan(optimizer, params, [param.grad for param in params])

    def __call__(self, optimizer: OptimizerBase) -> None:
        if _loops():
            loop([*optimizer.jobs(), *observers(optimizer)])
            return
        params = params_of(optimizer)
        grads = [param.grad for param in params]
        plan = self._plan(optimizer, params, grads)
        again = not plan.new
        plan.run(optimizer, grads, self.step(plan.compile, first=plan.new, total=total(optimizer)))
        self.ready = ready(optimizer, self, plan) if again else None

    def repeat(self, optimizer: OptimizerBase) -> bool:
        """Take a step like the last one; False, with nothing done, where it is not like that."""
        if self.ready is None or _loops():
            return False
        if self.ready.take(optimizer, self):
            return True
        self.ready = None  # it may have taken some of the new numbers, and the step may raise
        return False

    def _plan(self, optimizer: OptimizerBase, params: list[Tensor], grads: list[Tensor | None]) -> Plan:
        if self.plan is None or self.watch is None or not self.plan.fits(optimizer, params, grads):
            kept = Kept({}, []) if self.plan is None else self.plan.kept
            self.plan = self.ready = None  # they hold parameters that may be moved
            compile = compiling_pays(params) if self.compile is None else self.compile and can_compile(params)
            native = self.compile is not False and compiler() is not None
            self.plan = Plan(optimizer, compile, self.flatten, native, kept, self.unfit)
            self.watch = watched(optimizer, self.unfit)
        return self.plan


def _loops() -> bool:
    """Whether the step is traced as a whole, or tensors have no versions: there is nothing to plan."""
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled()
