"""Small parameters moved into one buffer, of which each is then a view: they need not be copied together in each step.

Moved, at the first step, is what has its memory to itself. What shares it, with a view, a tied tensor, another process, stays
where it is. What else holds the memory of a moved parameter, an array made by ``numpy()`` say, no longer sees it, and
``torch.save`` of one such parameter writes the whole buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.shards import is_sharded
from gradchain.types import ChainError


def moved(params: Sequence[Tensor], buffers: Sequence[Tensor], everything: Sequence[Tensor]) -> Tensor | None:
    """The flat buffer whose parts the parameters are from now on; None where one of them cannot be moved.

    buffers: of earlier calls; where the parameters are the parts of one of them, they stay there. everything: all parameters of
    the optimizer, which may live in these buffers.
    """
    first = params[0]
    sizes = [_size(param) for param in params]
    if first.device.type != "cpu" and any(
        size % 16 for size in sizes
    ):  # kernels of other devices read several elements at once
        return None
    starts = [param.data_ptr() for param in params]
    offsets = [0, *accumulate(sizes)]
    for buffer in buffers:
        there = [buffer.data_ptr() + offset for offset in offsets]
        if starts == there[:-1] and _size(buffer) == offsets[-1] and buffer.dtype == first.dtype:
            return buffer
    ours = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    living = _by_storage(everything)
    for start, among in _by_storage(params).items():
        if not (_alone(living[start], 1) if start in ours else _alone(among)):
            return None
    buffer = torch.cat([param.detach().reshape(-1) for param in params])
    for param, part in zip(params, buffer.split([param.numel() for param in params]), strict=True):
        param.data = part.view(param.shape)
    return buffer


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _by_storage(params: Sequence[Tensor]) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for param in params:
        found.setdefault(param.untyped_storage().data_ptr(), []).append(param)
    return found


def _alone(params: Sequence[Tensor], more: int = 0) -> bool:
    """Whether nothing but these looks, as far as torch knows, at the memory they share, and each has a part of its own."""
    storage = params[0].untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)  # pyright: ignore[reportAttributeAccessIssue]
    ordered = sorted(params, key=Tensor.data_ptr)
    apart = all(behind.data_ptr() - param.data_ptr() >= _size(param) for param, behind in pairwise(ordered))
    return apart and not params[0].is_shared() and users == len(params) + more + 1  # ``storage`` here is one more


def check_flatten(flatten: bool, driver: str) -> None:
    """ChainError where flatten is no bool, or there are no stacks."""
    if not isinstance(flatten, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ChainError(f"flatten must be a bool; found {flatten!r}. Pass True or False.")
    if flatten and driver == "reference":
        raise ChainError("flatten=True is for drivers that stack; found driver='reference'. Use driver='eager' or 'compiled'.")


def refuse_flat_shards(flatten: bool, params: Any) -> None:
    """ChainError where a parameter that is cut over ranks would have to be moved. params: a group's, maybe with names."""
    for param in params if flatten else ():
        tensor = param[1] if isinstance(param, tuple) else param
        if isinstance(tensor, Tensor) and is_sharded(tensor):
            raise ChainError(
                f"flatten=True moves parameters into one buffer; found a DTensor of shape {tuple(tensor.shape)}, whose memory "
                "belongs to its mesh. Leave flatten out."
            )
