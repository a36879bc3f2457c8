"""Small parameters moved into one buffer, of which each is then a view: a stack of them need not be copied together.

Moved, at the first step, is what has its memory to itself. What shares it, with a view, a tied tensor, another process, stays
where it is. What else holds the memory of a moved parameter, an array made by ``numpy()`` say, no longer sees it, and
``torch.save`` of one such parameter writes the whole buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradchain.optim_wrapper.shards import is_sharded
from gradchain.types import ChainError


def moved(params: Sequence[Tensor], buffers: Sequence[Tensor], everything: Sequence[Tensor]) -> Tensor | None:
    """The buffer whose rows the parameters are from now on; None where one of them cannot be moved.

    buffers: of earlier calls; where the parameters are the rows of one of them, they stay there. everything: all parameters of
    the optimizer, which may live in these buffers.
    """
    first = params[0]
    size = first.numel() * first.element_size()
    if first.device.type != "cpu" and size % 16:  # kernels of other devices read several elements at once
        return None
    starts = [param.data_ptr() for param in params]
    for buffer in buffers:
        if starts == [buffer.data_ptr() + i * size for i in range(len(buffer))] and buffer.dtype == first.dtype:
            return buffer
    ours = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    living = _by_storage(everything)
    for start, among in _by_storage(params).items():
        if not (_alone(living[start], size, 1) if start in ours else _alone(among, size)):
            return None
    buffer = torch.stack([param.detach() for param in params])
    for param, row in zip(params, buffer.unbind(), strict=True):
        param.data = row
    return buffer


def _by_storage(params: Sequence[Tensor]) -> dict[int, list[Tensor]]:
    found: dict[int, list[Tensor]] = {}
    for param in params:
        found.setdefault(param.untyped_storage().data_ptr(), []).append(param)
    return found


def _alone(params: Sequence[Tensor], size: int, more: int = 0) -> bool:
    """Whether nothing but these looks, as far as torch knows, at the memory they share, and each has a part of its own."""
    storage = params[0].untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)  # pyright: ignore[reportAttributeAccessIssue]
    starts = sorted(param.data_ptr() for param in params)
    apart = all(behind - start >= size for start, behind in pairwise(starts))
    return apart and not params[0].is_shared() and users == len(params) + more + 1  # ``storage`` here is one more


def check_flatten(flatten: bool, driver: str) -> None:
    """ChainError where flatten is no bool, or there are no stacks."""
    if not isinstance(flatten, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ChainError(f"flatten must be a bool; found {flatten!r}. Pass True or False.")
    if flatten and driver == "loop":
        raise ChainError("flatten=True is for drivers that stack; found driver='loop'. Use driver='stacked' or 'compiled'.")


def refuse_flat_shards(flatten: bool, params: Any) -> None:
    """ChainError where a parameter that is cut over ranks would have to be moved. params: a group's, maybe with names."""
    for param in params if flatten else ():
        tensor = param[1] if isinstance(param, tuple) else param
        if isinstance(tensor, Tensor) and is_sharded(tensor):
            raise ChainError(
                f"flatten=True moves parameters into one buffer; found a DTensor of shape {tuple(tensor.shape)}, whose memory "
                "belongs to its mesh. Leave flatten out."
            )
