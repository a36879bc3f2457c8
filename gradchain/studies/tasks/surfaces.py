"""Classic test functions of many variables."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradchain.studies.tasks.task import Task


class Surface:
    """A function of one parameter, minimized from a seeded start; the metric is the function itself."""

    def __init__(self, start: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        self.x = nn.Parameter(start)
        self.function = function

    def named_parameters(self):
        return [("x", self.x)]

    def loss(self) -> Tensor:
        return self.function(self.x)

    def again(self) -> Tensor:
        """There are no batches."""
        return self.loss()

    @torch.no_grad()
    def metric(self) -> float:
        return float(self.function(self.x))


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(seed: int, n: int = 64) -> Surface:
    """x' A x / 2 with eigenvalues from 1e-3 to 1 in a random basis; minimum 0."""
    generator = _random(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator))[0]
    matrix = basis @ torch.diag(torch.logspace(-3, 0, n)) @ basis.T

    def form(x: Tensor) -> Tensor:
        return x @ matrix @ x / 2

    return Surface(torch.randn(n, generator=generator), form)


def rosenbrock(seed: int, n: int = 32) -> Surface:
    """A curved valley in n dimensions; minimum 0 at (1, ..., 1)."""
    start = -1 + 0.1 * torch.randn(n, generator=_random(seed))
    return Surface(start, lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def rastrigin(seed: int, n: int = 32) -> Surface:
    """A bowl with a lattice of local minima; minimum 0 at the origin."""
    start = 4 * torch.rand(n, generator=_random(seed)) - 2
    return Surface(start, lambda x: (x * x - 10 * torch.cos(2 * math.pi * x) + 10).sum())


QUADRATIC = Task("quadratic", "ill-conditioned quadratic form of 64 variables", "final value", 1000, quadratic)
ROSENBROCK = Task("rosenbrock", "Rosenbrock's valley in 32 dimensions", "final value", 2000, rosenbrock)
RASTRIGIN = Task("rastrigin", "Rastrigin's lattice of minima in 32 dimensions", "final value", 1000, rastrigin)
