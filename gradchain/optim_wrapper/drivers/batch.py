"""Parameters that run as one: a stack of small ones of one shape, or a large one alone."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.flow import plan_of
from gradchain.optim_wrapper.drivers.graphs import TRACING, Graph
from gradchain.optim_wrapper.drivers.known import graph_for
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.drivers.memory import HELD
from gradchain.optim_wrapper.drivers.program import Answer, Program, Split, joined, kind_of, placed
from gradchain.optim_wrapper.drivers.sharded import cut, layout_in_plan
from gradchain.optim_wrapper.drivers.step import Members, Step
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE, WRAPPED
from gradchain.optim_wrapper.shards import elements
from gradchain.types import UNSET, ParamInfo, SharedTransform

P = TypeVar("P", bound=Program)
T = TypeVar("T")
Links = tuple[BoundLink, ...]


@dataclass
class Home(Members):
    """Where the parameters of a batch live."""

    gathers: ClassVar[bool] = True  # several parameters stand in one stack
    state: dict[str, Tensor]  # the tensors of their states; of a stack, one for all parameters
    since: dict[str, float]  # steps at which links have joined a saved run
    scratch: Sequence[Tensor]  # of a stack: flat, for the parameters and their gradients
    buffer: Tensor | None = None  # of a stack whose parameters are its rows, see flat

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.stacked = self.gathers and len(self.raw) > 1
        one = operator.itemgetter(*self.places)
        self.pick: Callable[[Sequence[Any]], tuple[Any, ...]] = one if len(self.raw) > 1 else lambda all_: (one(all_),)
        self.split = Split(())
        self.eager: Links = ()  # for what is not traced
        self.buffers: tuple[Tensor, list[Tensor], Tensor] | None = None
        if self.stacked:
            shape = (len(self.raw), *self.raw[0].shape)
            param, grad = (flat[: math.prod(shape)].view(shape) for flat in self.scratch)
            param = param if self.buffer is None else self.buffer.view(shape)
            self.buffers = (param, list(param.unbind()), grad)
        params, *_ = self.tensors(None)
        tensors = [params, *self.state.values()]
        forms = tuple((x.shape, x.stride(), x.dtype, x.device) for x in tensors)
        self.layout = layout_in_plan(self.infos[0].param)
        sharding = cut(self.infos[0].param)
        self.form = kind_of((self.used, self.stacked, tuple(self.state), tuple(self.since), forms, self.raw[0].dtype, sharding))

    def bind(self, split: Split) -> None:
        """Take the links as they are now."""
        if split is not self.split:
            self.split = split
            self.eager = placed(split.links, self.raw[0].device) if split.shared else split.links

    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> Batch:
        return Batch(self, self.pick(grads), lr, step)

    def is_direct(self) -> bool:
        """Whether each step runs the same functions, so that ``repeat`` takes it."""
        return False

    def repeats(self) -> bool:
        """Whether the next step may be like the last one."""
        return True

    def keep(self, lr: float) -> None:
        """Take the numbers of the coming steps."""

    def repeat(self, grads: Sequence[Tensor | None], step: Step) -> None:
        """Take a step like the last one, with gradients by place."""
        raise NotImplementedError

    def plan(self, total: Tensor = UNSET) -> Mapping[str, tuple[bool, bool]]:
        """By link: at work in this step, refreshed in it."""
        if not self.split.timed:
            return self.split.always
        return plan_of(self.split.links, lambda: self.count + 1, self.since, total)

    def tensors(self, grads: Sequence[Tensor] | None) -> list[Tensor]:
        """Parameter, gradient and states as a program takes them."""
        state = list(self.state.values())
        if self.buffers is None:
            param = self.raw[0]
            grad = param if grads is None else self.aligned(grads[0], param)
            return [elements(param), elements(grad), *state]
        param, _, grad = self.buffers
        if grads is not None:
            if self.buffer is None:
                torch.stack(self.raw, out=param)
            torch.stack(list(grads), out=grad)
        shape = (len(self.raw), *(self.raw[0].shape or (1,)))
        return [param.view(shape), grad.view(shape), *state]

    def aligned(self, grad: Tensor, param: Tensor) -> Tensor:
        """The gradient, with the parameter's strides."""
        return grad if grad.stride() == param.stride() else torch.empty_like(param, dtype=grad.dtype).copy_(grad)


