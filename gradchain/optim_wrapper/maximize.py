"""Groups that go uphill: ``group["maximize"]``, which ``ChainOptimizer(params, chain, maximize=True)`` sets for all of them.

The chain sees the negated gradient, so that what is no gradient (decoupled weight decay) works as ever. ``param.grad`` has its
own value again after the step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradchain.types import ChainError

MAXIMIZE = "maximize"  # key in the groups


def checked_flag(value: Any, owner: str = MAXIMIZE) -> bool:
    """The flag as a bool; ChainError where it is none."""
    lone = value.item() if getattr(value, "size", None) == 1 and hasattr(value, "item") else value  # numpy's
    if isinstance(lone, bool) or (isinstance(lone, int) and lone in (0, 1)):
        return bool(lone)
    raise ChainError(f"{owner} must be a bool; found {value!r}. Pass True or False.")


def maximizes(group: Mapping[str, Any]) -> bool:
    """Whether the group's parameters are to go uphill."""
    return bool(group.get(MAXIMIZE, False))


@contextmanager
def negated(optimizer: Optimizer) -> Generator[None]:
    """While it lasts, gradients of groups that maximize are negated; those that were there come back after it."""
    delivered: list[tuple[Tensor, Tensor]] = []
    try:
        for group in optimizer.param_groups:
            for param in group["params"] if maximizes(group) else ():
                if param.grad is not None:
                    delivered.append((param, param.grad))
                    param.grad = -param.grad.detach()
        yield
    finally:
        for param, grad in delivered:
            param.grad = grad


def uphill(optimizer: Optimizer) -> AbstractContextManager[None]:
    """``negated`` where some group maximizes."""
    return negated(optimizer) if any(map(maximizes, optimizer.param_groups)) else nullcontext()


def check_one_direction(optimizer: Optimizer, label: str) -> None:
    """ChainError where a link that evaluates the loss at its own points would have to go up and down at once."""
    if len({maximizes(group) for group in optimizer.param_groups}) > 1:
        raise ChainError(
            f"{label!r} solves for all its parameters at once; found maximize=True in some groups only. "
            "Set it in all of them or in none."
        )


def downhill(optimizer: Optimizer, closure: Callable[[], Any], loss: Any) -> tuple[Callable[[], Any], Any]:
    """Closure and loss for a link that minimizes: where the groups maximize, loss and gradients are negated."""
    if not any(map(maximizes, optimizer.param_groups)):
        return closure, loss

    def evaluate() -> Any:
        value = closure()
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad = -param.grad.detach()
        return -value

    return evaluate, -loss
