"""One parameter after the other, eagerly: the reference that every other driver must equal."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.collectives import answer
from gradchain.optim_wrapper.drivers.flow import Flow, choose, compute_dtype, plan_of, start
from gradchain.optim_wrapper.drivers.memory import unaliased
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE, Asker, Sharded, Unanswered
from gradchain.optim_wrapper.rows import refreshed_without_gradient
from gradchain.optim_wrapper.shards import aligned, cut_like, elements, layout_of, local, view_of
from gradchain.types import UNSET, ParamInfo, SharedTransform

T = TypeVar("T")
Write = Callable[[], None]


def working(param: Tensor) -> Tensor:
    """The parameter's elements on this rank, in the dtype in which links compute."""
    return elements(local(param.detach())).to(compute_dtype(param))


class Job(Flow):
    """One parameter in one step."""

    def __init__(
        self,
        info: ParamInfo,
        links: Sequence[BoundLink],
        lr: Tensor,
        state: dict[str, Tensor],
        used: frozenset[str],
        label: str = "",
        total: Tensor = UNSET,
    ) -> None:
        self.info, self.links, self.lr, self.state, self.used, self.label = info, links, lr, state, used, label
        self.total = total
        self.at = 0  # the link whose turn it is
        self.begun = False
        self.waited = False  # whether it has begun before other parameters were written
        self.sharded: Sharded | None = None

    def begin(self) -> None:
        """Read parameter, gradient and step: as late as possible, since parameters may share memory."""
        info, links, lr, state, used = self.info, self.links, self.lr, self.state, self.used
        param, at, total = info.param, self.at, self.total
        delivered = torch.zeros_like(param) if param.grad is None else param.grad
        self.begun, self.view = True, view_of(param)  # what links see of a DTensor
        dtype = compute_dtype(param)
        value, grad = (elements(self.view(x)).to(dtype) for x in (param.detach(), aligned(delivered.detach(), param)))
        step, plan = state["step"] + 1, None
        if value.is_cuda:  # links find all numbers there; what is decided on the host is decided before
            if not torch.compiler.is_compiling():
                since = {key: float(one) for key, one in state.items() if key.endswith("/since")}
                plan = plan_of(links, step.item, since, total)
            step, lr = (number.to(value.device, non_blocking=True) for number in (step, lr))
            total = total if total is UNSET else total.to(value.device, non_blocking=True)
        super().__init__(links, lr, state, used, step, start(value, grad, used), param.dtype, plan, WHOLE, total=total)
        self.at = at
        self.sharded = layout_of(param, value) if self.view is local else None
        self.layout = self.sharded or WHOLE

    @override
    def state_of(self, link: BoundLink) -> Any:
        return link.transform.State(*[self.view(self.state[key]) for key in link.state_keys])

    @override
    def meets(self, link: BoundLink) -> bool | Tensor:
        self.waited = True
        if not self.begun:
            self.begin()
        return super().meets(link)

    @override
    def measure(self, link: BoundLink) -> Tensor:
        self.waited = True
        if not self.begun:
            self.begin()
        return self.asking(link, lambda: super(Job, self).measure(link))

    @override
    def run(self, link: BoundLink, shared: Any = None) -> None:
        self.asking(link, lambda: super(Job, self).run(link, shared))

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

    def advance(self, stop: int, answers: dict[int, Any], write: bool = True) -> None:
        """Run the links before ``stop``, and write at their end; the first is told what it shares, by this one's place."""
        if not self.begun:
            self.begin()
        shared = answers.get(self.info.place)
        while self.at < stop:
            self.run(self.links[self.at], shared)
            self.at, shared = self.at + 1, None
        if write and stop == len(self.links):
            self.write()

    def part(self, value: Tensor, like: Tensor) -> Tensor:
        """This rank's part of what links have made."""
        return value if self.view is local else cut_like(value, like)

    @override
    def result(self) -> Tensor:
        """The parameter after the step. Of one that shares memory, as it is now: another may have been written meanwhile."""
        if self.waited and self.view is local and self.carry.param.dtype != self.info.param.dtype:
            now = elements(local(self.info.param.detach())).to(self.carry.param.dtype)
            self.carry = self.carry._replace(param=now)
        return super().result()

    def write_states(self) -> None:
        """Store the new values of the states."""
        names = [name for name, value in self.fresh.items() if value is not self.state[name]]
        old = [local(self.state[name]) for name in names]
        new = [self.part(self.fresh[name], self.state[name]) for name in names]
        for state, value in zip(old, unaliased(new, old), strict=True):
            state.copy_(value)

    def write(self) -> None:
        """Subtract the update and store the state; nothing was written before."""
        self.write_states()  # before the parameter, which a state may still look at
        param = self.info.param.detach()
        elements(local(param)).copy_(self.part(self.result(), param))
        self.state["step"].add_(1)
        del self.carry  # it holds tensors as large as the parameter
        self.fresh.clear()


