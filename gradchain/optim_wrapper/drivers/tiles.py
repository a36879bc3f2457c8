"""Large parameters in tiles of rows, each small enough to stay in the cache.

A tile is to its parameter what a piece is to a tensor on several ranks: it works on its own, and asks its layout for what
concerns the others. The chain runs up to such a question on every tile and keeps nothing but what was asked; the answers
go into the next run. So no temporary is as large as the parameter, at the price of reading it once more for each question.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from typing import ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Batch, Home, Untraceable, leaves
from gradchain.optim_wrapper.drivers.graphs import TRACING, Graph
from gradchain.optim_wrapper.drivers.memory import unaliased
from gradchain.optim_wrapper.drivers.program import Answer, Program, Split
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.layouts import Border, Pieces, Sum, Unanswered, Work
from gradchain.optim_wrapper.shards import cut_dims

TILE = 1 << 18  # elements
LARGEST_WHOLE = 3 << 20  # elements of a compiled parameter whose temporaries stay in the cache
SHARE = 40  # of which two make 5 % of the memory of all parameters
FEW = 2  # questions for which a compiled parameter is better read again as a whole
READS = 6  # questions at most, as each runs the links before it again

Kind = type[Sum] | type[Border] | type[Work]


def rows_of_tile(param: Tensor) -> int:
    """Rows of a tile; 0 for a parameter that is better left whole: of few elements, or with rows that lie apart."""
    size, rows = param.numel(), param.shape[0] if param.dim() else 1
    if size <= TILE or rows < 2 or param.device.type != "cpu" or param.stride(0) * rows != size:
        return 0
    return 1 << max(0, (TILE * rows // size).bit_length() - 1)  # a power of two: tiles of many parameters have one shape


def left_whole(params: Sequence[Tensor]) -> int:
    """Elements up to which a compiled parameter runs as a whole: what is worked out along it then waits for each question.

    Its temporaries are as large as it is. Where memory is given back to the system and taken anew in every step, that costs
    more than all else. glibc keeps blocks of a size that it has seen freed: it is shown one, which nothing is written to.
    """
    most = min(LARGEST_WHOLE, sum(param.numel() for param in params) // SHARE)
    torch.empty(8 * most, dtype=torch.uint8, device="cpu")
    return most


@dataclass
class TileProgram(Program):
    """The chain on one tile, up to the first question that is not answered."""

    kinds: tuple[Kind, ...] = ()  # of the questions that are answered
    cut: tuple[bool, ...] = ()  # whether a state is cut where the parameter is
    question: Kind | None = None  # what was asked last
    apart: ClassVar[tuple[int, ...]] = (-1,)  # the whole parameter has other rows than a tile

    @property
    @override
    def form(self) -> Hashable:
        return (super().form, self.kinds, self.cut)

    @override
    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """given: as of any program, the answers, the whole parameter for its shape.

        The result is what the tile tells, or the new values of states that are not cut.
        """
        counts = [2 if kind is Border else 1 for kind in self.kinds]
        *tensors, whole = given
        stop = len(tensors) - sum(counts)
        heard = iter(tensors[stop:])
        self.layout = layout = Pieces(whole.shape, tensors[0].shape, {0: [0]})
        layout.answers = [next(heard) if count == 1 else (next(heard), next(heard)) for count in counts]
        (param, grad, state, numbers), leaves = self.parted(tensors[:stop])
        changed: list[int] = []
        try:
            made = self.of_one(changed)(param, grad, state, numbers, leaves)
        except Unanswered as open_:
            self.question = type(open_.question)
            return () if isinstance(open_.question, Work) else (open_.question.value,)
        self.question = None
        if self.until is not None:
            return made
        new = dict(zip(changed, unaliased(made[1:], [state[i] for i in changed]), strict=True))
        for i, value in new.items():
            if self.cut[i]:
                state[i].copy_(value)
        param.copy_(made[0])
        return tuple(new.get(i, state[i]) for i, cut in enumerate(self.cut) if not cut)


Heard = Callable[[], Iterator[tuple[Tensor, ...]]]  # an answer, or the two slices around it, for each tile in turn


def answered(kind: Kind, told: Sequence[Tensor]) -> Heard:
    """What each tile hears, of what all have told."""
    if kind is Sum:
        return partial(repeat, (torch.stack(list(told)).sum(0),))
    return partial(borders, told.__getitem__, len(told))


def said(heard: Sequence[Heard], count: int) -> Iterator[tuple[Tensor, ...]]:
    """All that each of so many tiles has heard, in turn."""
    answers = [one() for one in heard]
    for _ in range(count):
        yield tuple(x for answer in answers for x in next(answer))


def borders(tell: Callable[[int], Tensor], count: int) -> Iterator[tuple[Tensor, ...]]:
    """What lies before and behind each tile. Each is asked for its first and last slice once, few of which are kept."""
    first, last = tell(0), tell(count - 1)
    before, here = last, first
    for i in range(count):
        behind = first if i == count - 1 else last if i == count - 2 else tell(i + 1)
        yield before[1], behind[0]
        before, here = here, behind


def asked(program: TileProgram, tensors: Sequence[Tensor], whole: Tensor) -> tuple[Kind, ...]:
    """The questions along the chain, found on fake tensors; they end with the first that concerns whole tensors."""
    with FakeTensorMode() as mode:
        given: list[Tensor] = [mode.from_tensor(x) for x in tensors]
        whole = mode.from_tensor(whole)
        while True:
            told, kind = program(*given, whole), program.question
            if kind is None:
                return program.kinds
            program = replace(program, kinds=(*program.kinds, kind))
            if kind is Work:
                return program.kinds
            given += next(answered(kind, told)())


class TiledHome(Home):
    """Where a large parameter lives, with its tiles."""

    tiles: Sequence[Sequence[Tensor]] = ()  # of each tile: parameter and states, which are whole where they are not cut
    cut: tuple[bool, ...] = ()  # whether a state is cut

    @override
    def bind(self, split: Split) -> None:
        super().bind(split)
        if not self.tiles:
            param, layout = self.raw[0], Pieces(self.raw[0].shape, self.raw[0].shape, {0: [0]})
            self.rows = rows_of_tile(param)
            along = [(link.state_keys, cut_dims(link.transform.init, layout)) for link in split.links]
            cut = {key for keys, dims in along for key, own in zip(keys, dims, strict=True) if 0 in own}
            self.cut = tuple(key in cut for key in self.state)
            count = len(param.split(self.rows))
            states = [x.split(self.rows) if key in cut else (x,) * count for key, x in self.state.items()]
            self.tiles = list(zip(param.split(self.rows), *states, strict=True))

    @override
    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> Tiled:
        return Tiled(self, self.pick(grads), lr, step)

    def tensors_of_tiles(self, grad: Tensor) -> list[list[Tensor]]:
        """Parameter, gradient and states as the program of each tile takes them."""
        rows = zip(self.tiles, grad.split(self.rows), strict=True)
        return [[param, piece, *states] for (param, *states), piece in rows]


class Tiled(Batch):
    """A large parameter in one step, tile by tile where that pays."""

    home: TiledHome

    @override
    def run(self, until: int | None) -> Sequence[Tensor]:
        if self.jobs is not None:
            raise Untraceable
        home, answers = self.home, self.answers(until)
        tensors = home.tensors(self.grads)
        tiles = home.tensors_of_tiles(tensors[1])
        key = self.key(until, answers, tensors)
        if key not in self.step.asked:
            with TRACING:
                self.step.asked[key] = self.questions(until, answers, tiles[0])
        kinds: tuple[Kind, ...] = self.step.asked[key]
        if not worthwhile(kinds, self.step.compile):
            if self.step.compile:
                return super().run(until)
            raise Untraceable
        rest = [*self.numbers, *leaves(answers)]

        def after(kinds: tuple[Kind, ...]) -> Round:
            return Round(self, key, kinds, partial(self.of_tile, until, answers, kinds), tiles, rest)

        heard: list[Heard] = []
        for count, kind in enumerate(kinds):
            heard.append(after(kinds[:count]).hears(kind, heard))
        last = after(kinds)
        last.make(len(tiles) - 1, heard)
        made: Sequence[Tensor] = ()
        for i, known in enumerate(said(heard, len(tiles))):
            made = last.run(i, known)
        if until is None:
            left = [state for state, cut in zip(home.state.values(), home.cut, strict=True) if not cut]
            for state, value in zip(left, made, strict=True):
                state.copy_(value)
        return made

    @override
    def make(self) -> None: ...  # questions have to be answered first; ``run`` makes the last graphs before it writes

    def of_tile(self, until: int | None, answers: dict[int, Answer], kinds: tuple[Kind, ...]) -> TileProgram:
        return self.program(TileProgram, until, answers, cut=self.home.cut, kinds=kinds)

    def questions(self, until: int | None, answers: dict[int, Answer], tensors: Sequence[Tensor]) -> tuple[Kind, ...]:
        try:
            return asked(self.of_tile(until, answers, ()), [*tensors, *self.numbers, *leaves(answers)], self.home.raw[0])
        except Exception:  # what cannot be traced is told of where it is tried as a whole
            return (Work,)


@dataclass
class Round:
    """The chain on tiles that have heard the answers to some questions: up to the next one, or to its end."""

    tiled: Tiled
    key: Hashable
    kinds: tuple[Kind, ...]  # of the questions
    program: Callable[[], TileProgram]
    tiles: Sequence[Sequence[Tensor]]
    rest: Sequence[Tensor]  # what all take beside: numbers, and answers of shared links
    graphs: dict[torch.Size, tuple[Graph, Sequence[Tensor]]] = field(default_factory=lambda: {})  # with what is made of numbers

    def run(self, i: int, known: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the i-th tile gives, with what it has heard."""
        given = self.given(i, known)
        graph, numbers = self.graph(i, given)
        return graph.run(*[given[i] for i in graph.places], *numbers)

    def graph(self, i: int, given: list[Tensor]) -> tuple[Graph, Sequence[Tensor]]:
        """The graph of the i-th tile, with what is made of numbers."""
        shape, step = self.tiles[i][0].shape, self.tiled.step
        if shape not in self.graphs:
            graph = self.tiled.graph(self.key_of(i), self.program, given, self.tiled.step.compile)
            self.graphs[shape] = graph, step.on_host(graph, given)
        return self.graphs[shape]

    def make(self, i: int, heard: Sequence[Heard]) -> None:
        """Make the graph of the i-th tile before one of them writes: where it cannot be made, the others must not have.

        What the first tile has heard stands for what this one will hear, which has the same form. The first makes its own.
        """
        if self.tiles[i][0].shape != self.tiles[0][0].shape and self.key_of(i) not in self.tiled.step.graphs:
            self.graph(i, self.given(i, next(said(heard, len(self.tiles)))))

    def given(self, i: int, known: Sequence[Tensor]) -> list[Tensor]:
        return [*self.tiles[i], *self.rest, *known, self.tiled.home.raw[0]]

    def key_of(self, i: int) -> Hashable:
        return (self.key, self.kinds, self.tiles[i][0].shape)

    def hears(self, kind: Kind, heard: Sequence[Heard]) -> Heard:
        """What each tile hears, once all have told what they ask next."""
        if kind is Border and Border not in self.kinds:  # then all have heard the same: borders can wait until they are needed
            known = next(said(heard, 1))
            return partial(borders, lambda i: self.run(i, known)[0], len(self.tiles))
        return answered(kind, [self.run(i, known)[0] for i, known in enumerate(said(heard, len(self.tiles)))])


def worthwhile(kinds: Sequence[Kind], compile: bool) -> bool:
    """Whether tiles cost less than the parameter as a whole.

    For one sum or two a compiled chain reads a whole parameter again, as tiles do, and stores nothing beside it; for more, and
    for what looks at neighbors, it would store values as large as the parameter.
    """
    if Work in kinds or len(kinds) > READS:
        return False
    return Border in kinds or len(kinds) > FEW or not compile
