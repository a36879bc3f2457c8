"""Checks of gradients and states against their parameters, made before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.checkpoint import fresh_state
from gradchain.optim_wrapper.collectives import nothing_but_zeros
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.hyperparameters import BoundLink, name_in
from gradchain.optim_wrapper.layouts import is_sharded
from gradchain.types import ChainError

Wanted = dict[str, tuple[torch.Size, bool]]  # shape of a state, and whether it is floating


def check(optimizer: OptimizerBase) -> None:
    """ChainError where a gradient or a state does not fit its parameter. Costs little where all is as it was."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [param.grad for param in params]
    watch = optimizer._drive.watch
    if watch is None or not watch.holds(optimizer, params, grads):
        optimizer._drive.watch = None  # no plan fits any more
        check_gradients(optimizer)
        optimizer._drive.unfit = check_states(optimizer)
    elif not watch.gradients_hold(grads):
        check_gradients(optimizer)
        watch.gradients_fit(grads)


def only_prepares(optimizer: OptimizerBase) -> bool:
    """Whether this step can do nothing but make the state, as torch.distributed.checkpoint asks for: it counts as none.

    The gradients are looked at in a first step at a learning rate of 0 only, so that no other step reads them.
    """
    if optimizer.state or torch.compiler.is_compiling() or any(bool(group["lr"] != 0) for group in optimizer.param_groups):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return nothing_but_zeros(grads)


def check_gradients(optimizer: OptimizerBase) -> None:
    """RuntimeError where a gradient is sparse, ChainError where its shape or device is not the parameter's."""
    for g, group in enumerate(optimizer.param_groups):
        for i, param in enumerate(group["params"]):
            grad: Tensor | None = param.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                raise RuntimeError(
                    f"the gradient of {name_in(group, g, i)!r} is {grad.layout}; chains work on dense gradients. "
                    "Use sparse=False in the embedding, or grad.to_dense() before the step."
                )
            if grad.shape != param.shape:
                raise ChainError(
                    f"the gradient of {name_in(group, g, i)!r} has shape {tuple(grad.shape)}, the parameter "
                    f"{tuple(param.shape)}: the parameter was changed after the backward pass. "
                    "Set its .grad to None and run backward() again."
                )
            if grad.device != param.device:
                raise ChainError(
                    f"the gradient of {name_in(group, g, i)!r} is on {grad.device}, the parameter on {param.device}. "
                    "Set its .grad to None and run backward() again."
                )


def check_states(optimizer: OptimizerBase) -> set[int]:
    """ChainError where a state does not fit the parameter that is to be stepped; the ids of others that it does not fit."""
    unfit: set[int] = set()
    known: dict[tuple[int, torch.Size, torch.dtype], tuple[Any, Wanted]] = {}
    for g, group in enumerate(optimizer.param_groups):
        for i, param in enumerate(group["params"]):
            state: dict[str, Any] = optimizer.state.get(param, {})
            if not state:
                continue
            links = optimizer.links_at(g, i)
            key = (id(links), param.shape, param.dtype)
            if key not in known:
                known[key] = links, wanted_states(links, param)  # with the links, whose id must not be used again
            if problem := _problem(name_in(group, g, i), param, state, known[key][1]):
                if param.grad is not None:
                    raise ChainError(problem)
                unfit.add(id(param))
    return unfit


def _problem(name: str, param: Tensor, state: dict[str, Any], wanted: Wanted) -> str:
    """The reason why a state does not fit its parameter, or an empty string."""
    remedy = "Delete its entry in optimizer.state to start afresh, or put a state of the new shape there."
    for key, (shape, floating) in {**wanted, "step": (torch.Size(), False)}.items():
        value = state.get(key)
        if value is None:
            continue  # it will be made
        if not isinstance(value, Tensor):
            return f"the state {key!r} of {name!r} is of type {type(value).__name__}, not a tensor. {remedy}"
        if value.shape != shape:
            return (
                f"the state {key!r} of {name!r} has shape {tuple(value.shape)}; the parameter has shape {tuple(param.shape)}, "
                f"for which the state must have shape {tuple(shape)}. {remedy}"
            )
        if floating and not value.is_floating_point():
            return f"the state {key!r} of {name!r} has dtype {value.dtype}, in which its values would be cut. {remedy}"
        if shape and value.device != param.device:
            return (
                f"the state {key!r} of {name!r} is on {value.device}, the parameter on {param.device}. "
                "Move the model before the optimizer is made, or load the optimizer's state_dict() again."
            )
    return ""


def wanted_states(links: Sequence[BoundLink], param: Tensor) -> Wanted:
    """The form of what the links keep for a parameter, by name; of a DTensor, that of the whole."""
    like = param if not is_sharded(param) else torch.empty(param.shape, dtype=param.dtype, device="meta")
    shape = (*like.shape, 2) if like.is_complex() else like.shape
    whole = torch.empty(shape or (1,), dtype=compute_dtype(param), device="meta")
    wanted: Wanted = {}
    for link in links:
        try:
            made = dict(zip(link.state_keys, link.transform.init(whole), strict=True))
        except Exception:  # an init that reads values, which there are none of here
            made = fresh_state(link, param)
        wanted |= {key: (value.shape, value.is_floating_point()) for key, value in made.items()}
    return wanted
