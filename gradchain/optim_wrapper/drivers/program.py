"""A chain as a function of tensors alone, which can be stacked, traced and compiled.

Hyperparameters, learning rate and step counts enter as 0-d tensors, so that a graph serves every step; what is known on the
host (which links are at work, which refresh) decides which graph it is.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from gradchain._fields import hashable
from gradchain.optim_wrapper.drivers.flow import Flow, compute_dtype, start
from gradchain.optim_wrapper.drivers.memory import unaliased
from gradchain.optim_wrapper.hyperparameters import BoundLink
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.optim_wrapper.numbers import on_device
from gradchain.types import UNSET, Layout, SharedTransform, Transform

V = TypeVar("V")
UNREAD = ("only",)  # fields that are asked when parameters are bound, not in a step


def split(value: Any) -> tuple[Hashable, list[Tensor]]:
    """What is fixed about links, and the 0-d tensors among their fields."""
    numbers: list[Tensor] = []

    def walk(part: Any) -> Hashable:
        if isinstance(part, Tensor):
            numbers.append(part)
            return Tensor
        if isinstance(part, Transform):
            own = (f.name for f in fields(part) if f.name not in UNREAD)
            return (type(part), *(walk(getattr(part, name)) for name in own))
        if isinstance(part, tuple | list):
            return (type(part), *map(walk, cast("Sequence[Any]", part)))
        return hashable(part)

    return walk(value), numbers


KINDS: dict[Hashable, int] = {}
NUMBERS = itertools.count()


def kind_of(form: Hashable) -> int:
    """A number for what is long to compare."""
    return KINDS.setdefault(form, next(NUMBERS))  # threads may come at the same time: no number is given twice


class Split:
    """Links as batches take them, with what is asked of them in every step."""

    def __init__(self, links: tuple[BoundLink, ...]) -> None:
        self.links = links
        fixed, self.numbers = split(links)
        self.fixed = kind_of(fixed)
        kinds = [link.transform for link in links]
        self.shared = [i for i, kind in enumerate(kinds) if isinstance(kind, SharedTransform)]  # positions
        self.timed = any(kind.window != (1, None) or kind.refresh_schedule is not None for kind in kinds)
        self.always = {link.label: (True, False) for link in links}  # the plan of what is not timed
        self.on_host = all(number.dim() == 0 and number.device.type == "cpu" for number in self.numbers)

    @cached_property
    def floats(self) -> list[float]:
        """The numbers as Python's."""
        return [float(number) for number in self.numbers]


def filled(value: V, numbers: Iterator[Tensor]) -> V:
    """The same links with other tensors in the places of theirs, in the order of ``split``."""
    if isinstance(value, Tensor):
        return cast(V, next(numbers))
    if isinstance(value, Transform):
        link = copy.copy(value)
        for f in fields(value):
            if f.name not in UNREAD:
                object.__setattr__(link, f.name, filled(getattr(value, f.name), numbers))
        return cast(V, link)
    if isinstance(value, tuple | list):
        parts = [filled(part, numbers) for part in cast("Sequence[Any]", value)]
        kind = cast(Any, type(cast(Any, value)))
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    return value


def placed(links: tuple[BoundLink, ...], device: torch.device) -> tuple[BoundLink, ...]:
    """The links with their numbers on a parameter's device."""
    return filled(links, iter(on_device(split(links)[1], device))) if device.type == "cuda" else links


class Answer(NamedTuple):
    """What a shared link says to all parameters of a batch: the tensors in it, and how they sit."""

    leaves: list[Tensor]
    spec: TreeSpec
    rows: tuple[bool, ...]  # whether a leaf has one row per parameter
    plain: tuple[Any, ...]  # leaves that are no tensors, by position; None where a tensor stands

    @property
    def key(self) -> Hashable:
        return (self.spec, self.rows, self.plain, tuple((x.shape, x.dtype, x.device) for x in self.leaves))

    def restored(self, leaves: Iterator[Tensor]) -> Any:
        return tree_unflatten([next(leaves) if other is Tensor else other for other in self.plain], self.spec)


