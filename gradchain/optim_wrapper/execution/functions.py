"""From the links of a bucket to its functions: a trace for each shape, and code for neighbors whose graphs match."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from gradchain.optim_wrapper.drivers.program import Answer, Program
from gradchain.optim_wrapper.execution.cache import Recent
from gradchain.optim_wrapper.execution.code import Writer
from gradchain.optim_wrapper.execution.memory import Code, bound
from gradchain.optim_wrapper.execution.runs import Bucket
from gradchain.optim_wrapper.execution.trace import Trace, trace
from gradchain.optim_wrapper.execution.values import Kind, Values, alike

Function = Callable[[Any, Any, Any], Any]
TRACES: Recent[Trace] = Recent(256)
CODES: Recent[list[Stretch]] = Recent(256)


class Stretch(NamedTuple):
    """Neighboring runs of a bucket whose graphs match."""

    first: int
    stop: int
    code: Code


@dataclass
class Told:
    """The results of a shared link for the parameters of a bucket, one leaf of its structure after the other."""

    answers: list[Answer]  # for one parameter of each run
    kinds: list[Kind]
    columns: list[list[Tensor]]  # of each leaf: one tensor, or one for each parameter
    key: Hashable


def told(home: Bucket, answers: Sequence[Any]) -> Told:
    """The results of a shared link, one for each parameter; ValueError where they have no common form."""
    flat = [tree_flatten(answer) for answer in answers]
    spec = flat[0][1]
    if any(other != spec for _, other in flat):
        raise ValueError("the results have different forms")
    plain: list[Any] = []
    kinds: list[Kind] = []
    columns: list[list[Tensor]] = []
    shapes = [run.shape for run in home.runs for _ in range(run.count)]
    for column in zip(*(leaves for leaves, _ in flat), strict=True):
        if not isinstance(column[0], Tensor):
            if any(one is not column[0] and one != column[0] for one in column):
                raise ValueError("the results differ in what is no tensor")
            plain.append(column[0])
            continue
        plain.append(Tensor)
        same = all(one is column[0] for one in column)
        if not same and len({(one.dtype, one.device) for one in column}) > 1:
            raise ValueError("the results have different dtypes")
        own = [one.shape for one in column]
        kind = Kind.COMMON if same else Kind.EACH if not any(own) else Kind.FLAT if own == shapes else Kind.SHAPED
        if kind is Kind.SHAPED and any(
            len({one.shape for one in column[home.starts[r] : home.starts[r + 1]]}) > 1 for r in range(len(home.runs))
        ):
            raise ValueError("the results for parameters of one shape have different shapes")
        kinds.append(kind)
        columns.append([column[0]] if same else list(column))
    firsts = [[column[0] if len(column) == 1 else column[start] for column in columns] for start in home.starts[:-1]]
    made = [Answer(leaves, spec, tuple(kind is not Kind.COMMON for kind in kinds), tuple(plain)) for leaves in firsts]
    return Told(made, kinds, columns, (tuple(kinds), *(answer.key for answer in made)))


@dataclass
class Request:
    """A function that a bucket needs: the whole chain, or the part that measures for the shared link at ``until``."""

    home: Bucket
    plan: Mapping[str, tuple[bool, bool]]  # by link: at work, refreshed
    until: int | None
    heard: Mapping[int, Told]  # by position, the results of the shared links before
    host: Sequence[float]  # step, learning rate and the other numbers
    total: bool  # whether the optimizer's count of steps is the third of them

    @property
    def key(self) -> Hashable:
        told = tuple((position, one.key) for position, one in self.heard.items())
        return (self.home.form, self.home.split.fixed, tuple(self.plan.values()), self.until, told)

    def stretches(self) -> list[Stretch]:
        """The code of the bucket; that of another one, if its links and the forms of its parameters are the same."""
        return CODES.get(self.key_with_surroundings, self._made)

    @property
    def key_with_surroundings(self) -> Hashable:
        """The key of a cache for all optimizers."""
        return (self.key, self._surroundings)

    def traces(self) -> list[Trace]:
        """A trace of the chain for each shape."""
        return [self._trace(run) for run in range(len(self.home.runs))]

    @property
    def _surroundings(self) -> Hashable:
        """The rest that a trace depends on: methods, which may have been replaced, and torch's settings."""
        kinds = [type(link.transform) for link in self.home.split.links]
        methods = [getattr(kind, name, None) for kind in kinds for name in ("update", "refresh", "measure", "refresh_schedule")]
        return (*methods, torch.get_default_dtype(), self.total)

    def _made(self) -> list[Stretch]:
        """Trace the chain for each shape, and write the code of neighbors whose graphs match."""
        made = self.traces()
        return [Stretch(first, stop, self._code(made[first:stop], first, stop)) for first, stop in matching(made)]

    def _code(self, traces: list[Trace], first: int, stop: int) -> Code:
        home = self.home
        kinds = [home.kind_of_state(j, first, stop) for j in range(len(home.buffers))]
        leaves = [kind for one in self.heard.values() for kind in one.kinds]
        inputs = [Kind.FLAT, Kind.FLAT, *kinds, *(Kind.HOST for _ in self.host), *leaves]
        sources = ["param", "grad", *(f"state{j}" for j in range(len(kinds)))]
        sources += ["" for _ in self.host] + [f"leaf{k}" for k in range(len(leaves))]
        values = Values(traces, inputs)
        outputs = [values.place[node] for node in traces[0].outputs]
        targets = [""] if self.until is not None else ["param", *(f"state{j}" for j in traces[0].changed)]
        return Writer(values, home.runs[first:stop], outputs, targets).written(sources)

    def _trace(self, run: int) -> Trace:
        home, answers = self.home, {position: one.answers[run] for position, one in self.heard.items()}
        told = tuple((position, answer.key) for position, answer in answers.items())
        key = (home.run_forms[run], home.split.fixed, tuple(self.plan.values()), self.until, told, self._surroundings)

        def made() -> Trace:
            states, since = tuple(home.buffers), tuple(home.since)
            rest: dict[str, Any] = {"answers": answers, "until": self.until, "total": self.total}
            program = Program(home.split.links, home.used, states, since, home.raw[0].dtype, self.plan, stacked=False, **rest)
            shapes = [home.runs[run].shape] * 2 + home.state_shapes[run]
            dtypes = [home.dtype] * 2 + [buffer.dtype for buffer in home.buffers.values()]
            tensors = [torch.empty(s, dtype=d, device=home.device) for s, d in zip(shapes, dtypes, strict=True)]
            numbers = [torch.tensor(float(number), dtype=torch.float64, device="cpu") for number in self.host]
            return trace(program, [*tensors, *numbers, *(leaf for answer in answers.values() for leaf in answer.leaves)])

        return TRACES.get(key, made)


