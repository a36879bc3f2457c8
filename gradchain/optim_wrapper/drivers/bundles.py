"""Large parameters of one shape in one call of their graph, for a GPU: there the calls take time on the host.

Unlike a stack, a bundle copies nothing: the graph holds the chain once for each parameter, and works on each where it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Batch, Home
from gradchain.optim_wrapper.drivers.program import Answer, Program
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.shards import local

BUNDLE = 8  # parameters at most, so that the time to compile does not grow with their number


@dataclass
class BundleProgram(Program):
    """The chain on each of some parameters."""

    members: int = 1

    @override
    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """tensors: of each parameter, itself, its gradient and states; then as of any program."""
        rows = [row for answer in self.answers.values() for row in answer.rows]
        count, stop = 2 + len(self.state_keys), len(tensors) - len(rows)
        numbers, leaves = tensors[self.members * count : stop], tensors[stop:]
        made: list[Tensor] = []
        for i in range(self.members):
            own = [leaf[i] if row else leaf for leaf, row in zip(leaves, rows, strict=True)]
            made += super().__call__(*tensors[i * count : (i + 1) * count], *numbers, *own)
        return tuple(made)


class BundledHome(Home):
    """Where the parameters of a bundle live."""

    gathers = False

    @override
    def __post_init__(self) -> None:
        params = [local(info.param.detach()) for info in self.infos]
        self.strides = [param.stride() for param in params]
        rows = zip(params, self.states, strict=True)
        self.own = [x for param, state in rows for x in (param, param, *(local(state[key]) for key in self.state))]
        super().__post_init__()

    @override
    def tensors(self, grads: Sequence[Tensor] | None) -> list[Tensor]:
        tensors = list(self.own)
        if grads is None:
            return tensors
        if list(map(Tensor.stride, grads)) != self.strides:
            grads = [self.aligned(grad, param) for grad, param in zip(grads, self.raw, strict=True)]
        tensors[1 :: 2 + len(self.state)] = grads
        return tensors

    @override
    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> Bundled:
        return Bundled(self, self.pick(grads), lr, step)


class Bundled(Batch):
    """A bundle in one step."""

    @override
    def key(self, until: int | None, answers: dict[int, Answer], tensors: Sequence[Tensor]) -> Hashable:
        count = 2 + len(self.home.state)
        return (super().key(until, answers, tensors), len(self.home.raw), tuple(x.dtype for x in tensors[1::count]))

    @override
    def program(self, kind: Any, until: int | None, answers: dict[int, Answer], **more: Any) -> Any:
        return super().program(BundleProgram, until, answers, members=len(self.home.raw), **more)
