"""A chain at work on one tensor. What every driver runs: eagerly on a parameter, under vmap on a stack of them, traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import UNSET, Carry, Context, Layout, SharedTransform

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}  # dtype.to_real() cannot be traced

ONES = ("gate", "scale", "bump_scale", "eps_scale")  # slots that hold 1 at the start


@dataclass
class Flow:
    """One tensor on its way through the chain; nothing that it was given is written."""

    links: Sequence[BoundLink]
    lr: Tensor
    state: Mapping[str, Tensor]  # flat
    used: frozenset[str]  # slots that some link of the chain reads or writes
    step: Tensor  # 0-d, of this step
    carry: Carry
    dtype: torch.dtype  # in which the parameter is stored
    plan: Mapping[str, tuple[bool, bool]] | None = None  # active and due by link, where they are known beforehand
    layout: Layout = WHOLE
    fresh: dict[str, Tensor] = field(default_factory=lambda: {})  # new state
    total: Tensor = UNSET  # 0-d, steps of the optimizer, this one included, where a link of the chain asks

    def context(self, link: BoundLink, shared: Any = None) -> Context:
        since = self.state.get(f"{link.label}/since")  # a link that joined a saved run counts its own steps
        step = self.step if since is None else self.step - since
        stored = REAL.get(self.dtype, self.dtype)
        return Context(step.to(torch.float64), self.lr, shared, self.layout, stored, self.total)

    def count(self, link: BoundLink) -> Tensor:
        """The count by which the link's state is refreshed."""
        return self.total if link.transform.refreshes_by == "optimizer_step" else self.context(link).step

    def state_of(self, link: BoundLink) -> Any:
        return link.transform.State(*[self.state[key] for key in link.state_keys])

    def active(self, link: BoundLink) -> bool | Tensor:
        """Whether the link's window is open: a bool, known on the host; a tensor while a graph is traced."""
        return self.plan[link.label][0] if self.plan is not None else within(link.transform.window, self.context(link).step)

    def due(self, link: BoundLink) -> bool | Tensor:
        """Whether the link's state is to be refreshed, likewise."""
        schedule = link.transform.refresh_schedule
        if schedule is None:
            return False
        return self.plan[link.label][1] if self.plan is not None else due(schedule, self.count(link))

    def meets(self, link: BoundLink) -> bool | Tensor:
        """Whether the tensor is to be measured: it is in the window, and due where the link meets at refreshes only."""
        if not isinstance(link.transform, SharedTransform):
            return False  # a shared link that is absent for this parameter
        active, always = self.active(link), link.transform.every_step or link.transform.refresh_schedule is None
        return active if active is False or always else self.due(link)

    def measure(self, link: BoundLink) -> Tensor:
        """What a shared link wants to know of this tensor."""
        return cast("SharedTransform[Any]", link.transform).measure(self.carry, self.state_of(link), self.context(link))

    def run(self, link: BoundLink, shared: Any = None) -> None:
        transform, ctx, carry, state = link.transform, self.context(link, shared), self.carry, self.state_of(link)

        def outcome() -> tuple[Carry, Any]:
            renewed = choose(self.due(link), lambda: transform.refresh(carry, state, ctx), state)
            return transform.update(carry, renewed, ctx)

        self.carry, new = choose(self.active(link), outcome, (carry, state))
        self.fresh.update(zip(link.state_keys, new, strict=True))

    def outcome(self) -> Tensor:
        """What is to be subtracted from the parameter."""
        update = self.carry.update
        return torch.where(self.carry.gate != 0, update, torch.zeros_like(update)) if "gate" in self.used else update

    def result(self) -> Tensor:
        """The parameter after the step."""
        return self.carry.param - self.outcome()


def plan_of(
    links: Sequence[BoundLink], count: Callable[[], float], since: Mapping[str, float], total: Tensor = UNSET
) -> dict[str, tuple[bool, bool]]:
    """By link: at work in the step of this number, refreshed in it. The number is asked for where it matters."""
    plan = {link.label: (True, False) for link in links}
    for link in links:
        schedule, window = link.transform.refresh_schedule, link.transform.window
        if schedule is not None or window != (1, None):
            step = count() - since.get(f"{link.label}/since", 0.0)
            active = bool(within(window, step))
            step = float(total) if link.transform.refreshes_by == "optimizer_step" else step
            plan[link.label] = (active, active and schedule is not None and bool(due(schedule, step)))
    return plan


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for float64 parameters."""
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


def start(param: Tensor, grad: Tensor, used: frozenset[str]) -> Carry:
    """What enters the chain."""
    one = torch.ones((), dtype=torch.float64, device=param.device)
    ones: dict[str, Any] = {slot: one if slot in used else UNSET for slot in ONES}
    return Carry(grad=grad, param=param, update=grad, processed=grad, **ones)


def batched(tensor: Tensor) -> bool:
    """Whether ``torch.func.vmap`` has a value of it for each member."""
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009 (a module without stubs)
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def _known(condition: bool | Tensor) -> bool | Tensor:
    """A condition on step counts, which live on the host: a bool; a tensor while a graph is traced or under vmap."""
    if isinstance(condition, bool):
        return condition
    return condition if torch.compiler.is_compiling() or batched(condition) else bool(condition)


def within(window: tuple[int, int | None], step: float | Tensor) -> bool | Tensor:
    """Whether a link's window is open at this step."""
    first, stop = window
    if window == (1, None):
        return True
    return _known(step >= first if stop is None else (step >= first) & (step < stop))


def due(schedule: tuple[int, int], step: float | Tensor) -> bool | Tensor:
    """Whether a refresh falls on this step."""
    first, interval = schedule
    return _known((step >= first) & ((step - first) % interval == 0))


def choose(condition: bool | Tensor, then: Callable[[], Any], otherwise: Any) -> Any:
    """What ``then`` gives, or ``otherwise``; in a traced graph both are worked out and the condition selects."""
    if isinstance(condition, bool):
        return then() if condition else otherwise

    def select(new: Any, old: Any) -> Any:
        return new if new is old or old is UNSET else torch.where(condition.to(new.device), new, old)

    return tree_map(select, then(), otherwise)
