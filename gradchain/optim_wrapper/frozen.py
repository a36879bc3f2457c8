"""Frozen parameters: a gradient that is not finite does not reach them.

At a learning rate of 0 a parameter does not move, whatever its gradient is; but 0 * nan is nan. A frozen parameter (learning
rate 0, or ``requires_grad=False`` with a gradient left over) whose gradient is not finite sits the step out: it and its state
stay as they are, and links that look at several parameters do not see it. Its other steps are taken, as by ``torch.optim``.

Only gradients of frozen parameters are read. A learning rate that is a tensor on a GPU is not read, so it freezes nothing here.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.collectives import everywhere
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.shards import local


@contextmanager
def resting(optimizer: OptimizerBase) -> Generator[None]:
    """While it lasts, frozen parameters whose gradient is not finite have none."""
    params = frozen(optimizer)
    finite = _finite(params) if params else []
    taken = [(param, param.grad) for param, fine in zip(params, finite, strict=True) if not fine]
    for param, _ in taken:
        param.grad = None
    try:
        yield
    finally:
        for param, grad in taken:
            param.grad = grad


def moving(optimizer: OptimizerBase) -> list[Job]:
    """The jobs without those of frozen parameters whose gradient is not finite; they have read their gradients."""
    with resting(optimizer):
        jobs = optimizer.jobs()
        for job in jobs:
            job.begin()
    return jobs


def frozen(optimizer: OptimizerBase) -> list[Tensor]:
    """The parameters with a gradient that are not to move."""
    if torch.compiler.is_compiling():  # a graph cannot look at numbers
        return []
    watch = optimizer._drive.watch
    if watch is not None and watch.all_train and not any(_is_zero(group["lr"]) for group in optimizer.param_groups):
        return []
    return [
        param
        for group in optimizer.param_groups
        for still in (_is_zero(group["lr"]),)
        for param in group["params"]
        if (still or not param.requires_grad) and param.grad is not None and not param.is_meta
    ]


def _is_zero(rate: Any) -> bool:
    return not (isinstance(rate, Tensor) and rate.device.type != "cpu") and bool(rate == 0)


def _finite(params: list[Tensor]) -> list[bool]:
    """Whether the gradients are finite, on all ranks; one transfer."""
    flags = [local(param.grad.detach()).isfinite().all() for param in params if param.grad is not None]
    return everywhere(torch.stack([flag.to(flags[0].device) for flag in flags]), params).tolist()
