"""Answers to what links ask of other ranks: one collective for all parameters that ask the same kind of question.

A sum costs one all-reduce per dimension of the mesh it runs over, a border one all-gather of boundary slices, work on whole
tensors two all-to-alls: pieces to the rank that does the work, results back. Every rank must step the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

from gradchain.optim_wrapper.foreseen import foreseen
from gradchain.optim_wrapper.layouts import Asker, Border, Sharded, Sum, Work, by_kind, chunks, is_sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement


def answer(askers: Sequence[Asker]) -> None:
    """Append to each layout's answers what it has asked for."""
    for (kind, *_), group in by_kind(askers).items():
        once = group[0].layout.plain and len(group[0].layout.mesh_dims) == 1
        serve = {Sum: _sums, Border: _borders, Work: _work if once else _work_everywhere}[kind]
        for asker, result in zip(group, serve(group), strict=True):
            asker.layout.answers.append(result)


def nothing_but_zeros(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements are 0, those on other ranks too; the same answer on every rank."""
    for tensor in tensors:
        if tensor.device.type == "meta":
            return False
        some = (tensor.to_local() if is_sharded(tensor) else tensor).any().to(torch.int32)
        if is_sharded(tensor):
            for mesh_dim in range(tensor.device_mesh.ndim):
                dist.all_reduce(some, group=tensor.device_mesh.get_group(mesh_dim))
        if some:
            return False
    return True


def everywhere(flag: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Whether a flag holds on all ranks that have pieces of these parameters. One all-reduce a mesh; nothing is read."""
    meshes = dict.fromkeys(param.device_mesh for param in params if is_sharded(param))
    number = flag.to(torch.int32)
    for mesh in sorted(meshes, key=lambda mesh: mesh.ndim):  # those of all dimensions last: they reach all ranks
        for mesh_dim in range(mesh.ndim):
            dist.all_reduce(number, op=dist.ReduceOp.MIN, group=mesh.get_group(mesh_dim))
    return number.bool() if meshes else flag


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]) if parts else torch.empty(0)


def _unflat(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]


def _sums(group: Sequence[Asker]) -> list[Tensor]:
    questions = [cast(Sum, asker.question) for asker in group]
    flat = _flat([question.value for question in questions])
    for mesh_dim in questions[0].mesh_dims:
        dist.all_reduce(flat, group=group[0].layout.mesh.get_group(mesh_dim))
    return _unflat(flat, [question.value.shape for question in questions])


def _borders(group: Sequence[Asker]) -> list[tuple[Tensor, Tensor]]:
    questions = [cast(Border, asker.question) for asker in group]
    mesh, mesh_dim = group[0].layout.mesh, questions[0].mesh_dim
    flat, ranks, mine = _flat([q.value for q in questions]), mesh.size(mesh_dim), mesh.get_local_rank(mesh_dim)
    everybody = flat.new_empty(ranks * flat.numel())
    dist.all_gather_single(everybody, flat, group=mesh.get_group(mesh_dim))
    by_rank = [_unflat(part, [q.value.shape for q in questions]) for part in everybody.view(ranks, -1)]
    found: list[tuple[Tensor, Tensor]] = []
    for i, question in enumerate(questions):
        holders = max(1, sum(size > 0 for size in chunks(question.extent, ranks)))  # empty pieces come last
        found.append((by_rank[(mine - 1) % holders][i][1], by_rank[(mine + 1) % holders][i][0]))
    return found


def _work_everywhere(group: Sequence[Asker]) -> list[Any]:
    """Each rank gathers and works on everything: for layouts that are cut in more than one way."""
    results: list[Any] = []
    for layout, question in group:
        work = cast(Work, question)
        done = work.work(*[gathered(piece, layout) for piece in work.pieces])
        outputs = done if isinstance(done, tuple) else (done,)
        outputs = tuple(cut(x, layout.mesh, layout.placements) if i < work.like else x for i, x in enumerate(outputs))
        results.append(outputs if isinstance(done, tuple) else outputs[0])
    return results


def gathered(piece: Tensor, layout: Sharded) -> Tensor:
    """All elements of a tensor that is cut like the parameter."""
    from torch.distributed.tensor import DTensor

    shape = layout.whole_shape
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(piece, layout.mesh, layout.placements, shape=shape, stride=stride).full_tensor()


def cut(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """This rank's piece of a tensor that every rank has."""
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim).redistribute(mesh, placements).to_local()


