"""The C++ functions of a bucket with the addresses of its tensors, and the calls of torch between them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.execution.cpp_functions import Library, Stages
from gradchain.optim_wrapper.execution.cpp_library import library
from gradchain.optim_wrapper.execution.cpp_places import aligned
from gradchain.optim_wrapper.execution.runs import Bucket

PARALLEL = 1 << 15  # elements from which threads are worth their start
LARGE = 1 << 16  # elements of a parameter that all threads work on together
CROSSING = 1 << 26  # bytes of values that cross from stage to stage at a time
HEAD = 4  # words of a row between functions and addresses
PARAM, GRAD, STATE = 0, 1, 2  # columns
Torch = tuple[Callable[..., Any], list[Tensor], list[Tensor]]  # a call, the tensors that it takes, those for its results


@dataclass
class Part:
    """Some parameters of one shape."""

    run: int
    start: int  # of their rows
    stop: int


@dataclass
class Chunk:
    """Parameters that go through all stages before the next ones, in the same memory."""

    parts: list[Part]
    levels: list[list[Torch]]  # by stage, the calls of torch


class Call:
    """The stages of a bucket with the addresses of its tensors: one row for each parameter."""

    def __init__(self, home: Bucket, stages: Sequence[Stages], taken: int, measures: bool) -> None:
        """stages: by run; taken: columns that are given; measures: the next one is for results that are kept."""
        self.stages, self.count = stages, len(home.raw)
        self.head = HEAD + max(len(one.steps) for one in stages)
        self.stride = self.head + max(len(one.forms) for one in stages)
        self.rows = array("Q", bytes(8 * self.count * self.stride))
        self.address = self.rows.buffer_info()[0]
        self.params: Sequence[Tensor] = ()
        self.threads = torch.get_num_threads() if home.offsets[-1] >= PARALLEL else 1
        self._put_facts(home)
        for k, key in enumerate(home.buffers):
            self.put(STATE + k, (state[key] for state in home.states))
        self.results: list[Tensor] = []
        self.memory: list[Tensor] = []  # whose addresses are in the rows
        for r, one in enumerate(stages) if measures else ():
            shape, dtype = one.forms[taken]
            self.results += torch.empty((home.runs[r].count, *shape), dtype=dtype, device="cpu").unbind()
        if measures:
            self.put(taken, self.results)
        self.chunks = [self._chunk(home, parts, taken + measures) for parts in _parts(home, stages, taken + measures)]

    def _put_facts(self, home: Bucket) -> None:
        """Set the words ahead of the addresses, and take scratch memory."""
        large = small = 0  # bytes
        for r, one in enumerate(self.stages):
            elements = home.runs[r].shape.numel()
            together = self.threads > 1 and elements >= LARGE
            large = max(large, one.size(elements, self.threads)) if together else large
            small = small if together else max(small, one.size(elements, 1))
            facts = array("Q", [together, elements, one.width(elements), one.slots])
            for p in home.members(r):
                row = p * self.stride
                self.rows[row : row + len(one.addresses)] = array("Q", one.addresses)
                self.rows[row + self.head - HEAD : row + self.head] = facts
        self.size = aligned(small)
        self.scratch = home.scratch.take("cpp", max(large, self.threads * self.size), torch.uint8, home.device)

    def _chunk(self, home: Bucket, parts: list[Part], first: int) -> Chunk:
        """Give parameters memory for the values that cross from stage to stage, which are the columns from ``first`` on."""
        shapes = [(part, c, form) for part in parts for c, form in enumerate(self.stages[part.run].forms) if c >= first]
        free: dict[torch.dtype, Tensor] = {}
        for dtype in {dtype for _, _, (_, dtype) in shapes}:
            size = sum((part.stop - part.start) * math.prod(shape) for part, _, (shape, own) in shapes if own == dtype)
            free[dtype] = home.scratch.take("crossing", size, dtype, home.device)
            self.memory.append(free[dtype])
        made: dict[int, dict[int, Tensor]] = {part.start: {} for part in parts}
        for part, c, (shape, dtype) in shapes:
            count = part.stop - part.start
            own, free[dtype] = free[dtype].split([count * math.prod(shape), len(free[dtype]) - count * math.prod(shape)])
            made[part.start][c] = stack = own.view(count, *shape)
            for k in range(count):
                self.rows[(part.start + k) * self.stride + self.head + c] = stack[k].data_ptr()
        levels: list[list[Torch]] = []
        for level in range(self.head - HEAD):
            levels.append([])
            for part in parts:
                steps, count = self.stages[part.run].steps, part.stop - part.start
                step = steps[level] if level < len(steps) else None
                if isinstance(step, Library):
                    tensors = {c: stack if count > 1 else stack[0] for c, stack in made[part.start].items()}
                    places = [tensors[c] for c in step.inputs], [tensors[c] for c in step.outputs]
                    levels[-1].append((step.function(count), *places))
        return Chunk(parts, levels)

    def put(self, column: int, tensors: Iterable[Tensor]) -> None:
        """Set the addresses of one column."""
        self.rows[self.head + column :: self.stride] = array("Q", map(Tensor.data_ptr, tensors))

    def put_params(self, params: Sequence[Tensor]) -> None:
        """Let the functions work on these, if they do not yet."""
        if params is not self.params:
            self.put(PARAM, params)
            self.params = params

    def meets(self, begins: array[int], ends: array[int], itemsize: int) -> bool:
        """Whether a gradient lies in one of these ranges of memory, which are sorted."""
        ranges = (len(begins), begins.buffer_info()[0], ends.buffer_info()[0])
        return bool(library().overlaps(self.count, self.stride, self.address, self.head, itemsize, *ranges))

    def run(self, host: Sequence[float]) -> None:
        """Run the stages with these numbers."""
        numbers, run = array("d", host), library().run
        threads = min(self.threads, torch.get_num_threads())  # scratch memory is for the first number at most
        rest = (numbers.buffer_info()[0], self.scratch.data_ptr(), self.size, threads)
        for chunk in self.chunks:
            first = chunk.parts[0].start
            count, address = chunk.parts[-1].stop - first, self.address + 8 * first * self.stride
            for level, calls in enumerate(chunk.levels):
                if level % 2 == 0:
                    run(count, self.stride, address, self.head, level, *rest)
                for function, inputs, outputs in calls:
                    torch._foreach_copy_(outputs, function(*inputs))  # pyright: ignore[reportPrivateImportUsage]


def _parts(home: Bucket, stages: Sequence[Stages], first: int) -> list[list[Part]]:
    """Chunks of the parameters: as many at a time as the memory for values between the stages allows."""
    found: list[list[Part]] = [[]]
    size = 0
    for r, one in enumerate(stages):
        own = sum(math.prod(shape) * dtype.itemsize for shape, dtype in one.forms[first:])
        for p in home.members(r):
            size += own
            if size > CROSSING and found[-1]:
                found.append([])
                size = own
            if not found[-1] or found[-1][-1].run != r:
                found[-1].append(Part(r, p, p))
            found[-1][-1].stop = p + 1
    return found
