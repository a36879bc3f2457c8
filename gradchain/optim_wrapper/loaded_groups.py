"""The saved groups as they go on here: hyperparameters in the form in which they are kept, modes, schedules, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.foreign import group_of
from gradchain.optim_wrapper.hyperparameters import check
from gradchain.optim_wrapper.saved import MODE, SEEN, SUM
from gradchain.types import ChainError


def in_evaluation(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the groups were saved while the parameters held their average."""
    return any(group.get(MODE) is False for group in groups)


def usable(optimizer: OptimizerBase, group: Mapping[str, Any], evaluating: bool) -> dict[str, Any]:
    """A saved group as the optimizer can run it; ChainError where a hyperparameter does not fit.

    Only optimizers that average have a mode: for others, parameters are training values whatever they were when saved.
    """
    group = group_of(group, optimizer.binder.of(group).defaults)
    group |= _checked(optimizer, group)
    if not hasattr(optimizer, "eval"):
        group.pop(MODE, None)
    elif evaluating:
        group.setdefault(MODE, False)  # a group of another label has the live group's values, but saved parameters
    return group


def _checked(optimizer: OptimizerBase, group: Mapping[str, Any]) -> dict[str, Any]:
    given = check(optimizer.chain, group)
    _ = check(optimizer.chain, {**group, **{key: _read(key, value) for key, value in given.items()}})
    return given


def _read(key: str, value: Any) -> Any:
    """A hyperparameter without tensors, of which nobody else looks at the values."""
    if isinstance(value, tuple):
        return tuple(_read(key, part) for part in value)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, Tensor):
        return value
    if value.is_meta:
        raise ChainError(f"the saved {key} is a tensor on the meta device, without a value. Load a checkpoint with its values.")
    return value.item()


def going_on(optimizer: OptimizerBase, groups: Sequence[dict[str, Any]], states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    """Count no calls where their gradients are not there, and follow schedules that the saved run did not have.

    A group that was saved without the schedules that rule the live one goes on with them from its count of steps.
    """
    collected = any(SUM in state for state in states.values())
    for group, live in zip(groups, optimizer.param_groups, strict=True):
        if SEEN in group and not collected:
            group[SEEN] = 0
        if "scheduled" in live and "scheduled" not in group:
            steps = [int(states[param]["step"]) for param in live["params"] if param in states]
            group.update(scheduled=live["scheduled"], scheduled_step=max(steps, default=0))