class Observer(Job):
    """A parameter without a gradient, in a step at which links that go by the optimizer's steps are refreshed."""

    @override
    def meets(self, link: BoundLink) -> bool | Tensor:
        return refreshed_without_gradient(link.transform) and super().meets(link) is not False and self.due(link)

    @override
    def run(self, link: BoundLink, shared: Any = None) -> None:
        if refreshed_without_gradient(link.transform):
            self.asking(link, lambda: self.renew(link, shared))

    def renew(self, link: BoundLink, shared: Any) -> None:
        """Refresh the link's state, where it is due."""
        state, ctx = self.state_of(link), self.context(link, shared)

        def renewed() -> Any:
            return choose(self.due(link), lambda: link.transform.refresh(self.carry, state, ctx), state)

        self.fresh.update(zip(link.state_keys, choose(self.active(link), renewed, state), strict=True))

    @override
    def write(self) -> None:
        self.write_states()
        self.fresh.clear()


class Batch(Protocol):
    """Parameters that a driver runs as one beside the jobs."""

    @property
    def label(self) -> str: ...
    @property
    def links(self) -> Sequence[BoundLink]: ...
    def measure(self, position: int) -> Sequence[tuple[ParamInfo, Tensor]]: ...  # for the shared link there; may be none
    def meet(self, position: int, answers: dict[int, Any]) -> None: ...  # what that link says, by place
    def prepare(self) -> None: ...  # whatever may fail on the way to ``write``
    def write(self) -> None: ...  # run the chain; parameters and state are untouched until here


def loop(jobs: Sequence[Job], batches: Sequence[Batch] = (), in_turn: Container[int] = (), hold: bool = True) -> None:
    """One parameter after the other, link by link; all that run the same chain meet where a link is shared.

    in_turn: places of parameters that share memory and see each other's steps. hold: write when all results are there, so that
    nothing has changed where a link raises.
    """
    writes: list[Write] = []
    for label in dict.fromkeys(one.label for one in (*jobs, *batches)):
        mine = [job for job in jobs if job.label == label]
        writes.append(through(mine, [batch for batch in batches if batch.label == label], None, in_turn, hold))
    for write in writes:
        write()


def through(
    jobs: Sequence[Job], batches: Sequence[Batch] = (), end: int | None = None, in_turn: Container[int] = (), hold: bool = True
) -> Write:
    """Run one chain up to its end, or the links before ``end``; what is given writes the results."""
    chains = [one.links[:end] for one in (*jobs, *batches)]
    meetings = {i for links in chains for i, link in enumerate(links) if isinstance(link.transform, SharedTransform)}
    starts = sorted({0, *meetings})
    for first, stop in zip(starts, [*starts[1:], len(chains[0])], strict=True):
        answers = _share(jobs, batches, first) if first in meetings else {}
        if stop < len(chains[0]) or end is not None:
            together(jobs, lambda job: job.advance(stop, answers, False))  # noqa: B023 (called at once)
        else:
            return _finish(jobs, batches, answers, in_turn, hold)
    return lambda: None


def _finish(
    jobs: Sequence[Job], batches: Sequence[Batch], answers: dict[int, Any], in_turn: Container[int], hold: bool
) -> Write:
    """Run the chain to its end, as far as that may fail; what is given does the rest and writes."""
    for batch in batches:
        batch.prepare()
    alone = [job for job in jobs if job.info.place in in_turn]
    others = [job for job in jobs if job.info.place not in in_turn]
    together(others, lambda job: job.advance(len(job.links), answers, not hold))

    def write() -> None:
        for job in others if hold else ():
            job.write()
        for job in alone:
            together([job], lambda job: job.advance(len(job.links), answers))
        for batch in batches:
            batch.write()

    return write


def together(jobs: Sequence[Job], act: Callable[[Job], None]) -> None:
    """Let every job act. Those that have to ask other ranks are answered and act again.

    What jobs ask in the same link is answered at once; a job that is further on waits for the others to get there.
    """
    ready = list(jobs)
    asking: list[tuple[Job, Asker]] = []
    while ready:
        for job in ready:
            try:
                act(job)
            except Unanswered as open_:
                assert job.sharded is not None
                asking.append((job, Asker(job.sharded, open_.question)))
        if not asking:
            return
        now = min(job.at for job, _ in asking)
        answer([asker for job, asker in asking if job.at == now])
        ready = [job for job, _ in asking if job.at == now]
        asking = [(job, asker) for job, asker in asking if job.at > now]


def _share(jobs: Sequence[Job], batches: Sequence[Batch], position: int) -> dict[int, Any]:
    """What a shared link tells each parameter that meets in it, by the parameter's place."""
    jobs = [job for job in jobs if job.meets(job.links[position]) is not False]
    measured: dict[int, tuple[ParamInfo, Tensor]] = {}

    def measure(job: Job) -> None:
        measured[job.info.place] = (job.info, job.measure(job.links[position]))

    together(jobs, measure)
    transforms = {job.info.place: job.links[position].transform for job in jobs}
    for batch in batches:
        for info, value in batch.measure(position):
            measured[info.place] = (info, value)
            transforms[info.place] = batch.links[position].transform
    places = sorted(measured)
    if not places:
        return {}
    first = cast("SharedTransform[Any]", transforms[places[0]])
    shared = first.share([measured[place][1] for place in places], [measured[place][0] for place in places])
    answers = dict(zip(places, shared, strict=True))
    for batch in batches:
        batch.meet(position, answers)
    return answers
