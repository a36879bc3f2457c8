"""Training and evaluation: a chain with an average of the weights puts it in place of the parameters and back.

Only optimizers of such chains have ``train()`` and ``eval()``, as trainers that call them where they exist expect. In
evaluation the training values stand in ``state[p]["<link>/held"]``, so a checkpoint saved there resumes either way, and
``train()`` brings back the very bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.chains.partition import Recipe
from gradchain.optim_wrapper.base import OptimizerBase
from gradchain.optim_wrapper.checkpoint import fresh_state
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.shards import cut_like, elements, local, view_of
from gradchain.types import Carry, ChainError, Context, Transform


def averages(recipe: Recipe) -> bool:
    """Whether some link of the chains keeps weights for evaluation."""
    return any("averages" in link.traits for link in recipe.links)


def check_training(optimizer: OptimizerBase) -> None:
    """ChainError where the parameters stand as for evaluation."""
    if not all(group.get("train_mode", True) for group in optimizer.param_groups):
        raise ChainError("the parameters hold the average for evaluation; found a step. Call optimizer.train() before it.")


class HeldState(NamedTuple):
    held: Tensor


@dataclass(frozen=True, kw_only=True)
class Held(Transform[HeldState]):
    """Keeps the value of a parameter while another stands in its place."""

    State = HeldState

    @override
    def init(self, param: Tensor) -> HeldState:
        return HeldState(param.clone())

    @override
    def update(self, carry: Carry, state: HeldState, ctx: Context) -> tuple[Carry, HeldState]:
        return carry, state


HELD = Held()


def held_by(link: BoundLink) -> BoundLink:
    """What keeps the training value while the link's average is in its place."""
    return BoundLink(HELD, link.label, (f"{link.label}/held",))


@torch.no_grad()
def set_mode(optimizer: OptimizerBase, training: bool) -> None:
    """Put training values (or the average) in place of the parameters; nothing to do where they are there."""
    optimizer.follow()
    for g, group in enumerate(optimizer.param_groups):
        if group["train_mode"] is training:
            continue
        group["train_mode"] = training
        for i, param in enumerate(group["params"]):
            for link in optimizer.links_at(g, i):
                if "averages" in link.transform.traits and (state := optimizer.state.get(param)):
                    _swap(param, state, link, training)


def _swap(param: Tensor, state: dict[str, Tensor], link: BoundLink, training: bool) -> None:
    view, (held,) = view_of(param), held_by(link).state_keys
    if training:
        if held not in state:  # it was loaded from a run that had put nothing aside
            return
        value = view(state.pop(held))
    else:
        state.update(fresh_state(held_by(link), param))
        own = link.transform.State(*[view(state[key]) for key in link.state_keys])
        value = link.transform.weights(view(state[held]), own)
    place = param.detach()
    elements(local(place)).copy_(value if view is local else cut_like(value, place))
