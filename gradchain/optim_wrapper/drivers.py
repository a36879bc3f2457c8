"""Ways of executing a chain over the parameters of a step. ``loop`` is the reference that every other must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import UNSET, Carry, Context, ParamInfo, SharedTransform


def elements(tensor: Tensor) -> Tensor:
    """A parameter or gradient as links see its elements: complex numbers as real pairs, 0-d as one element."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dim() else tensor.reshape(1)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for float64 parameters."""
    return torch.float64 if tensor.dtype in (torch.float64, torch.complex128) else torch.float32


def working(param: Tensor) -> Tensor:
    """The parameter's elements in the dtype in which links compute."""
    return elements(param.detach()).to(compute_dtype(param))


@dataclass
class Job:
    """One parameter in one step."""

    info: ParamInfo
    links: Sequence[BoundLink]
    lr: Tensor
    state: dict[str, Tensor]  # live, flat
    gated: bool
    step: Tensor = field(init=False)
    carry: Carry = field(init=False)
    fresh: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        param = self.info.param
        assert param.grad is not None
        grad = elements(param.grad.detach()).to(compute_dtype(param))
        gate = torch.ones((), dtype=torch.float64, device=param.device) if self.gated else UNSET
        self.carry = Carry(grad=grad, param=working(param), update=grad, gate=gate)
        self.step = self.state["step"] + 1
        self.fresh = {}

    def context(self, link: BoundLink, shared: Any = None) -> Context:
        since = self.state.get(f"{link.label}/since")  # a link that joined a saved run counts its own steps
        step = self.step if since is None else self.step - since
        return Context(step=step.to(torch.float64), lr=self.lr, shared=shared, layout=WHOLE)

    def state_of(self, link: BoundLink) -> Any:
        return link.transform.State(*[self.state[key] for key in link.state_keys])

    def run(self, link: BoundLink, shared: Any = None) -> None:
        try:
            self.carry, new = link.transform.update(self.carry, self.state_of(link), self.context(link, shared))
        except Exception as error:
            shape, dtype = tuple(self.info.param.shape), self.info.param.dtype
            error.add_note(f"in link {link.label!r}, parameter {self.info.name!r} of shape {shape}, {dtype}")
            raise
        self.fresh.update(zip(link.state_keys, new, strict=True))

    def write(self) -> None:
        """Subtract the update and store the state; nothing was written before."""
        update = self.carry.update
        if self.gated:
            update = torch.where(self.carry.gate != 0, update, torch.zeros_like(update))
        target = elements(self.info.param.detach())
        target.copy_(self.carry.param - update)
        for name, value in self.fresh.items():
            if value is not self.state[name]:
                self.state[name].copy_(value)
        self.state["step"].copy_(self.step)


def loop(jobs: Sequence[Job]) -> None:
    """One parameter after the other, link by link; all of them meet where a link is shared."""
    if not jobs:
        return
    links = jobs[0].links
    meetings = [i for i, link in enumerate(links) if isinstance(link.transform, SharedTransform)]
    for start, stop in zip([0, *meetings], [*meetings, len(links)], strict=True):
        shared = _share(jobs, start) if start in meetings else [None] * len(jobs)
        for job, value in zip(jobs, shared, strict=True):
            for i in range(start, stop):
                job.run(job.links[i], value if i == start else None)
            if stop == len(links):
                job.write()


def _share(jobs: Sequence[Job], position: int) -> Sequence[Any]:
    measured: list[Tensor] = []
    for job in jobs:
        link = job.links[position]
        measured.append(cast("SharedTransform[Any]", link.transform).measure(job.carry, job.state_of(link), job.context(link)))
    first = cast("SharedTransform[Any]", jobs[0].links[position].transform)
    return first.share(measured, [job.info for job in jobs])


DRIVERS: dict[str, Callable[[Sequence[Job]], None]] = {"auto": loop, "loop": loop}
