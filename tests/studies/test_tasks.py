"""The tasks: seeded, trainable, and the wave equation's derivatives right."""

import pytest
import torch

from gradchain import presets
from gradchain.studies import TASKS
from gradchain.studies.ablation import train
from gradchain.studies.tasks.wave import Jet, Wave

ROWS = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@ROWS
def test_the_same_seed_gives_the_same_run_and_another_seed_another(task):
    once, again, other = (train(presets.adam(lr=1e-2), task, seed, steps=3) for seed in (1, 1, 2))
    assert once == again
    assert once.metric != other.metric


@ROWS
def test_training_helps(task):
    run = train(presets.adam(lr=1e-2), task, seed=0, steps=60)
    assert run.metric < run.curve[0][1]


def test_the_wave_network_carries_true_derivatives():
    torch.manual_seed(0)
    net = Jet(width=8, depth=2).double()
    points = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)
    u = net.value(points)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    second = [torch.autograd.grad(first[:, i].sum(), points, create_graph=True)[0][:, i] for i in (0, 1)]
    wanted = torch.stack((u, first[:, 0], first[:, 1], *second))
    torch.testing.assert_close(net(points), wanted, rtol=1e-10, atol=1e-12)


def test_the_published_network_has_five_hidden_layers_of_128():
    shapes = [tuple(p.shape) for name, p in Wave(0).named_parameters() if "weight" in name]
    assert shapes == [(128, 2), *[(128, 128)] * 4, (1, 128)]


@pytest.mark.parametrize(("name", "where"), [("rosenbrock", 1.0), ("rastrigin", 0.0), ("quadratic", 0.0)])
def test_the_minimum_is_where_it_should_be(name, where):
    problem = TASKS[name].make(0)
    with torch.no_grad():
        problem.x.fill_(where)
    assert problem.metric() == pytest.approx(0, abs=1e-4)


class Exact:
    """The exact solution, with its derivatives, in the network's place."""

    def __call__(self, points):
        x, t = torch.pi * points.T
        u = torch.sin(x) * torch.cos(t)
        u_x, u_t = torch.cos(x) * torch.cos(t), -torch.sin(x) * torch.sin(t)
        return torch.stack((u, torch.pi * u_x, torch.pi * u_t, -(torch.pi**2) * u, -(torch.pi**2) * u))

    def value(self, points):
        return self(points)[0]


def test_the_exact_solution_has_no_loss_and_no_error():
    wave = Wave(0)
    wave.net = Exact()
    assert float(wave.loss()) < 1e-8
    assert wave.metric() < 1e-6


def test_zero_has_error_one():
    wave = Wave(0)
    with torch.no_grad():
        for p in wave.net.parameters():
            p.zero_()
    assert wave.metric() == pytest.approx(1.0)
