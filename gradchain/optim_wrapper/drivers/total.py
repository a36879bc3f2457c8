"""The steps that an optimizer has taken, for links that go by them and not by the steps of each parameter.

The number stands in every parameter group, but only in optimizers with such a link: it is saved, copied and loaded with them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.drivers.flow import due
from gradchain.optim_wrapper.drivers.loop import Observer
from gradchain.optim_wrapper.hyperparameters import scalar
from gradchain.optim_wrapper.rows import Row, refreshed_without_gradient
from gradchain.types import UNSET

TOTAL = "optimizer_step"  # the key in the groups


def counts_total(optimizer: OptimizerBase) -> bool:
    """Whether a link asks for the number."""
    return any("optimizer_step" in link.traits for link in optimizer.chain.links)


def taken(optimizer: OptimizerBase) -> int | Tensor:
    """The steps taken so far; the most of any parameter, where the number was not saved."""
    known = [group[TOTAL] for group in optimizer.param_groups if TOTAL in group]
    if counted := [number for number in known if isinstance(number, Tensor)]:
        return counted[0]
    return max(known) if known else max((int(state["step"]) for state in optimizer.state.values() if state), default=0)


def total(optimizer: OptimizerBase) -> Tensor:
    """The steps with the coming one, as links see them; UNSET where none asks."""
    return scalar(taken(optimizer) + 1) if optimizer.counts_total else UNSET


def before(optimizer: OptimizerBase) -> dict[str, Any]:
    """What a group's entry is to be again, if the coming step is not taken."""
    if not optimizer.counts_total:
        return {}
    now = taken(optimizer)
    return {TOTAL: now.clone() if isinstance(now, Tensor) else now}


@contextmanager
def counting(optimizer: OptimizerBase) -> Generator[None]:
    """Note that a step was taken, if nothing raises meanwhile.

    Where the learning rate is on a GPU, the number is there too, in a tensor that is written: a CUDA graph counts on.
    """
    now = before(optimizer)
    yield
    for group in optimizer.param_groups if now else ():
        if isinstance(number := group.get(TOTAL), Tensor):
            number.add_(1)
        elif isinstance(lr := group["lr"], Tensor) and lr.is_cuda:
            group[TOTAL] = torch.as_tensor(now[TOTAL] + 1, dtype=torch.float64, device=lr.device)
        else:
            group[TOTAL] = now[TOTAL] + 1


def resting(optimizer: OptimizerBase) -> list[Row]:
    """The parameters without a gradient, where links that count the optimizer's steps are refreshed in the coming one."""
    coming = total(optimizer)
    schedules = [link.refresh_schedule for link in optimizer.chain.links if refreshed_without_gradient(link)]
    if all(schedule is None or due(schedule, coming) is False for schedule in schedules):
        return []
    places = [(g, i, param) for g, group in enumerate(optimizer.param_groups) for i, param in enumerate(group["params"])]
    still = [(g, i, place) for place, (g, i, param) in enumerate(places) if param.grad is None and param.requires_grad]
    return [optimizer.row(g, i, place) for g, i, place in still]


def observers(optimizer: OptimizerBase) -> list[Observer]:
    """The same, as jobs."""
    return [Observer(*row) for row in resting(optimizer)]
