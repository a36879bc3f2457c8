"""Neurons in an order in which neighbours fire alike, so that smoothing over neighbouring elements has a meaning.

    order = compute_neuron_order(first(x));  reorder_linear_layer(first, second, order, optimizer)

A hidden layer's neurons have no order of their own: permuting the rows of the first layer and the columns of the second
leaves ``second(f(first(x)))`` as it is for every elementwise f. What stands between and has parameters by neuron (a batch
norm) must be permuted by the caller.

Source   ladam 0.3.0 to 0.4.1 (PyPI): a greedy walk from neuron 0, always to the most correlated neuron not yet visited.
Differs  the original crashes on layers without bias and leaves gradients and the optimizer's state at the old places. Ours
         computes correlations in float64 on the CPU and takes those that agree to 9 decimals as equal (lowest index first).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradchain.types import ChainError


@torch.no_grad()
def compute_neuron_order(activations: Tensor) -> Tensor:
    """The permutation of neurons, int64, from activations of shape (samples, neurons); up to 4 neurons keep their order.

    Raises ChainError unless there are 2 dimensions, at least 2 samples, and all activations are finite real numbers.
    """
    if activations.dim() != 2 or activations.shape[0] < 2:
        raise ChainError(
            f"activations must have shape (samples, neurons) with 2 or more samples; found {tuple(activations.shape)}. "
            "Collect a batch, and flatten leading dimensions with activations.flatten(0, -2)."
        )
    if activations.is_complex() or not activations.isfinite().all():
        raise ChainError(
            f"activations must be finite real numbers; found {activations.dtype} with complex, infinite or NaN entries. "
            "Leave such samples out."
        )
    samples, neurons = activations.shape
    if neurons <= 4:
        return torch.arange(neurons, device=activations.device)
    x = activations.to("cpu", torch.float64)
    z = (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-8)
    correlation = (z.T @ z / samples).round(decimals=9)
    order = torch.zeros(neurons, dtype=torch.int64)
    for i in range(1, neurons):
        correlation[:, order[i - 1]] = -torch.inf  # nobody goes back to a visited neuron
        order[i] = correlation[order[i - 1]].argmax()  # the first of equal ones
    return order.to(activations.device)


@torch.no_grad()
def reorder_linear_layer(first: nn.Linear, second: nn.Linear, order: Tensor, optimizer: Optimizer | None = None) -> None:
    """Put the neurons between two linear layers into this order, in place, with their gradients and optimizer state.

    Neuron ``order[i]`` becomes neuron ``i``. Raises ChainError if the layers do not fit together, order is no permutation,
    or the optimizer holds state that cannot be permuted; nothing has changed then.
    """
    _check_layers(first, second)
    index = _checked_order(order, first.weight.shape[0])
    moves = [(first.weight, 0), (second.weight, 1)]
    if "bias" in dict(first.named_parameters(recurse=False)):
        moves.append((first.bias, 0))
    todo = [(tensor, dim) for param, dim in moves for tensor in _belongings(param, dim, optimizer)]
    for tensor, dim in todo:
        tensor.copy_(tensor.index_select(dim, index.to(tensor.device)))


def _check_layers(first: nn.Linear, second: nn.Linear) -> None:
    for name, layer in (("first", first), ("second", second)):
        if not isinstance(layer, nn.Linear) or "weight" not in dict(layer.named_parameters(recurse=False)):
            raise ChainError(
                f"{name} must be a torch.nn.Linear with a weight of its own; found {layer!r}. "
                "Remove parametrizations before reordering."
            )
    if first.weight is second.weight:
        raise ChainError("first and second share one weight, whose rows and columns cannot both move. Pass two layers.")
    if first.weight.shape[0] != second.weight.shape[1]:
        raise ChainError(
            f"the outputs of first must be the inputs of second; found {first.weight.shape[0]} outputs and "
            f"{second.weight.shape[1]} inputs. Pass two consecutive layers."
        )


def _checked_order(order: Tensor, neurons: int) -> Tensor:
    index = order.detach().to("cpu")
    if index.is_floating_point() or index.is_complex() or not torch.equal(index.sort().values, torch.arange(neurons)):
        raise ChainError(
            f"order must hold each of 0 to {neurons - 1} once, as whole numbers; found {order.dtype} of shape "
            f"{tuple(order.shape)}. Use compute_neuron_order."
        )
    return index.long()


def _belongings(param: Tensor, dim: int, optimizer: Optimizer | None) -> Iterator[Tensor]:
    """The parameter, its gradient and its state: all that must move along."""
    yield param
    if param.grad is not None:
        yield param.grad
    state: dict[str, Any] = optimizer.state.get(param, {}) if optimizer is not None else {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.numel() <= 1:
            continue
        if value.dim() != param.dim() or any(a not in (1, b) for a, b in zip(value.shape, param.shape, strict=True)):
            raise ChainError(
                f"the state {key!r} of a parameter of shape {tuple(param.shape)} has shape {tuple(value.shape)}; which of its "
                "entries belong to which neuron is unknown. Reorder before the first step, or without this state."
            )
        if value.shape[dim] == param.shape[dim]:
            yield value