class _Item(NamedTuple):
    layout: Sharded
    work: Work
    owner: int
    dim: int  # the cut dimension

    def piece_shapes(self, ranks: int) -> list[torch.Size]:
        """Shape of each rank's piece."""
        shape = self.layout.whole_shape
        return [torch.Size([*shape[: self.dim], size, *shape[self.dim + 1 :]]) for size in chunks(shape[self.dim], ranks)]


def _shared_out(group: Sequence[Asker], ranks: int) -> list[_Item]:
    """Each tensor to the rank that has least to do so far, the largest first."""
    load, items = [0] * ranks, dict[int, _Item]()
    for i in sorted(range(len(group)), key=lambda i: -group[i].layout.whole_shape.numel()):
        layout, owner = group[i].layout, load.index(min(load))
        load[owner] += layout.whole_shape.numel()
        items[i] = _Item(layout, cast(Work, group[i].question), owner, next(iter(layout.cuts)))
    return [items[i] for i in range(len(group))]


def _exchange(sent: list[list[Tensor]], wanted: list[list[torch.Size]], like: Tensor, group: Any) -> list[list[Tensor]]:
    """All-to-all of lists of tensors; wanted: the shapes that each rank will send here."""
    counts = [sum(shape.numel() for shape in shapes) for shapes in wanted]
    flat = _flat([x.to(like) for tensors in sent for x in tensors]).to(like)
    received = like.new_empty(sum(counts))
    dist.all_to_all_single(received, flat, counts, [sum(x.numel() for x in tensors) for tensors in sent], group=group)
    return [_unflat(part, shapes) for part, shapes in zip(received.split(counts), wanted, strict=True)]


def _listed(done: Any) -> list[Tensor]:
    return list(done) if isinstance(done, tuple) else [done]


def _work(group: Sequence[Asker]) -> list[Any]:
    """Each tensor is put together on one rank, worked on there, and the results go back in pieces."""
    mesh, mesh_dim = group[0].layout.mesh, group[0].layout.mesh_dims[0]
    ranks, mine, team = mesh.size(mesh_dim), mesh.get_local_rank(mesh_dim), mesh.get_group(mesh_dim)
    items = _shared_out(group, ranks)
    my_items = [item for item in items if item.owner == mine]
    outlook = [foreseen(item.work.work, item.work.pieces, item.layout.whole_shape) for item in items]
    kinds = {p.dtype for item in items for p in item.work.pieces} | {x.dtype for done in outlook for x in _listed(done)}
    like = items[0].work.pieces[0].new_empty((), dtype=kinds.pop() if len(kinds) == 1 else torch.float64)

    sent = [[p for item in items if item.owner == rank for p in item.work.pieces] for rank in range(ranks)]
    wanted = [[item.piece_shapes(ranks)[rank] for item in my_items for _ in item.work.pieces] for rank in range(ranks)]
    pieces = [iter(tensors) for tensors in _exchange(sent, wanted, like, team)]
    done: list[list[Tensor]] = []
    for item in my_items:
        wholes = [torch.cat([next(pieces[rank]) for rank in range(ranks)], item.dim).to(p.dtype) for p in item.work.pieces]
        done.append(_listed(item.work.work(*wholes)))

    back = [
        [x for item, outputs in zip(my_items, done, strict=True) for x in _for_rank(item, outputs, rank, ranks)]
        for rank in range(ranks)
    ]
    shapes: list[list[torch.Size]] = [[] for _ in range(ranks)]
    for item, outputs in zip(items, outlook, strict=True):
        shapes[item.owner] += [x.shape for x in _for_rank(item, _listed(outputs), mine, ranks)]
    returned = [iter(tensors) for tensors in _exchange(back, shapes, like, team)]
    results: list[Any] = []
    for item, outputs in zip(items, outlook, strict=True):
        parts = [next(returned[item.owner]).to(x.dtype) for x in _listed(outputs)]
        results.append(tuple(parts) if isinstance(outputs, tuple) else parts[0])
    return results


def _for_rank(item: _Item, outputs: Sequence[Tensor], rank: int, ranks: int) -> list[Tensor]:
    """What a rank gets of the results: its piece of those like the parameter, the others whole."""
    sizes = chunks(item.layout.whole_shape[item.dim], ranks)
    start = sum(sizes[:rank])
    return [x.narrow(item.dim, start, sizes[rank]) if i < item.work.like else x for i, x in enumerate(outputs)]
