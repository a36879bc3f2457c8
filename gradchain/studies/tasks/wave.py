"""The wave equation, solved by a physics-informed network, as in LAdam's README.

    u_tt = c^2 u_xx on [0, 1] x [0, 1];   u(x, 0) = sin(pi x), u_t(x, 0) = 0, u(0, t) = u(1, t) = 0

whose exact solution is sin(pi x) cos(c pi t). The network is 2 -> 5 x 128 (tanh) -> 1.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from gradchain.studies.tasks.task import Task

SPEED = 1.0
INSIDE, EDGE = 192, 32  # collocation points: for the equation; for the initial and for the border conditions


class Jet(nn.Module):
    """A tanh network that carries its first and second derivatives along.

    Each layer works on (u, u_x, u_t, u_xx, u_tt) at once: a linear layer maps every one of them, and for y = tanh(z)
    y' = (1 - y^2) z' and y'' = (1 - y^2) (z'' - 2 y z'^2). That is one matrix product a layer, where nested reverse-mode
    differentiation would need several passes.
    """

    def __init__(self, width: int = 128, depth: int = 5) -> None:
        super().__init__()
        sizes = [2, *[width] * depth, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, points: Tensor) -> Tensor:
        """(n, 2) points (x, t) -> (5, n) values of u, u_x, u_t, u_xx, u_tt."""
        zeros = torch.zeros_like(points)
        jet = torch.stack((points, zeros + torch.tensor([1.0, 0.0]), zeros + torch.tensor([0.0, 1.0]), zeros, zeros))
        for i, layer in enumerate(self.layers):
            jet = jet @ layer.weight.T  # pyright: ignore[reportOperatorIssue, reportAttributeAccessIssue, reportCallIssue, reportArgumentType]
            jet = torch.cat((jet[:1] + layer.bias, jet[1:]))  # pyright: ignore[reportOperatorIssue]
            if i < len(self.layers) - 1:
                jet = _tanh(jet)
        return jet.squeeze(-1)

    def value(self, points: Tensor) -> Tensor:
        """(n, 2) points -> (n,) values of u alone."""
        for layer in self.layers[:-1]:
            points = torch.tanh(layer(points))
        return self.layers[-1](points).squeeze(-1)


def _tanh(jet: Tensor) -> Tensor:
    y = torch.tanh(jet[:1])
    slope = 1 - y * y
    first, second = jet[1:3], jet[3:5]
    return torch.cat((y, slope * first, slope * (second - 2 * y * first * first)))


class Wave:
    """One network, with collocation points of its own."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = Jet()
            self.inside = torch.rand(INSIDE, 2)
            self.start = torch.stack((torch.rand(EDGE), torch.zeros(EDGE)), 1)
            self.border = torch.stack((torch.arange(EDGE) % 2.0, torch.rand(EDGE)), 1)
        self.points = torch.cat((self.inside, self.start, self.border))
        axis = torch.linspace(0, 1, 51)
        self.grid = torch.cartesian_prod(axis, axis)

    def named_parameters(self):
        return self.net.named_parameters()

    def loss(self) -> Tensor:
        """Mean squares of the residual of the equation, and of the initial and border conditions."""
        inside, start, border = self.net(self.points).split((INSIDE, EDGE, EDGE), dim=1)
        residual = inside[4] - SPEED**2 * inside[3]
        shape = start[0] - torch.sin(math.pi * self.start[:, 0])
        return residual.square().mean() + 10 * (shape.square().mean() + start[2].square().mean() + border[0].square().mean())

    def again(self) -> Tensor:
        """The points are those of every step."""
        return self.loss()

    @torch.no_grad()
    def metric(self) -> float:
        x, t = self.grid.T
        exact = torch.sin(math.pi * x) * torch.cos(SPEED * math.pi * t)
        return float(torch.linalg.vector_norm(self.net.value(self.grid) - exact) / torch.linalg.vector_norm(exact))


WAVE = Task(
    name="wave",
    about="wave-equation PINN of LAdam's README: 5x128 tanh network against the exact solution",
    metric="relative L2 error",
    steps=800,
    make=Wave,
    published_steps=5000,
)
