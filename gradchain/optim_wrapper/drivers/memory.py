"""Which parameters share memory with others, or with other processes: they are stepped in place, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gradchain.optim_wrapper.layouts import is_sharded
from gradchain.types import ParamInfo

HELD = 1 << 20  # elements of parameters whose results a driver keeps until all have been worked out


class _Range(NamedTuple):
    start: int
    stop: int
    place: int


class Owner(Protocol):
    """A parameter with its state."""

    @property
    def info(self) -> ParamInfo: ...
    @property
    def state(self) -> Mapping[str, Tensor]: ...


def overlapping(owners: Iterable[Owner]) -> set[int]:
    """Places of the parameters whose memory, or whose state's, overlaps with that of another one.

    A gather and a scatter of them would keep one of their updates. The range of a tensor goes from its first element to its
    last. DTensors are left out: their memory belongs to their mesh.
    """
    ranges: dict[torch.device, list[_Range]] = {}
    for owner in owners:
        for tensor in (owner.info.param, *owner.state.values()):
            if (found := _range(tensor)) is not None:
                device, start, stop = found
                ranges.setdefault(device, []).append(_Range(start, stop, owner.info.place))
    places: set[int] = set()
    for among in ranges.values():
        reach: _Range | None = None  # the one that ends last, of those that start earlier
        for one in sorted(among) if len(among) > 1 else ():
            if reach is not None and one.start < reach.stop and one.place != reach.place:
                places |= {one.place, reach.place}
            reach = one if reach is None or one.stop > reach.stop else reach
    return places


def _range(tensor: Tensor) -> tuple[torch.device, int, int] | None:
    """(device, addresses of the first byte and behind the last); None for what has no memory that torch knows of."""
    if is_sharded(tensor) or tensor.is_meta or tensor.numel() == 0:
        return None
    try:
        start = tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor subclass without memory of its own
        return None
    last = sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.device, start, start + int(last + 1) * tensor.element_size()


def unaliased(values: Sequence[Tensor], written: Sequence[Tensor]) -> list[Tensor]:
    """New values of states, cloned if they view the memory of a state that is about to be written.

    A link may return the old value of one state as the new value of another, or a transposed view of it.
    """
    if torch.compiler.is_compiling():  # a graph has no storages to compare, and the compiler leaves out what is not needed
        return [value.clone() for value in values]
    storages = {tensor.untyped_storage()._cdata for tensor in written}
    return [value.clone() if value.untyped_storage()._cdata in storages else value for value in values]


def is_shared(param: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Whether other processes may see, and step, the parameter's state (Hogwild), which then has to stay where it is."""
    return any(_in_shared_memory(value) for value in (param, *state.values()))


def _in_shared_memory(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not is_sharded(tensor) and tensor.is_shared()


def few(owners: Iterable[Owner]) -> bool:
    """Whether the results of a step of these parameters take little memory."""
    return sum(owner.info.param.numel() for owner in owners) <= HELD