def leaves(answers: Mapping[int, Answer]) -> list[Tensor]:
    """The tensors in what shared links have said."""
    return [leaf for answer in answers.values() for leaf in answer.leaves]


class Untraceable(Exception):
    """The batch cannot run as one; its parameters can, one by one."""


class Batch:
    """A home in one step."""

    complaint = ""  # a warning that is due where the parameters run one by one

    def __init__(self, home: Home, grads: Sequence[Tensor], lr: Tensor, step: Step) -> None:
        self.home, self.links, self.label, self.step, self.lr = home, home.eager, home.label, step, lr
        self.plan = home.plan(step.total)
        self.grads = grads
        sinces = [step.count(value) for value in home.since.values()]
        totals = [] if step.total is UNSET else [step.total]
        self.numbers = [step.coming(home), lr, *totals, *sinces, *home.split.numbers]
        self.told: dict[int, dict[int, Any]] = {}  # what shared links have said, by position and place
        self.jobs: list[Job] | None = None  # where the parameters run one by one after all

    def measure(self, position: int) -> Sequence[tuple[ParamInfo, Tensor]]:
        """The measurement of each parameter for the shared link there; none where it does not meet in this step."""
        link = self.links[position]
        if not self.measures(position):
            return ()
        try:
            return list(zip(self.home.infos, self.measured(position), strict=True))
        except Untraceable:
            return [(job.info, job.measure(link)) for job in self.one_by_one(position)]

    def measured(self, position: int) -> Sequence[Tensor]:
        """The measurement of each parameter for the shared link there; Untraceable where it cannot be made so."""
        made = self.run(position)
        return made[0].clone().unbind() if self.home.stacked else made  # it may lie in memory that all stacks share

    def measures(self, position: int) -> bool:
        """Whether the link there is shared and meets in this step."""
        link = self.links[position]
        active, refreshed = self.plan[link.label]
        if position not in self.home.split.shared or not active:
            return False
        transform = cast("SharedTransform[Any]", link.transform)
        return refreshed or transform.every_step or transform.refresh_schedule is None

    def meet(self, position: int, answers: dict[int, Any]) -> None:
        """Hear what the shared link there says."""
        mine = {place: answers[place] for place in self.home.places if place in answers}
        if mine:
            self.told[position] = mine

    def prepare(self) -> None:
        """Trace the chain; or run the parameters one by one, where it cannot be and that takes little memory."""
        if not self.step.first or self.jobs is not None:
            return
        try:
            self.make()
        except Untraceable:
            if sum(param.numel() for param in self.home.raw) <= HELD:
                self.one_by_one(len(self.links), write=False)
            self.complain()

    def make(self) -> None:
        """Make the graph of the whole step; Untraceable where there is none."""
        answers = self.answers(None)
        tensors = self.home.tensors(self.grads)
        self.located(None, answers, tensors)

    def write(self) -> None:
        """Run the chain, and write."""
        home = self.home
        try:
            self.run(None)
        except Untraceable:
            self.complain()
            self.one_by_one(len(self.links))
        else:
            if home.buffers is None or home.buffer is not None:
                torch.autograd.graph.increment_version(home.raw)  # written past them
            else:
                torch._foreach_copy_(home.raw, home.buffers[1])  # pyright: ignore[reportPrivateImportUsage]
            home.steps.add_(1)
        home.count += 1
        home.expected.copy_(home.steps)

    def run(self, until: int | None) -> Sequence[Tensor]:
        """Run the chain, or its part that measures for the shared link at ``until``; Untraceable where it cannot be."""
        if self.jobs is not None:
            raise Untraceable
        answers = self.answers(until)
        graph, given = self.located(until, answers, self.home.tensors(self.grads))
        return graph.run(*[given[i] for i in graph.places], *self.step.on_host(graph, given))

    def located(self, until: int | None, answers: dict[int, Answer], tensors: list[Tensor]) -> tuple[Graph, list[Tensor]]:
        """The graph, and all that its program takes; Untraceable where there is none."""
        given = [*tensors, *self.numbers, *leaves(answers)]
        key = self.key(until, answers, tensors)
        return self.graph(key, lambda: self.program(Program, until, answers), given, self.step.compile), given

    def key(self, until: int | None, answers: dict[int, Answer], tensors: Sequence[Tensor]) -> Hashable:
        """What a program is made for."""
        forms = tuple((position, answer.key) for position, answer in answers.items())
        return (self.home.form, self.home.split.fixed, tuple(self.plan.values()), until, tensors[1].dtype, forms)

    def program(self, kind: Callable[..., P], until: int | None, answers: dict[int, Answer], **more: Any) -> P:
        home = self.home
        keys, since = tuple(home.state), tuple(home.since)
        wraps = home.layout is WHOLE and self.step.compile and home.raw[0].is_cuda
        more = {"layout": WRAPPED if wraps else home.layout, "total": self.step.total is not UNSET, **more}
        return kind(
            home.split.links, home.used, keys, since, home.raw[0].dtype, self.plan, home.stacked, answers, until, **more
        )

    def graph(self, key: Hashable, program: Callable[[], Program], given: list[Tensor], compile: bool) -> Graph:
        """The graph of a program, made where it is not known; Untraceable where it cannot be."""
        if key not in self.step.graphs:
            with TRACING:
                self.step.graphs[key] = self.traced(program(), given, compile)
        graph = self.step.graphs[key]
        if graph is None:
            raise Untraceable
        return graph

    def answers(self, until: int | None) -> dict[int, Answer]:
        """What the shared links before ``until`` have said; Untraceable where it has no common form."""
        told = {position: list(said.values()) for position, said in self.told.items() if until is None or position < until}
        try:
            return {position: joined(said) for position, said in told.items()}
        except ValueError as error:
            raise Untraceable from error

    def attempted(self, trace: Callable[[], T]) -> T | None:
        """The result of tracing; None, with a complaint to be made, where the chain cannot be traced."""
        try:
            return trace()
        except Exception as error:  # whatever tracing may raise
            shapes = dict.fromkeys(tuple(param.shape) for param in self.home.raw)
            self.complaint = (
                f"parameters of shape {', '.join(map(str, shapes))} run one by one: their chain cannot be traced "
                f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            )
            return None

    def complain(self) -> None:
        """Tell that the chain could not be traced, once it is known that it runs: a link that raises tells that itself."""
        complaint, self.complaint = self.complaint, ""
        if complaint:
            warnings.warn(complaint, RuntimeWarning, stacklevel=2)

    def traced(self, program: Program, given: list[Tensor], compile: bool) -> Graph | None:
        """A graph of the program; None where the chain cannot be traced."""
        fixed, families = self.home.split.fixed, self.step.families
        graph = self.attempted(lambda: graph_for(program, given, self.numbers, compile, fixed, families))
        if graph is not None and graph.failure is not None:
            if not self.step.failures:
                text = f"{type(graph.failure).__name__}: {str(graph.failure).partition(chr(10))[0]}"
                warnings.warn(f"a graph did not compile, and runs uncompiled ({text})", RuntimeWarning, stacklevel=2)
            self.step.failures.append(graph.failure)
        return graph

    def one_by_one(self, stop: int, write: bool = True) -> list[Job]:
        """The parameters as jobs, run up to the link at ``stop``, and written at the end of the chain."""
        home = self.home
        if self.jobs is None:
            rows = sorted(zip(home.infos, home.states, strict=True), key=lambda row: row[0].place)
            links = placed(home.split.links, home.raw[0].device)
            total = self.step.total
            self.jobs = [Job(info, links, self.lr, state, home.used, self.label, total) for info, state in rows]
        for job in self.jobs:
            for position in (*(i for i in home.split.shared if job.at < i < stop), stop):
                job.advance(position, self.told.get(job.at, {}), write)
        return self.jobs
