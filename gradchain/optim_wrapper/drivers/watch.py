"""The tensors that a plan was made for: identity, number, address, shape, stride, dtype and device of each."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradchain.optim_wrapper.layouts import is_sharded

try:
    from torch._C._dynamo import guards
except ImportError:  # private to torch: without it the same is compared in Python, which takes longer
    guards = None
TensorGuards: Any = getattr(guards, "TensorGuards", None)


class Forms:
    """Class, dtype, device, shape and stride of some tensors, to be compared with those of others in one call."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._count = len(tensors)
        self._python = None if TensorGuards is not None else list(map(_form, tensors))
        self._guards: Any = None
        if TensorGuards is not None and tensors:
            sizes, strides = [list(x.shape) for x in tensors], [list(x.stride()) for x in tensors]
            self._guards = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)

    def fit(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors have the same forms, in the same order. False too where one of them is there twice."""
        if len(tensors) != self._count:
            return False
        if self._python is not None:
            return list(map(_form, tensors)) == self._python
        return self._guards is None or self._guards.check(*tensors)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return (type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride())


class Watch:
    """What an optimizer's parameters and state were, to find out whether they still are."""

    def __init__(self, optimizer: Optimizer, params: Sequence[Tensor], unfit: Collection[int] = ()) -> None:
        """unfit: ids of parameters without gradient that their state does not fit; they must not get one unnoticed."""
        self.params = list(params)
        self.owners, self.states = list(optimizer.state), list(optimizer.state.values())
        self.keys = list(chain.from_iterable(self.states))
        self.stateless = [i for i, param in enumerate(params) if not optimizer.state.get(param) or id(param) in unfit]
        self.tensors = list(_tensors(self.states))
        known = [*self.params, *self.tensors]
        self._sharded = [i for i, x in enumerate(known) if is_sharded(x)]
        self._forms: Forms | None = None
        try:
            self._addresses = self._found(known)
            self._forms = Forms(known)
        except (RuntimeError, TypeError, NotImplementedError):  # a state that is no tensor, a tensor without memory or strides
            self._forms = None
        self._gradients: tuple[list[int], Forms] | None = None
        self.all_train = all(param.requires_grad for param in params)  # the forms tell if that changes

    def holds(self, optimizer: Optimizer, params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> bool:
        """Whether parameters and states are the same ones, in the same memory and form, and none has to be made."""
        states = list(optimizer.state.values())
        if self._forms is None or not (same_objects(params, self.params) and same_objects(states, self.states)):
            return False
        if not same_objects(list(optimizer.state), self.owners) or list(chain.from_iterable(states)) != self.keys:
            return False
        known = [*params, *_tensors(states)]
        return (
            same_objects(known[len(self.params) :], self.tensors)
            and self._found(known) == self._addresses
            and self._forms.fit(known)
            and all(grads[i] is None for i in self.stateless)
        )

    def gradients_hold(self, grads: Sequence[Tensor | None]) -> bool:
        """Whether the gradients have the forms of those that were found fitting last."""
        if self._gradients is None:
            return False
        there, forms = self._gradients
        found = [grad for grad in grads if grad is not None]
        return len(found) == len(there) and all(grads[i] is not None for i in there) and forms.fit(found)

    def gradients_fit(self, grads: Sequence[Tensor | None]) -> None:
        """Remember the forms of gradients that fit their parameters."""
        there = [i for i, grad in enumerate(grads) if grad is not None]
        try:
            self._gradients = there, Forms([grad for grad in grads if grad is not None])
        except (RuntimeError, TypeError, NotImplementedError):  # no strides
            self._gradients = None

    def _found(self, known: Sequence[Tensor]) -> list[int]:
        """The addresses; those of a DTensor are of its local shard."""
        if not self._sharded:
            return list(map(Tensor.data_ptr, known))
        sharded = set(self._sharded)
        return [(getattr(x, "_local_tensor") if i in sharded else x).data_ptr() for i, x in enumerate(known)]  # noqa: B009


def watched(optimizer: Optimizer, unfit: Collection[int]) -> Watch:
    """A watch on what the optimizer has now, with gradients that have been found to fit."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    watch = Watch(optimizer, params, unfit)
    watch.gradients_fit([param.grad for param in params])
    return watch


def _tensors(states: Iterable[dict[str, Tensor]]) -> Iterable[Tensor]:
    return chain.from_iterable(map(dict[str, Tensor].values, states))


def same_objects(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two sequences hold the same objects, and as many."""
    return len(first) == len(second) and all(map(operator.is_, first, second))
