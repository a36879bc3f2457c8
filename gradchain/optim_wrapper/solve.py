"""A link that solves once a step over all its parameters, with the loss evaluated at points that it chooses.

Before the chain runs, the optimizer lets it solve and brings the parameters back; in the chain the link then gives the
displacement. The links before it work on the gradient of every trial point, with their state as it was before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.calls import finite, with_gradient
from gradchain.optim_wrapper.drivers.loop import through
from gradchain.optim_wrapper.layouts import is_sharded
from gradchain.optim_wrapper.rows import Row
from gradchain.types import ChainError, Transform


def check_solver(links: Sequence[Transform[Any]], accumulate: int) -> None:
    """ChainError where a link that solves meets what it cannot be used with."""
    solving = [link for link in links if "solves" in link.traits]
    if not solving:
        return
    one = solving[0]
    if len(solving) > 1:
        raise ChainError(f"{one.label!r} and {solving[1].label!r} both solve in one step, and the loss is shared. Keep one.")
    if accumulate > 1:
        raise ChainError(
            f"{one.label!r} needs all gradients of a step in its closure; found accumulate={accumulate}. "
            "Run the micro-batches inside the closure, and leave out accumulate."
        )
    if climbs := [link.label for link in links if "perturbs" in link.traits]:
        raise ChainError(f"{one.label!r} evaluates the loss at its own points, and so does {climbs[0]!r}. Leave one out.")
    if one.window != (1, None):
        raise ChainError(f"{one.label!r} solves at every step; found the window {one.window!r}. Leave out Phase().")


def refuse_shards(optimizer: OptimizerBase, label: str) -> None:
    """ChainError where a parameter is sharded; nothing has changed."""
    for group in optimizer.param_groups:
        if any(is_sharded(param) for param in group["params"]):
            raise ChainError(f"{label!r} knows nothing of sharded parameters. Use a chain's own links.")


def solve(optimizer: OptimizerBase, closure: Callable[[], Any], loss: Any) -> None:
    """Let the link solve from the point where the closure has just given this loss and the gradients."""
    if optimizer.finite_gate and not finite(optimizer):  # the step is not to be taken
        return
    rows = [row for row in optimizer.rows(stateful=True) if _place(row) is not None and row.info.param.numel()]
    if not rows:
        return
    links = [row.links[_place(row) or 0] for row in rows]
    link: Any = links[0].transform
    if any(not _equal(other.transform, link) for other in links):
        raise ChainError(f"{link.label!r} solves for all its parameters at once; its values differ by group. Give them one.")
    delivered = [(param, param.grad, param.grad.clone()) for param in with_gradient(optimizer) if param.grad is not None]
    fresh = [loss]

    def evaluated() -> Any:
        value = fresh.pop() if fresh else closure()
        with torch.no_grad():
            _ahead(optimizer, rows[0].label)
        return value.detach() if isinstance(value, Tensor) else value

    try:
        states = [link.State(*(row.state[key] for key in at.state_keys)) for row, at in zip(rows, links, strict=True)]
        link.solve([row.info.param for row in rows], states, evaluated)
    finally:
        for param, grad, value in delivered:
            param.grad = grad.copy_(value)


def _place(row: Row) -> int | None:
    return next((i for i, link in enumerate(row.links) if "solves" in link.transform.traits), None)


def _equal(one: Transform[Any], other: Transform[Any]) -> bool:
    pairs = [(getattr(one, key), getattr(other, key)) for key in one.hyperparameters()]
    return all(bool(a == b) for a, b in pairs)


def _ahead(optimizer: OptimizerBase, label: str) -> None:
    """Put what the links before the solving one make of the gradients in their place."""
    jobs = [job for job in optimizer.jobs() if job.label == label]
    end = max((i for job in jobs for i, link in enumerate(job.links) if "solves" in link.transform.traits), default=0)
    if not end:
        return
    through(jobs, end=end)
    for job in jobs:
        param = job.info.param
        update: Tensor = job.carry.update
        update = torch.view_as_complex(update.contiguous()) if param.is_complex() else update
        param.grad = update.reshape(param.shape).to(param.dtype)
