"""Chains that one of torch's fused kernels computes as a whole: plain Adam, AdamW, AMSGrad, SGD and Adagrad.

On a CPU, where links and dtypes are such, the parameters of a kind go to the kernel as one list, whatever their shapes, or
many tiny ones of a shape as one tensor; their state stays where every driver has it. Only whole chains are looked up: one link
more, and the chain runs as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.optim_wrapper.drivers.batch import Members
from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.hyperparameters import Absent, BoundLink
from gradchain.optim_wrapper.shards import elements
from gradchain.transforms import (
    L2,
    AMSGradMoments,
    InverseTimeDecay,
    LearningRate,
    Moments,
    Momentum,
    NesterovMomentum,
    Normalize,
    SumOfSquares,
    WeightDecay,
)
from gradchain.types import ParamInfo

Links = tuple[BoundLink, ...]
Tensors = list[Tensor]
Kernel = Callable[[Tensors, Tensors, list[Tensors], float, dict[str, Any]], None]  # steps so far; fields of all links


def _steps(params: Tensors, count: float) -> Tensors:
    """The number of this step, for each parameter, where the kernel looks for it."""
    return [torch.full((), count + 1, dtype=torch.float32, device=params[0].device)] * len(params)


def _adam(kernel: Any) -> Kernel:
    def run(params: Tensors, grads: Tensors, states: list[Tensors], count: float, fields: dict[str, Any]) -> None:
        (b1, b2), (first, second, *largest) = fields.pop("betas"), states
        rest = {"weight_decay": 0.0, **fields, "amsgrad": bool(largest), "maximize": False}
        kernel(params, grads, first, second, *(largest or [[]]), _steps(params, count), beta1=b1, beta2=b2, **rest)

    return run


def _sgd(nesterov: bool = False) -> Kernel:
    def run(params: Tensors, grads: Tensors, states: list[Tensors], count: float, fields: dict[str, Any]) -> None:
        rest: dict[str, Any] = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, **fields, "nesterov": nesterov}
        rest |= {"maximize": False, "is_first_step": count == 0}
        torch._fused_sgd_(params, grads, *(states or [[]]), **rest)  # pyright: ignore[reportPrivateImportUsage]

    return run


def _adagrad(params: Tensors, grads: Tensors, states: list[Tensors], count: float, fields: dict[str, Any]) -> None:
    rest = {"weight_decay": 0.0, "lr_decay": 0.0, **fields}
    torch._fused_adagrad_(params, grads, states[0], _steps(params, count), **rest, maximize=False)  # pyright: ignore


ADAM, ADAMW = _adam(torch._fused_adam_), _adam(torch._fused_adamw_)  # pyright: ignore[reportPrivateImportUsage]
KERNELS: dict[tuple[type, ...], Kernel] = {
    **{(moments, Normalize, LearningRate): ADAM for moments in (Moments, AMSGradMoments)},
    **{(moments, Normalize, WeightDecay, LearningRate): ADAMW for moments in (Moments, AMSGradMoments)},
    (LearningRate,): _sgd(),
    (Momentum, LearningRate): _sgd(),
    (NesterovMomentum, LearningRate): _sgd(nesterov=True),
    (SumOfSquares, Normalize, LearningRate): _adagrad,
    (SumOfSquares, Normalize, InverseTimeDecay, LearningRate): _adagrad,
}


def kernel_of(links: Links, info: ParamInfo, state: dict[str, Tensor]) -> Kernel | None:
    """The kernel that makes this chain's step on this parameter, or None."""
    param = info.param
    present = [link.transform for link in links if not isinstance(link.transform, Absent)]
    kinds = tuple(map(type, present))
    kernel = KERNELS.get(kinds) or (KERNELS.get(kinds[1:]) if kinds[:1] == (L2,) and WeightDecay not in kinds else None)
    if kernel is None or param.device.type != "cpu" or param.dtype != compute_dtype(param):
        return None
    if any(transform.window != (1, None) for transform in present) or any(key.endswith("/since") for key in state):
        return None
    form = (param.dtype, elements(param.detach()).stride())
    alike = all((state[key].dtype, state[key].stride()) == form for link in links for key in link.state_keys)
    return kernel if alike else None


def _fields(transform: Any) -> dict[str, Any]:
    return {key: getattr(transform, key) for key in transform.hyperparameters() if key != "initial_accumulator_value"}


