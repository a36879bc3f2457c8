"""Whether gradients and states that the functional API is handed fit their parameters; ChainError where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.shards import elements
from gradchain.types import ChainError


def check_param(name: str, param: Any) -> None:
    """A parameter is a tensor of real or complex numbers."""
    if not isinstance(param, Tensor):
        raise ChainError(f"parameter {name!r} must be a tensor; found {type(param).__name__}. Pass tensors alone.")
    if not (param.is_floating_point() or param.is_complex()):
        raise ChainError(f"parameter {name!r} must hold real or complex numbers; found {param.dtype}. Leave it out.")


def check_grad(name: str, grad: Any, param: Tensor) -> None:
    """A gradient is None, or a dense tensor like its parameter."""
    if grad is None:
        return
    if not isinstance(grad, Tensor):
        found = type(grad).__name__
        raise ChainError(f"the gradient of {name!r} must be a tensor or None; found {found}. Pass None for no gradient.")
    if grad.layout != torch.strided:
        raise ChainError(f"the gradient of {name!r} is {grad.layout}; chains work on dense gradients. Pass grad.to_dense().")
    if grad.shape != param.shape:
        raise ChainError(
            f"the gradient of {name!r} has shape {tuple(grad.shape)}, the parameter {tuple(param.shape)}. "
            "Pass the gradient of this very parameter."
        )
    if grad.is_complex() != param.is_complex():
        raise ChainError(f"the gradient of {name!r} is {grad.dtype}, the parameter {param.dtype}. Make both real or complex.")


def check_state(name: str, state: Any, links: Sequence[BoundLink], param: Tensor) -> None:
    """A state is a dict of tensors, with those of every link in the shape that the parameter asks for."""
    if not isinstance(state, Mapping):
        found = type(state).__name__
        raise ChainError(f"the state of {name!r} must be a dict of tensors; found {found}. Pass what init or update gave.")
    wanted: dict[str, torch.Size] = {"step": torch.Size(())}
    for link in links:
        rested = link.transform.idle and not any(key in state for key in link.state_keys)  # it begins with this call
        if link.state_keys and not rested:
            wanted |= dict(zip(link.state_keys, _shapes(link, param), strict=True))
    if missing := [key for key in wanted if key not in state]:
        raise ChainError(
            f"the state of {name!r} has no {missing[0]!r}; it has {', '.join(map(str, state)) or 'nothing'}. "
            "Pass the state that init or update of this very chain gave."
        )
    for key, shape in wanted.items():
        value = state[key]
        if not isinstance(value, Tensor):
            raise ChainError(f"state {key!r} of {name!r} must be a tensor; found {value!r}. Pass what init or update gave.")
        if value.shape != shape:
            raise ChainError(
                f"state {key!r} of {name!r} has shape {tuple(value.shape)}, the parameter of shape {tuple(param.shape)} needs "
                f"{tuple(shape)}. Make the state anew with init, or pass the parameter that it was made for."
            )


def _shapes(link: BoundLink, param: Tensor) -> list[torch.Size]:
    """The shapes of a link's state, found without data."""
    like = torch.empty(elements(param).shape, dtype=compute_dtype(param), device="meta")
    with torch.no_grad():
        return [value.shape for value in link.transform.init(like)]