def joined(answers: Sequence[Any]) -> Answer:
    """One answer for all parameters of a batch; ValueError where they have no common form."""
    flat = [tree_flatten(answer) for answer in answers]
    spec = flat[0][1]
    if any(other != spec for _, other in flat):
        raise ValueError("the answers have different forms")
    leaves: list[Tensor] = []
    rows: list[bool] = []
    plain: list[Any] = []
    for column in zip(*(leaves for leaves, _ in flat), strict=True):
        if not isinstance(column[0], Tensor):
            if any(one != column[0] for one in column):
                raise ValueError("the answers differ in what is no tensor")
            plain.append(column[0])
            continue
        same = all(one is column[0] for one in column)
        leaves.append(column[0] if same else torch.stack(column))
        rows.append(not same)
        plain.append(Tensor)
    return Answer(leaves, spec, tuple(rows), tuple(plain))


@dataclass
class Program:
    """The chain, or its part before a shared link, on one parameter or on a stack of them."""

    links: tuple[BoundLink, ...]  # as they were when the program was made; the tensors in their fields are replaced
    used: frozenset[str]
    state_keys: tuple[str, ...]
    since: tuple[str, ...]  # keys of the steps at which links have joined a saved run
    dtype: torch.dtype  # in which the parameters are stored; a stack of them is a copy in another
    plan: Mapping[str, tuple[bool, bool]]  # by link: at work, refreshed
    stacked: bool
    answers: Mapping[int, Answer]  # of the shared links before ``until``, by position
    until: int | None = None  # measure for the shared link there, instead of making the step
    layout: Layout = WHOLE
    total: bool = False  # whether the optimizer's count of steps is the third of the numbers
    apart: ClassVar[tuple[int, ...]] = ()  # positions of tensors whose first size is none of the parameter's

    @property
    def form(self) -> Hashable:
        """The fixed part of a call: everything but the links and the tensors."""
        answers = tuple((position, one.spec, one.rows, one.plain) for position, one in self.answers.items())
        plan = tuple(self.plan.items())
        return (
            type(self),
            self.used,
            self.state_keys,
            self.since,
            self.dtype,
            plan,
            self.stacked,
            answers,
            self.until,
            self.total,
        )

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """tensors: parameter, gradient, states, numbers, answers. Writes parameter and states; or returns the measurement."""
        values, leaves = self.parted(tensors)
        param, grad, *state = values[0], values[1], *values[2]
        changed: list[int] = []
        act = self.of_one(changed)
        if self.stacked:
            dims = [0 if row else None for answer in self.answers.values() for row in answer.rows]
            act = torch.func.vmap(act, in_dims=(0, 0, [0] * len(state), [None] * len(values[3]), dims))
        made = act(param, grad, state, values[3], leaves)
        if self.until is not None:
            return made
        new = unaliased(made[1:], [state[i] for i in changed])
        for i, value in zip(changed, new, strict=True):  # before the parameter, which a state may still look at
            state[i].copy_(value)
        param.copy_(made[0])
        return ()

    def parted(self, tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, Tensor, list[Tensor], list[Tensor]], list[Tensor]]:
        count = 2 + len(self.state_keys)
        leaves = sum(len(answer.leaves) for answer in self.answers.values())
        stop = len(tensors) - leaves
        return (tensors[0], tensors[1], list(tensors[2:count]), list(tensors[count:stop])), list(tensors[stop:])

    def of_one(self, changed: list[int]) -> Any:
        """The function of one parameter: its new value and the states at the positions noted in ``changed``."""

        def act(
            param: Tensor, grad: Tensor, state: list[Tensor], numbers: list[Tensor], leaves: list[Tensor]
        ) -> tuple[Tensor, ...]:
            number, leaf = iter(numbers), iter(leaves)
            step, lr = next(number), next(number)
            total = next(number) if self.total else UNSET
            states = dict(zip(self.state_keys, state, strict=True))
            joined_at = {key: next(number) for key in self.since}
            links = filled(self.links, number)
            answers = {position: answer.restored(leaf) for position, answer in self.answers.items()}
            dtype = compute_dtype(param)
            carry = start(param.to(dtype), grad.to(dtype), self.used)
            plan, layout = self.plan, self.layout
            flow = Flow(links, lr, states | joined_at, self.used, step, carry, self.dtype, plan, layout, total=total)
            for position, link in enumerate(links[: self.until]):
                flow.run(link, answers.get(position))
            if self.until is not None:
                return (flow.measure(links[self.until]),)
            fresh = [flow.fresh.get(key, states[key]) for key in self.state_keys]
            changed[:] = [i for i, value in enumerate(fresh) if value is not state[i]]
            return (flow.result(), *(fresh[i] for i in changed))

        return act
