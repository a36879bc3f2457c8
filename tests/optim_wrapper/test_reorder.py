"""Neuron order: the greedy walk, and a permutation that nobody notices."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from gradchain import presets
from gradchain.optim_wrapper.reorder import compute_neuron_order, reorder_linear_layer
from gradchain.types import ChainError

ORDER = torch.tensor([3, 0, 5, 1, 4, 2])


def walk(activations):
    """The published program, neuron by neuron."""
    x = activations.double()
    z = (x - x.mean(0)) / x.std(0).clamp(min=1e-8)
    correlation = z.T @ z / len(x)
    order = [0]
    while len(order) < x.shape[1]:
        rest = [j for j in range(x.shape[1]) if j not in order]
        order.append(max(rest, key=lambda j: (correlation[order[-1], j].item(), -j)))
    return order


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=bias), nn.Tanh(), nn.Linear(6, 6, bias=bias)).double()


def train(net, optimizer, steps=5):
    x = torch.linspace(-1, 1, 32, dtype=torch.float64).reshape(8, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - x.sum()).square().mean().backward()
        optimizer.step()
    return net(x)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_the_published_walk(seed):
    activations = torch.randn(50, 23, generator=torch.Generator().manual_seed(seed))
    assert compute_neuron_order(activations).tolist() == walk(activations)


def test_neurons_that_fire_alike_become_neighbours():
    a, b = torch.randn(2, 100, 1, generator=torch.Generator().manual_seed(0))
    order = compute_neuron_order(torch.cat([a, b, a, b, a, b], dim=1))
    assert order.tolist() == [0, 2, 4, 1, 3, 5]  # equal correlations: lowest index first


def test_dead_neurons_go_where_they_fall_and_the_order_stays_a_permutation():
    activations = torch.randn(20, 9, generator=torch.Generator().manual_seed(0))
    activations[:, 3:6] = 1.0
    assert sorted(compute_neuron_order(activations).tolist()) == list(range(9))


@pytest.mark.parametrize("neurons", range(5))
def test_up_to_four_neurons_keep_their_order(neurons):
    assert compute_neuron_order(torch.randn(7, neurons)).tolist() == list(range(neurons))


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3, 6)])
def test_activations_of_another_shape_are_refused(shape):
    with pytest.raises(
        ChainError, match=r"must have shape \(samples, neurons\) with 2 or more samples; found .* Collect a batch"
    ):
        compute_neuron_order(torch.zeros(shape))


@pytest.mark.parametrize("bad", [torch.full((5, 6), torch.nan), torch.zeros(5, 6, dtype=torch.complex64)])
def test_activations_that_are_no_finite_numbers_are_refused(bad):
    with pytest.raises(ChainError, match=r"must be finite real numbers; found torch\..* Leave such samples out"):
        compute_neuron_order(bad)


@pytest.mark.parametrize("bias", [True, False])
def test_reordering_leaves_the_function_as_it_is(bias):
    net = network(bias)
    x = torch.randn(10, 4, dtype=torch.float64)
    before, weight = net(x), net[0].weight.detach().clone()
    reorder_linear_layer(net[0], net[2], ORDER)
    torch.testing.assert_close(net(x), before)
    assert torch.equal(net[0].weight, weight[ORDER])


@pytest.mark.parametrize(
    "make",
    [
        lambda ps: AdamW(ps, lr=0.1),
        lambda ps: SGD(ps, lr=0.1, momentum=0.9),
        lambda ps: presets.adam(lr=0.1).optimizer(ps),
        lambda ps: presets.adafactor(lr=0.1).optimizer(ps),
    ],
    ids=["torch.AdamW", "torch.SGD", "adam", "adafactor"],
)
def test_training_goes_on_as_if_nothing_had_been_moved(make):
    net, moved = network(), network()
    optimizer, moved_optimizer = make(net.parameters()), make(moved.parameters())
    train(net, optimizer)
    train(moved, moved_optimizer)
    reorder_linear_layer(moved[0], moved[2], ORDER, moved_optimizer)
    torch.testing.assert_close(moved[0].weight.grad, net[0].weight.grad[ORDER])
    torch.testing.assert_close(train(moved, moved_optimizer), train(net, optimizer))
    torch.testing.assert_close(moved[2].weight, net[2].weight[:, ORDER])


@pytest.mark.parametrize(
    ("order", "found"),
    [
        (torch.tensor([0, 1, 2, 3, 4, 4]), r"torch\.int64 of shape \(6,\)"),
        (torch.arange(5), r"torch\.int64 of shape \(5,\)"),
        (torch.arange(6).float(), r"torch\.float32 of shape \(6,\)"),
        (torch.arange(6).reshape(2, 3), r"torch\.int64 of shape \(2, 3\)"),
        (torch.tensor(0), r"torch\.int64 of shape \(\)"),
    ],
)
def test_an_order_that_is_no_permutation_is_refused(order, found):
    net = network()
    with pytest.raises(ChainError, match=f"order must hold each of 0 to 5 once, as whole numbers; found {found}. Use compute"):
        reorder_linear_layer(net[0], net[2], order)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (nn.Conv1d(2, 6, 3), nn.Linear(6, 1), r"first must be a torch\.nn\.Linear .*; found Conv1d.*Remove parametrizations"),
        (
            nn.Linear(2, 6),
            torch.nn.utils.parametrizations.orthogonal(nn.Linear(6, 1)),
            r"(?s)second must be a torch\.nn\.Linear with a weight of its own; found Parametrized.*Remove parametrizations",
        ),
        (nn.Linear(2, 6), nn.Linear(5, 1), r"found 6 outputs and 5 inputs\. Pass two consecutive layers"),
        (shared := nn.Linear(6, 6), shared, r"share one weight, whose rows and columns cannot both move\. Pass two layers"),
    ],
)
def test_layers_that_do_not_fit_are_refused(first, second, message):
    with pytest.raises(ChainError, match=message):
        reorder_linear_layer(first, second, ORDER)


def test_state_that_belongs_to_no_neuron_is_refused_and_nothing_has_changed():
    net = network()
    optimizer = AdamW(net.parameters())
    train(net, optimizer)
    optimizer.state[net[2].weight]["packed"] = torch.zeros(9)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ChainError, match=r"state 'packed' of a parameter of shape \(6, 6\) has shape \(9,\).*Reorder before"):
        reorder_linear_layer(net[0], net[2], ORDER, optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
