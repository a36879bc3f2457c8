"""Parameters that are DTensors: links see this rank's piece, the optimizer keeps state that torch can reshard."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradchain.optim_wrapper.collectives import cut
from gradchain.optim_wrapper.layouts import Pieces, Sharded, is_sharded


def elements(tensor: Tensor) -> Tensor:
    """A parameter or gradient as links see its elements: complex numbers as real pairs, 0-d as one element."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor if tensor.dim() else tensor.reshape(1)


def local(tensor: Tensor) -> Tensor:
    """This rank's piece of a DTensor, without a copy; any other tensor as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All elements of a DTensor; any other tensor as it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def view_of(param: Tensor) -> Callable[[Tensor], Tensor]:
    """What links see of a parameter and its state: this rank's piece, or everything where it is cut in strides."""
    layout = layout_of(param, local(param))
    return local if layout is None or layout.plain else whole


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """This rank's piece of a whole value, cut as a DTensor is."""
    if not is_sharded(like):
        return value
    value = torch.view_as_complex(value) if like.is_complex() else value
    return elements(cut(value.reshape(like.shape), like.device_mesh, like.placements))


def aligned(grad: Tensor, param: Tensor) -> Tensor:
    """A gradient, cut as the parameter is."""
    if is_sharded(param) and is_sharded(grad) and grad.placements != param.placements:
        return grad.redistribute(param.device_mesh, param.placements)
    return grad


def layout_of(param: Tensor, piece: Tensor) -> Sharded | None:
    """The layout of a DTensor whose elements on this rank links see as ``piece``; None for other tensors."""
    if not is_sharded(param):
        return None
    whole = torch.Size([*(param.shape or (1,)), *piece.shape[max(1, param.dim()) :]])  # complex numbers: a pair at the end
    return Sharded(param, whole, piece.shape)


def cut_dims(make: Callable[[Tensor], tuple[Tensor, ...]], layout: Pieces) -> list[set[int]]:
    """For each state that ``make`` gives, its dimensions that follow those of the parameter which are cut."""
    shapes: list[list[torch.Size]] = []
    for grown in (None, *layout.cuts):
        extents = [size + (d == grown) for d, size in enumerate(layout.whole_shape)]
        shapes.append([s.shape for s in make(torch.empty(extents, device="meta"))])
    plain, *grown_shapes = shapes
    followed: list[set[int]] = [set() for _ in plain]
    for dim, grown in zip(layout.cuts, grown_shapes, strict=True):
        for i, (before, after) in enumerate(zip(plain, grown, strict=True)):
            if dim < len(before) and len(before) == len(after) and before[dim] != after[dim]:
                followed[i].add(dim)
    return followed


def sharded_state(make: Callable[[Tensor], tuple[Tensor, ...]], piece: Tensor, layout: Sharded) -> list[Tensor]:
    """A link's state for one parameter: DTensors cut like the parameter where they follow it, replicated where they do not.

    make: the link's ``init``. An empty piece is filled up for it, so that statistics over rows have their shape.
    """
    from torch.distributed.tensor import DTensor, Replicate

    filled = piece
    for dim in layout.cuts:
        if filled.shape[dim] == 0:
            filled = filled.new_zeros([1 if d == dim else size for d, size in enumerate(filled.shape)])
    made: list[Tensor] = []
    for state, followed in zip(make(filled), cut_dims(make, layout), strict=True):
        for dim in followed:
            state = state.narrow(dim, 0, piece.shape[dim])
        if state.dim() == 0:
            made.append(state)  # the same number on every rank
            continue
        placements = [p if getattr(p, "dim", None) in followed else Replicate() for p in layout.placements]
        shape = torch.Size([layout.whole_shape[d] if d in followed else size for d, size in enumerate(state.shape)])
        stride = torch.empty(shape, device="meta").stride()
        made.append(DTensor.from_local(state.contiguous(), layout.mesh, placements, shape=shape, stride=stride))
    return made


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A saved value, cut as the live one is: a DTensor with its placements, or a plain tensor."""
    if not is_sharded(like):
        return value.full_tensor() if is_sharded(value) else value
    if is_sharded(value) or value.shape != like.shape:  # where the shape is wrong, it is for the caller to say so
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
