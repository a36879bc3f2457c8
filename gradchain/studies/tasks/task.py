"""What a task is: a seeded problem to minimize, and a figure of merit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class Problem(Protocol):
    """One instance of a task; the same seed gives the same start and the same batches.

    For chains that evaluate the loss several times in a step (SAM, L-BFGS) a problem also has a method ``again() -> Tensor``:
    the loss on the batch of the last ``loss()``, at the parameters as they are now.
    """

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]: ...
    def loss(self) -> Tensor: ...  # of the next training step; differentiable
    def metric(self) -> float: ...  # smaller is better


@dataclass(frozen=True)
class Task:
    """A family of problems, one per seed."""

    name: str
    about: str  # one line
    metric: str  # what Problem.metric() measures
    steps: int  # default length of a run
    make: Callable[[int], Problem]
    published_steps: int | None = None  # the length in the publication the task is taken from
