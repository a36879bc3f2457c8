"""Where the elements of a parameter live: all on one device, or in pieces on several ranks.

A sharded layout cannot answer a link's question about all elements on its own. It raises ``Unanswered``; the driver gathers
the open questions of all parameters, answers them with one collective (see ``collectives``), and runs the links that asked
once more: links are pure, so that running one again costs time and nothing else. So the number of collectives in a step is
the number of questions along the chain, however many parameters there are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from typing_extensions import override

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class Whole:
    """All elements in one tensor: the plain operations."""

    def shape(self, x: Tensor) -> torch.Size:
        return x.shape

    def sum(self, x: Tensor, dim: int | None = None) -> Tensor:
        return x.sum() if dim is None else x.sum(dim, keepdim=True)

    def mean(self, x: Tensor, dim: int | None = None) -> Tensor:
        return self.sum(x, dim) / max(1, x.numel() if dim is None else x.shape[dim])

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum()

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x)

    def pad(self, x: Tensor, dim: int) -> Tensor:
        outer = (slice(None),) * (dim % x.dim())  # narrow() would make sizes of a stack fixed where they are symbols
        return torch.cat((x[(*outer, slice(-1, None))], x, x[(*outer, slice(0, 1))]), dim)

    def on_whole(self, work: Callable[..., Any], *xs: Tensor, like: int = 1) -> Any:
        return work(*xs)


class Wrapped(Whole):
    """For a compiler that fuses index arithmetic, as Triton does: neighbors are read where they are, at wrapped indices."""

    @override
    def pad(self, x: Tensor, dim: int) -> Tensor:
        size, times = x.shape[dim], [3 if d == dim % x.dim() else 1 for d in range(x.dim())]
        return x.repeat(times).narrow(dim, size - 1, size + 2)


WHOLE, WRAPPED = Whole(), Wrapped()


class Sum(NamedTuple):
    """Add up over the ranks along these dimensions of the mesh."""

    value: Tensor
    mesh_dims: tuple[int, ...]


class Border(NamedTuple):
    """The slices next to mine along the cut dimension; value: my first and my last one, stacked."""

    value: Tensor
    mesh_dim: int
    extent: int  # of the whole tensor along that dimension


class Work(NamedTuple):
    """A function of whole tensors; each is worked on by one rank."""

    work: Callable[..., Any]
    pieces: tuple[Tensor, ...]
    like: int


class Unanswered(Exception):
    """A link has asked for what other ranks hold."""

    def __init__(self, question: Sum | Border | Work) -> None:
        super().__init__("a question to other ranks was left open; run the link through a driver")
        self.question = question


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor; does not import torch.distributed.tensor for that."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def chunks(extent: int, ranks: int) -> list[int]:
    """How torch cuts an extent into one piece per rank: equal ones, a smaller one, empty ones."""
    size = -(-extent // ranks)
    return [max(0, min(size, extent - rank * size)) for rank in range(ranks)]


class Pieces:
    """A piece of a parameter that is cut, over ranks or into tiles.

    What is asked with ``dim`` may be any tensor that is cut where the parameter is cut; without ``dim``, one like the
    parameter. Right for even, uneven and empty pieces, and for cuts along several dimensions.
    """

    def __init__(self, whole: torch.Size, local: torch.Size, cuts: dict[int, list[int]]) -> None:
        """cuts: dimension of the tensor -> dimensions of the mesh that cut it."""
        self.whole_shape, self.local_shape, self.cuts = whole, local, cuts
        self.mesh_dims = tuple(sorted(m for dims in cuts.values() for m in dims))
        self.answers: list[Any] = []
        self.asked = 0

    def ask(self, question: Sum | Border | Work) -> Any:
        self.asked += 1
        if self.asked > len(self.answers):
            raise Unanswered(question)
        return self.answers[self.asked - 1]

    def _along(self, x: Tensor, dim: int) -> tuple[int, ...]:
        """The mesh dimensions that cut x along dim; of a tensor flattened to a matrix, the second dim is all but the first."""
        dim = dim % x.dim()
        if x.dim() == 2 and len(self.local_shape) > 2 and dim == 1:
            return tuple(m for d, dims in self.cuts.items() if d > 0 for m in dims)
        return tuple(self.cuts.get(dim, ()))

    def _extent(self, x: Tensor, dim: int) -> int:
        dim = dim % x.dim()
        if not self._along(x, dim):
            return x.shape[dim]
        flattened = x.dim() == 2 and len(self.local_shape) > 2 and dim == 1
        return math.prod(self.whole_shape[1:]) if flattened else self.whole_shape[dim]

    def shape(self, x: Tensor) -> torch.Size:
        return torch.Size([self._extent(x, d) for d in range(x.dim())])

    def sum(self, x: Tensor, dim: int | None = None) -> Tensor:
        if dim is None:
            return self.ask(Sum(x.sum(), self.mesh_dims)) if self.mesh_dims else x.sum()
        along, part = self._along(x, dim), x.sum(dim, keepdim=True)
        return self.ask(Sum(part, along)) if along else part

    def mean(self, x: Tensor, dim: int | None = None) -> Tensor:
        return self.sum(x, dim) / max(1, math.prod(self.shape(x)) if dim is None else self._extent(x, dim))

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        return self.sum(x * y)

    def norm(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x)
        return self.sum(length.to(torch.float64).square()).sqrt().to(length.dtype)  # without overflow in float32

    def pad(self, x: Tensor, dim: int) -> Tensor:
        along = self._along(x, dim)
        if not along:
            return WHOLE.pad(x, dim)
        ends = (x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)) if x.shape[dim] else _nothing(x, dim)
        before, behind = self.ask(Border(torch.stack(ends), along[0], self._extent(x, dim)))
        return torch.cat((before, x, behind), dim)

    def on_whole(self, work: Callable[..., Any], *xs: Tensor, like: int = 1) -> Any:
        return self.ask(Work(work, xs, like)) if self.mesh_dims else work(*xs)


class Sharded(Pieces):
    """A piece of a parameter that is cut over the ranks of a mesh."""

    def __init__(self, param: DTensor, whole: torch.Size, local: torch.Size) -> None:
        self.mesh, self.placements = param.device_mesh, tuple(param.placements)
        cuts: dict[int, list[int]] = {}
        for mesh_dim, placement in enumerate(self.placements):
            if not placement.is_replicate():
                cuts.setdefault(getattr(placement, "dim"), []).append(mesh_dim)  # noqa: B009 (strided shards have it too)
        super().__init__(whole, local, cuts)

    @property
    def plain(self) -> bool:
        """Whether each cut leaves contiguous rows, or contiguous columns, of the tensor seen as a matrix."""
        return all(d < 2 and len(dims) == 1 and self.placements[dims[0]].is_shard() for d, dims in self.cuts.items())


def _nothing(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    shape = [1 if d == dim % x.dim() else size for d, size in enumerate(x.shape)]
    return x.new_zeros(shape), x.new_zeros(shape)


class Asker(NamedTuple):
    """A layout with an open question."""

    layout: Sharded
    question: Sum | Border | Work


def by_kind(askers: Sequence[Asker]) -> dict[tuple[Any, ...], list[Asker]]:
    """Askers that one collective can serve, in the order in which they asked, which is the same on every rank."""
    groups: dict[tuple[Any, ...], list[Asker]] = {}
    for asker in askers:
        question, mesh = asker.question, asker.layout.mesh
        if isinstance(question, Sum):
            key: tuple[Any, ...] = (Sum, mesh, question.mesh_dims, question.value.dtype, question.value.device)
        elif isinstance(question, Border):
            key = (Border, mesh, question.mesh_dim, question.value.dtype, question.value.device)
        else:
            key = (Work, mesh, asker.layout.mesh_dims, question.pieces[0].dtype, question.pieces[0].device)
        groups.setdefault(key, []).append(asker)
    return groups