def matching(traces: Sequence[Trace]) -> list[tuple[int, int]]:
    """(first, stop) of neighbors whose graphs match."""
    found: list[tuple[int, int]] = []
    for i, one in enumerate(traces):
        if found and alike(traces[found[-1][0]], one):
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found


class Bound(NamedTuple):
    """A stretch of a bucket with its function."""

    stretch: Stretch
    function: Function
    buffers: Mapping[str, Any]


def bind_stretch(home: Bucket, stretch: Stretch) -> Bound:
    """The function of a stretch on the bucket's buffers."""
    buffers: dict[str, Any] = {}
    first, stop = stretch.first, stretch.stop
    elements = slice(home.offsets[first], home.offsets[stop])
    members = slice(home.starts[first], home.starts[stop])
    for name, buffer in stretch.code.buffers.items():
        size = elements.stop - elements.start if buffer.kind is Kind.FLAT else members.stop - members.start
        if buffer.source in ("param", "grad"):
            buffers[name] = getattr(home, buffer.source)[elements]
        elif not buffer.source.startswith("state"):
            buffers[name] = home.scratch.take(f"{buffer.kind}{name}", size, buffer.dtype, home.device)
        elif buffer.kind is Kind.SHAPED:
            buffers[name] = home.shaped_states[int(buffer.source.removeprefix("state"))][first:stop]
        else:
            position = int(buffer.source.removeprefix("state"))
            start = sum(tensor.numel() for tensor in home.shaped_states[position][:first])
            buffers[name] = list(home.buffers.values())[position][start : start + size]
    return Bound(stretch, bound(stretch.code, home.runs[first:stop], buffers), buffers)
