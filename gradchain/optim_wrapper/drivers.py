"""Ways of executing a chain over the parameters of a step. ``loop`` is the reference that every other must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gradchain.optim_wrapper.collectives import answer
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE, Asker, Sharded, Unanswered
from gradchain.optim_wrapper.shards import aligned, cut_like, elements, layout_of, local, view_of
from gradchain.types import UNSET, Carry, Context, ParamInfo, SharedTransform

T = TypeVar("T")


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for float64 parameters."""
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


def working(param: Tensor) -> Tensor:
    """The parameter's elements on this rank, in the dtype in which links compute."""
    return elements(local(param.detach())).to(compute_dtype(param))


@dataclass
class Job:
    """One parameter in one step."""

    info: ParamInfo
    links: Sequence[BoundLink]
    lr: Tensor
    state: dict[str, Tensor]  # live, flat
    used: frozenset[str]  # slots that some link of the chain reads or writes
    label: str = ""  # of the chain, where different parameters have different ones
    step: Tensor = field(init=False)
    carry: Carry = field(init=False)
    fresh: dict[str, Tensor] = field(init=False)
    view: Callable[[Tensor], Tensor] = field(init=False)  # what links see of a DTensor
    at: int = field(init=False)  # the link whose turn it is
    sharded: Sharded | None = field(init=False)

    def __post_init__(self) -> None:
        param = self.info.param
        assert param.grad is not None
        self.view = view_of(param)
        dtype = compute_dtype(param)
        value, grad = (elements(self.view(x)).to(dtype) for x in (param.detach(), aligned(param.grad.detach(), param)))
        one = torch.ones((), dtype=torch.float64, device=param.device)
        ones: dict[str, Any] = {slot: one if slot in self.used else UNSET for slot in ("gate", "scale", "bump_scale")}
        self.carry = Carry(grad=grad, param=value, update=grad, processed=grad, **ones)
        self.step = self.state["step"] + 1
        self.fresh = {}
        self.at = 0
        self.sharded = layout_of(param, value) if self.view is local else None

    def context(self, link: BoundLink, shared: Any = None) -> Context:
        since = self.state.get(f"{link.label}/since")  # a link that joined a saved run counts its own steps
        step = self.step if since is None else self.step - since
        return Context(step=step.to(torch.float64), lr=self.lr, shared=shared, layout=self.sharded or WHOLE)

    def state_of(self, link: BoundLink) -> Any:
        return link.transform.State(*[self.view(self.state[key]) for key in link.state_keys])

    def active(self, link: BoundLink) -> bool | Tensor:
        """Whether the link's window is open: a bool, known on the host; a tensor while a graph is traced."""
        start, stop = link.transform.window
        step = self.context(link).step
        if (start, stop) == (1, None):
            return True
        return _known(step >= start if stop is None else (step >= start) & (step < stop))

    def meets(self, link: BoundLink) -> bool | Tensor:
        """Whether the parameter is to be measured: it is in the window, and due where the link refreshes by a schedule."""
        if not isinstance(link.transform, SharedTransform):
            return False  # a shared link that is absent for this parameter
        schedule = link.transform.refresh_schedule
        active = self.active(link)
        return active if active is False or schedule is None else due(schedule, self.context(link).step)

    def run(self, link: BoundLink, shared: Any = None) -> None:
        transform, ctx, carry, state = link.transform, self.context(link, shared), self.carry, self.state_of(link)

        def outcome() -> tuple[Carry, Any]:
            schedule, renewed = transform.refresh_schedule, state
            if schedule is not None:
                renewed = choose(due(schedule, ctx.step), lambda: transform.refresh(carry, state, ctx), state)
            return transform.update(carry, renewed, ctx)

        self.carry, new = self.asking(link, lambda: choose(self.active(link), outcome, (carry, state)))
        self.fresh.update(zip(link.state_keys, new, strict=True))

    def asking(self, link: BoundLink, act: Callable[[], T]) -> T:
        """What ``act`` gives; Unanswered where it asks other ranks for the first time, to be called again once answered."""
        if self.sharded is not None:
            self.sharded.asked = 0
        try:
            result = act()
        except Unanswered:
            raise
        except Exception as error:
            shape, dtype = tuple(self.info.param.shape), self.info.param.dtype
            error.add_note(f"in link {link.label!r}, parameter {self.info.name!r} of shape {shape}, {dtype}")
            raise
        if self.sharded is not None:
            self.sharded.answers.clear()
        return result

    def advance(self, start: int, stop: int, shared: Any) -> None:
        """Run the links from ``start`` to the one before ``stop``; the first is told what it shares with other parameters."""
        while self.at < stop:
            self.run(self.links[self.at], shared if self.at == start else None)
            self.at += 1
        if stop == len(self.links):
            self.write()

    def part(self, value: Tensor, like: Tensor) -> Tensor:
        """This rank's part of what links have made."""
        return value if self.view is local else cut_like(value, like)

    def write(self) -> None:
        """Subtract the update and store the state; nothing was written before."""
        update = self.carry.update
        if "gate" in self.used:
            update = torch.where(self.carry.gate != 0, update, torch.zeros_like(update))
        for name, value in self.fresh.items():  # before the parameter, which a state may still look at
            if value is not self.state[name]:
                local(self.state[name]).copy_(self.part(value, self.state[name]))
        param = self.info.param.detach()
        elements(local(param)).copy_(self.part(self.carry.param - update, param))
        self.state["step"].copy_(self.step)
        del self.carry, self.fresh  # as large as the parameter and its state


