"""Small parameters that C++ functions step where they are: one call for all of them."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Untraceable
from gradchain.optim_wrapper.drivers.graphs import TRACING
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.execution.bucket import FlatBucket, FlatStep
from gradchain.optim_wrapper.execution.cpp_call import GRAD, STATE, Call
from gradchain.optim_wrapper.execution.cpp_functions import Stages, built
from gradchain.optim_wrapper.execution.functions import Bound, Request

logger = logging.getLogger("gradchain")


def _is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor's memory holds its numbers, one after the other: no view that negates them, no subclass."""
    kind = type(tensor) in (Tensor, nn.Parameter)
    return kind and tensor.dtype == dtype and tensor.is_contiguous() and not tensor.is_neg()


@dataclass
class NativeBucket(FlatBucket):
    """A bucket that C++ functions step: on parameters and gradients where they are, if these have the dtype of the states."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.in_place = all(_is_plain(param, self.dtype) for param in self.raw) and self.buffer is None
        self.calls: dict[Hashable, Call] = {}
        self.direct: Call | None = None  # of the last step, if it went through C++
        self.as_they_are = False  # whether gradients can be read where they are
        states = [state[key] for state in self.states for key in self.buffers]
        tensors = [tensor for tensor in (*self.raw, *states) if tensor.numel()]
        ranges = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in tensors)
        self.begins, self.ends = array("Q", [begin for begin, _ in ranges]), array("Q", [end for _, end in ranges])

    @override
    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> NativeStep:
        return NativeStep(self, [grads[place] for place in self.places], lr, step)  # pyright: ignore[reportArgumentType]

    @override
    def repeats(self) -> bool:
        self.as_they_are = self.fit([info.param.grad for info in self.infos])
        return self.direct is not None or super().repeats()

    @override
    def repeat(self, grads: Sequence[Tensor | None], step: Step) -> None:
        if self.direct is None:
            super().repeat(grads, step)
            return
        mine: list[Any] = [grads[place] for place in self.places]
        self.take(self.direct, mine, (self.count + 1, *self.rest), self.as_they_are)
        self.advance()

    def fit(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether gradients can be read where they are."""
        return all(grad is not None and _is_plain(grad, self.dtype) for grad in grads)

    def copied(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Gradients as the functions read them."""
        return [
            torch.empty(grad.shape, dtype=self.dtype, device=self.device).copy_(grad)
            if not _is_plain(grad, self.dtype)
            else grad
            for grad in grads
        ]

    def take(self, call: Call, grads: Sequence[Tensor], host: Sequence[float], as_they_are: bool) -> None:
        """Step all parameters."""
        if self.in_place:
            if not as_they_are:
                grads = self.copied(grads)
            call.put(GRAD, grads)
            if call.meets(self.begins, self.ends, self.dtype.itemsize):
                grads = [grad.clone() for grad in grads]
                call.put(GRAD, grads)
        else:
            self.gather(grads)
            call.put(GRAD, self.grads)
        call.put_params(self.raw if self.in_place else self.params)
        call.run(host)
        if self.in_place:
            torch.autograd.graph.increment_version(self.raw)  # written past them
        else:
            self.scatter()


@dataclass
class LargeBucket(NativeBucket):
    """Parameters of any size, whose states stay where they are; ``buffers`` has those of the first."""

    @override
    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> LargeStep:
        return LargeStep(self, [grads[place] for place in self.places], lr, step)  # pyright: ignore[reportArgumentType]


class NativeStep(FlatStep):
    """A native bucket in one step. Where C++ is not written for a chain, the bucket runs as a flat one."""

    home: NativeBucket  # pyright: ignore[reportIncompatibleVariableOverride]

    @override
    def measured(self, position: int) -> Sequence[Tensor]:
        found = self._call(position)
        if found is None:
            return super().measured(position)
        call, kept = found
        home = self.home
        if home.in_place:
            grads = home.copied(self.grads)
        else:
            home.gather(self.grads)
            grads = home.grads
        call.put(GRAD, grads)
        call.put_params(home.raw if home.in_place else home.params)
        call.run(self.host)
        kept.clear()
        return [result.clone() for result in call.results]

    @override
    def make(self) -> None:
        if self._call(None) is None:
            super().make()

    @override
    def write(self) -> None:
        home, found = self.home, self._call(None)
        home.direct = None
        if found is None:
            super().write()
            return
        call, kept = found
        home.take(call, self.grads, self.host, home.fit(self.grads))
        kept.clear()
        home.direct = call
        home.steps.add_(1)
        home.count += 1
        home.expected.copy_(home.steps)

    def _call(self, until: int | None) -> tuple[Call, list[list[Tensor]]] | None:
        """The call, and the results of shared links that it takes, which must live meanwhile; None where it cannot be."""
        if self.jobs is not None:
            return None
        try:
            request = self._request(until)
        except Untraceable:
            return None
        home, key, known = self.home, request.key, self.step.graphs
        native: Any = ("native", key)
        if native not in known:
            with TRACING:
                known[native] = self._built(request)  # pyright: ignore[reportArgumentType]
        stages: Any = known[native]
        if stages is None:
            return None
        columns = [leaf for one in request.heard.values() for leaf in one.columns]
        first = STATE + len(home.buffers)
        if key not in home.calls:
            home.calls[key] = Call(home, stages, first + len(columns), until is not None)
        kept = [[tensor.contiguous() for tensor in leaf] for leaf in columns]
        for k, tensors in enumerate(kept):
            home.calls[key].put(first + k, tensors * len(home.raw) if len(tensors) == 1 else tensors)
        return home.calls[key], kept

    def _built(self, request: Request) -> list[Stages] | None:
        try:
            return built(request)
        except Exception as error:  # whatever tracing and compiling may raise: the flat bucket tells of errors in links
            shapes = dict.fromkeys(tuple(param.shape) for param in self.home.raw)
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            level = logging.WARNING if isinstance(error, OSError | CalledProcessError) else logging.INFO  # the compiler fails
            logger.log(level, "parameters of shape %s run without C++ functions: %s", ", ".join(map(str, shapes)), text)
            return None


class LargeStep(NativeStep):
    """A large bucket in one step. Where C++ is not written for a chain, the parameters run one by one."""

    @override
    def _functions(self, request: Request) -> list[Bound]:
        raise Untraceable