def _number(value: Any) -> Any:
    """A field as kernels take it."""
    if isinstance(value, tuple):
        return tuple(map(_number, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return float(value)


@dataclass
class Fused(Members):
    """Parameters that one call of a kernel steps."""

    kernel: Kernel
    keys: Sequence[str]  # of what the kernel takes of their states
    stacked: bool  # whether the kernel takes all as one, in which they are the rows
    stacks: dict[str, Tensor]  # of a stack: the states
    buffer: Tensor | None  # the parameters, where they live in it, see flat
    scratch: Sequence[Tensor]  # memory for the parameters and their gradients, flat
    links: Links = ()
    fields: dict[str, Any] = field(default_factory=lambda: {})

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.strides = list(map(Tensor.stride, self.raw))
        self.scalars = [i for i, param in enumerate(self.raw) if param.dim() == 0]  # links see them, and keep state, as vectors
        self.vectors = list(map(elements, self.raw))
        self.taken = [[state[key] for state in self.states] for key in self.keys]
        if self.stacked:
            shape = (len(self.raw), *self.raw[0].shape)
            param, self.gathered = (flat[: math.prod(shape)].view(shape) for flat in self.scratch)
            self.param = param if self.buffer is None else self.buffer
            self.rows = list(self.param.unbind())
            self.vectors, self.scalars = [self.param], []
            self.taken = [[self.stacks[key]] for key in self.keys]

    def bind(self, links: Links) -> None:
        """Take the links as they are now."""
        if links is not self.links:
            self.links = links
            present = [link.transform for link in links if not isinstance(link.transform, Absent)]
            self.fields = {key: _number(value) for one in present for key, value in _fields(one).items()}

    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Any) -> Call:
        """The step of those that have a gradient."""
        mine = [grads[place] for place in self.places]
        there = [grad for grad in mine if grad is not None]
        if len(there) == len(mine):
            return Call(self, there, lr)
        present = [i for i, grad in enumerate(mine) if grad is not None]
        chosen = {name: [getattr(self, name)[i] for i in present] for name in ("infos", "states")}
        part = replace(self, **chosen, stacked=False, links=())
        part.bind(self.links)
        return Call(part, there, lr)


class Call:
    """The parameters in one step."""

    def __init__(self, home: Fused, grads: Tensors, lr: Tensor) -> None:
        self.home, self.grads, self.lr, self.label, self.links = home, grads, lr, home.label, home.links

    def measure(self, position: int) -> Sequence[tuple[ParamInfo, Tensor]]:
        return ()

    def meet(self, position: int, answers: dict[int, Any]) -> None: ...

    def brought(self) -> Tensors:
        """The gradients, copied where they are not in the form of what they step, or would be marked as written."""
        home, dtype = self.home, self.home.raw[0].dtype
        if home.stacked:
            if home.buffer is None:
                torch.stack(home.raw, out=home.param)
            return [torch.stack(self.grads, out=home.gathered)]
        odd = [type(grad) is not Tensor or grad.dtype != dtype or grad.requires_grad for grad in self.grads]
        if not any(odd) and list(map(Tensor.stride, self.grads)) == home.strides:
            return self.grads
        rows = zip(home.raw, self.grads, odd, strict=True)
        return [torch.empty_like(p).copy_(g) if bad or g.stride() != p.stride() else g for p, g, bad in rows]

    def write(self) -> None:
        """Run the kernel; or the chain on one parameter after the other, where the kernel means another thing."""
        home = self.home
        if home.fields.get("momentum") == 0:  # kernels then have no buffer, and do not damp
            for info, state in zip(home.infos, home.states, strict=True):
                Job(info, home.links, self.lr, state, home.used, home.label).advance(len(home.links), {})
        else:
            grads = self.brought()
            for i in home.scalars:
                grads[i] = elements(grads[i])
            home.kernel(home.vectors, grads, home.taken, home.count, dict(home.fields))
            if home.stacked and home.buffer is None:
                torch._foreach_copy_(home.raw, home.rows)  # pyright: ignore[reportPrivateImportUsage]
            elif home.stacked:
                torch.autograd.graph.increment_version(home.raw)  # written past them
            if len(home.infos) == len(home.steps):
                home.steps.add_(1)
            else:
                torch._foreach_add_([state["step"] for state in home.states], 1)  # pyright: ignore
        home.count += 1