def loop(jobs: Sequence[Job]) -> None:
    """One parameter after the other, link by link; all that run the same chain meet where a link is shared."""
    for label in dict.fromkeys(job.label for job in jobs):
        _loop([job for job in jobs if job.label == label])


def _loop(jobs: Sequence[Job]) -> None:
    links = jobs[0].links
    meetings = {i for job in jobs for i, link in enumerate(job.links) if isinstance(link.transform, SharedTransform)}
    starts = sorted({0, *meetings})
    for start, stop in zip(starts, [*starts[1:], len(links)], strict=True):
        shared = _share(jobs, start) if start in meetings else {}
        together(jobs, lambda job: job.advance(start, stop, shared.get(id(job))))  # noqa: B023 (called at once)


def together(jobs: Sequence[Job], act: Callable[[Job], None]) -> None:
    """Let every job act. Those that have to ask other ranks are answered all at once, and act again."""
    while jobs:
        askers: list[tuple[Job, Asker]] = []
        for job in jobs:
            try:
                act(job)
            except Unanswered as open_:
                assert job.sharded is not None
                askers.append((job, Asker(job.sharded, open_.question)))
        if askers:
            answer([asker for _, asker in askers])
        jobs = [job for job, _ in askers]


def _known(condition: Tensor) -> bool | Tensor:
    """A condition on step counts, which live on the host: a bool, but a tensor while a graph is traced."""
    return condition if torch.compiler.is_compiling() else bool(condition)


def due(schedule: tuple[int, int], step: Tensor) -> bool | Tensor:
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


def _share(jobs: Sequence[Job], position: int) -> dict[int, Any]:
    """What a shared link tells each of the jobs that meet in it, by the job's id."""
    jobs = [job for job in jobs if job.meets(job.links[position]) is not False]
    if not jobs:
        return {}
    measured: dict[int, Tensor] = {}

    def measure(job: Job) -> None:
        link = job.links[position]
        transform, state, ctx = cast("SharedTransform[Any]", link.transform), job.state_of(link), job.context(link)
        measured[id(job)] = job.asking(link, lambda: transform.measure(job.carry, state, ctx))

    together(jobs, measure)
    first = cast("SharedTransform[Any]", jobs[0].links[position].transform)
    shared = first.share([measured[id(job)] for job in jobs], [job.info for job in jobs])
    return {id(job): value for job, value in zip(jobs, shared, strict=True)}


DRIVERS: dict[str, Callable[[Sequence[Job]], None]] = {"auto": loop, "loop": loop}
