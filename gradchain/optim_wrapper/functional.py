"""Chains as functions of tensors: nothing is edited, so they can be differentiated, mapped and composed.

    state = chain.init(params)
    updates, state = chain.update(grads, state, params)
    params = {name: p - updates[name] for name, p in params.items()}

params   a dict or a list of tensors; ``grads``, ``updates`` and ``state`` are of the same form. A gradient may be None: that
         parameter rests. Names in a dict are those that links with rules on names go by.
updates  what is to be SUBTRACTED, in the parameters' dtype.
state    for every parameter a flat dict of tensors under the names that ``optimizer.state`` has, ``"step"`` among them.

Hyperparameters are those of the chain; ``update(..., lr=lr)`` gives others for this step, by their keys in parameter groups, as
tensors too, through which gradients flow. Schedules are asked for each parameter's own step. Under ``torch.func.vmap`` members
may differ in everything that is a tensor; steps are tensors there, so a link with a window or a refresh works at every step,
and what it makes counts where it is due; a schedule is handed a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.chains.partition import Partition, Recipe
from gradchain.optim_wrapper.checkpoint import host_step
from gradchain.optim_wrapper.drivers.flow import Flow, batched, compute_dtype, start
from gradchain.optim_wrapper.drivers.loop import Job, loop
from gradchain.optim_wrapper.hyperparameters import Binder, BoundLink, ChainBinder, scalar, with_rate, without
from gradchain.optim_wrapper.shards import elements
from gradchain.types import ChainError, ParamInfo

Params = Mapping[str, Tensor] | Sequence[Tensor]


class Pure(Job):
    """A parameter in one step of which nothing is written."""

    def __init__(self, info: ParamInfo, grad: Tensor, links: tuple[BoundLink, ...], state: Mapping[str, Tensor], known: Known):
        dtype, used = compute_dtype(info.param), known.binder.used
        carry = start(elements(info.param).to(dtype), elements(grad).to(dtype), used)
        Flow.__init__(self, links, scalar(info.group["lr"]), state, used, state["step"] + 1, carry, info.param.dtype)
        self.info, self.label, self.at, self.begun, self.waited = info, known.label, 0, True, False
        self.view, self.sharded = elements_of_none, None

    @override
    def write(self) -> None:
        """Nothing: ``made`` tells."""

    def made(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The update and the new state."""
        param, update = self.info.param, self.outcome()
        update = torch.view_as_complex(update) if param.is_complex() else update
        return update.reshape(param.shape).to(param.dtype), {**self.state, **self.fresh, "step": self.step}


def elements_of_none(state: Tensor) -> Tensor:
    """State as links see it: as it is."""
    return state


class Known:
    """What runs on the parameters of one label."""

    def __init__(self, binder: ChainBinder, label: str) -> None:
        self.binder, self.label = binder, label
        self.values = dict(binder.defaults)
        self.links = binder.bind(self.values)

    def at(self, step: Tensor) -> tuple[dict[str, Any], tuple[BoundLink, ...]]:
        """The hyperparameters and the links as they are in this step."""
        if not self.binder.schedules:
            return self.values, self.links
        now = step if torch.compiler.is_compiling() or batched(step) else int(step)
        values = {**self.values, **{key: schedule(now) for key, schedule in self.binder.schedules.items()}}
        return values, self.binder.bind(values)


def init(recipe: Recipe, params: Params) -> Any:
    """The state before the first step, in the form of ``params``."""
    made = dict[int, dict[str, Tensor]]()
    for place, name, param, known in _members(recipe, params):
        made[place] = {"step": host_step()}
        for link in without(known.links, known.binder.absent(name, param)):
            made[place] |= _fresh(link, param)
    return _formed(params, made)


def _fresh(link: BoundLink, param: Tensor) -> dict[str, Tensor]:
    """The state of a link before its first step."""
    return dict(zip(link.state_keys, link.transform.init(elements(param).to(compute_dtype(param))), strict=True))


def update(recipe: Recipe, grads: Any, state: Any, params: Params, hyperparameters: Mapping[str, Any]) -> tuple[Any, Any]:
    """(updates, state), both in the form of ``params``; the updates are to be subtracted."""
    recipe = recipe.map(with_rate)
    recipe = recipe.override(hyperparameters) if hyperparameters else recipe
    all_grads, states = _matching("grads", grads, params), _matching("state", state, params)
    updates, new, jobs = dict[int, Tensor](), dict[int, Any](), list[Pure]()
    for place, name, param, known in _members(recipe, params):
        grad, old = all_grads[place], states[place]
        if grad is None:
            updates[place], new[place] = torch.zeros_like(param), old
            continue
        group, links = known.at(old["step"] + 1)
        links = without(links, known.binder.absent(name, param))
        for link in links:  # one that was idle so far counts its steps from here
            if link.state_keys and link.state_keys[0] not in old:
                old = {**old, **_fresh(link, param), f"{link.label}/since": old["step"]}
        jobs.append(Pure(ParamInfo(name, param, group, place), grad, links, old, known))
    loop(jobs)
    for job in jobs:
        updates[job.info.place], new[job.info.place] = job.made()
    return _formed(params, updates), _formed(params, new)


def _members(recipe: Recipe, params: Params) -> Iterator[tuple[int, str, Tensor, Known]]:
    """(place, name, parameter, what runs on it) by label."""
    if needy := [link.label for link in recipe.links if link.traits & {"perturbs", "solves"}]:
        raise ChainError(
            f"{needy[0]!r} takes the gradients twice in a step, and a function of one gradient has no second. "
            "Leave it out, or use recipe.optimizer(params) with a closure."
        )
    named = list(_named("params", params))
    recipe, names, places = recipe.map(with_rate), [name for name, _ in named], range(len(named))
    binder = Binder(recipe)
    group = {"params": [param for _, param in named], "param_names": names, "named": places}  # "named" is split like the others
    for part in recipe.split(group, names) if isinstance(recipe, Partition) else [group]:
        known = Known(binder.of(part), recipe.label_of(part))
        for place in cast("Sequence[int]", part["named"]):
            yield place, names[place], named[place][1], known


def _named(what: str, tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        yield from cast("Mapping[str, Any]", tree).items()
    elif isinstance(tree, list | tuple):
        yield from ((f"0.{i}", entry) for i, entry in enumerate(cast("Sequence[Any]", tree)))
    else:
        raise ChainError(f"{what} must be a dict or a list of tensors; found {type(tree).__name__}. Put it into one.")


def _matching(what: str, tree: Any, params: Params) -> list[Any]:
    """The entries in the order of ``params``; ChainError where they are others."""
    found, wanted = dict(_named(what, tree)), [name for name, _ in _named("params", params)]
    if found.keys() != set(wanted):
        names = ", ".join(found) or "none"
        raise ChainError(
            f"{what} must have an entry for each of {', '.join(wanted)}; found: {names}. Pass None for no gradient."
        )
    return [found[name] for name in wanted]


def _formed(params: Params, entries: Mapping[int, Any]) -> Any:
    values = [entries[place] for place in range(len(entries))]
    if isinstance(params, Mapping):
        return dict(zip(params, values, strict=True))
    return tuple(values) if isinstance(params, tuple) else values
