"""Loading changes everything or nothing: new state is worked out first, and what a failure leaves half done is taken back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradchain.optim_wrapper.numbers import counts
from gradchain.optim_wrapper.shards import is_sharded, local


class NewState:
    """The state to go on with, ready to be put in place without anything that can fail.

    Values are copied into the live tensors where these fit, so that whoever holds them (a captured graph, a stack of rows)
    sees the loaded ones; elsewhere the state gets tensors of its own, never the saved ones.
    """

    def __init__(self, live: Mapping[Any, Mapping[str, Any]], states: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
        self._memory = {_memory(old) for own in live.values() for old in own.values() if isinstance(old, Tensor)}
        self._kept: list[Tensor] = []
        self._values: list[Tensor] = []
        self.states = {
            param: {key: self._settled(key, live.get(param, {}).get(key), value, param) for key, value in new.items()}
            for param, new in states.items()
        }

    def _settled(self, key: str, old: Any, value: Tensor, param: Tensor) -> Tensor:
        if not _writable(old, value):
            value = value.detach().clone()
            return value if counts(key) else value.to(param.device)
        if is_sharded(old) and is_sharded(value) and value.placements != old.placements:
            value = value.redistribute(old.device_mesh, old.placements)
        self._kept.append(local(old))
        self._values.append(local(value).clone() if _memory(value) in self._memory else local(value))
        return old

    @torch.no_grad()
    def write(self) -> None:
        """Copy the values into the live tensors, all in one call."""
        if self._kept:
            torch._foreach_copy_(self._kept, self._values)  # pyright: ignore[reportPrivateImportUsage]


def _memory(tensor: Tensor) -> int:
    return local(tensor).untyped_storage().data_ptr()


def _writable(old: Any, value: Tensor) -> bool:
    """Whether a value can be copied into a live tensor."""
    if not isinstance(old, Tensor) or old.shape != value.shape or old.dtype != value.dtype:
        return False
    piece = local(old)
    once = all(step != 0 or size < 2 for step, size in zip(piece.stride(), piece.shape, strict=True))
    return is_sharded(old) == is_sharded(value) and once and not (piece.is_inference() or piece.is_meta or piece.requires_grad)


class Before:
    """All of an optimizer that loading may change, to bring it back to the bit.

    Loading writes to no tensor before everything else is done. Hooks of users may do so, and may fail after that: where
    there are any, the values of parameters, state and groups are kept too.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._attributes = optimizer, dict(vars(optimizer))
        groups: list[dict[str, Any]] = optimizer.param_groups
        mutable: list[Any] = [*self._attributes.values(), *groups, *optimizer.state.values()]
        mutable += [group["params"] for group in groups]
        self._contents = [(one, one.copy()) for one in mutable if isinstance(one, list | dict)]
        hooks = (optimizer._optimizer_load_state_dict_pre_hooks, optimizer._optimizer_load_state_dict_post_hooks)
        tensors = {id(tensor): tensor for tensor in _tensors(optimizer)} if any(hooks) else {}
        self._values = [(local(tensor.detach()), local(tensor.detach()).clone()) for tensor in tensors.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Bring everything back."""
        vars(self._optimizer).clear()
        vars(self._optimizer).update(self._attributes)
        for one, content in self._contents:
            one.clear()
            (one.extend if isinstance(one, list) else one.update)(content)
        for tensor, value in self._values:
            if not tensor.is_inference():
                tensor.copy_(value)


def _tensors(optimizer: Optimizer) -> Iterator[Tensor]:
    for holder in (*optimizer.param_groups, *optimizer.state.values()):
        if isinstance(holder, Mapping):
            yield from (value for value in holder.values() if isinstance(value, Tensor))
    for group in optimizer.param_groups:
        yield from group["params"]
