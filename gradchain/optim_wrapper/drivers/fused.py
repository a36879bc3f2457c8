"""Chains that one of torch's fused kernels computes as a whole: plain Adam, AdamW, AMSGrad, SGD and Adagrad.

Where links and dtypes are such, the parameters of a kind go to the kernel as one list, whatever their shapes, or on a CPU many
tiny ones of a shape as one tensor; their state stays where every driver has it. Only whole chains are looked up: one link more,
and the chain runs as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from gradchain.optim_wrapper.drivers.flow import compute_dtype
from gradchain.optim_wrapper.drivers.loop import Job
from gradchain.optim_wrapper.drivers.program import Split, placed
from gradchain.optim_wrapper.drivers.step import Members, Step
from gradchain.optim_wrapper.hyperparameters import Absent, BoundLink
from gradchain.optim_wrapper.rows import Row
from gradchain.optim_wrapper.shards import elements, local
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
Values = dict[str, Any]  # fields of all links
Run = Callable[[Tensors, Tensors, list[Tensors], Tensors, bool, Values], None]  # number of the step, whether it is the first


class Kernel(NamedTuple):
    """A whole chain in one call."""

    op: str  # of torch's
    run: Run

    def works_on(self, device: torch.device) -> bool:
        return device.type in KEYS and torch._C._dispatch_has_kernel_for_dispatch_key(self.op, KEYS[device.type])


KEYS = {"cpu": "CPU", "cuda": "CUDA"}  # devices on which kernels are known to mean what the chains mean, as torch dispatches


def _adam(op: str) -> Kernel:
    kernel = getattr(torch, op)

    def run(params: Tensors, grads: Tensors, states: list[Tensors], steps: Tensors, first: bool, fields: Values) -> None:
        (b1, b2), (mean, square, *largest) = fields.pop("betas"), states
        rest = {"weight_decay": 0.0, **fields, "amsgrad": bool(largest), "maximize": False}
        kernel(params, grads, mean, square, *(largest or [[]]), steps, beta1=b1, beta2=b2, **rest)

    return Kernel(f"aten::{op}", run)


def _sgd(nesterov: bool = False) -> Kernel:
    def run(params: Tensors, grads: Tensors, states: list[Tensors], steps: Tensors, first: bool, fields: Values) -> None:
        rest: Values = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, **fields, "nesterov": nesterov}
        rest |= {"maximize": False, "is_first_step": first and bool(states)}
        torch._fused_sgd_(params, grads, *(states or [[]]), **rest)  # pyright: ignore[reportPrivateImportUsage]

    return Kernel("aten::_fused_sgd_", run)


def _adagrad(params: Tensors, grads: Tensors, states: list[Tensors], steps: Tensors, first: bool, fields: Values) -> None:
    rest = {"weight_decay": 0.0, "lr_decay": 0.0, **fields}
    torch._fused_adagrad_(params, grads, states[0], steps, **rest, maximize=False)  # pyright: ignore


ADAM, ADAMW, ADAGRAD = _adam("_fused_adam_"), _adam("_fused_adamw_"), Kernel("aten::_fused_adagrad_", _adagrad)
KERNELS: dict[tuple[type, ...], Kernel] = {
    **{(moments, Normalize, LearningRate): ADAM for moments in (Moments, AMSGradMoments)},
    **{(moments, Normalize, WeightDecay, LearningRate): ADAMW for moments in (Moments, AMSGradMoments)},
    (LearningRate,): _sgd(),
    (Momentum, LearningRate): _sgd(),
    (NesterovMomentum, LearningRate): _sgd(nesterov=True),
    (SumOfSquares, Normalize, LearningRate): ADAGRAD,
    (SumOfSquares, Normalize, InverseTimeDecay, LearningRate): ADAGRAD,
}


def kernel_of(row: Row) -> Kernel | None:
    """The kernel that makes this chain's step on this parameter, or None."""
    links, param, state = row.links, row.info.param, row.state
    present = [link.transform for link in links if not isinstance(link.transform, Absent)]
    kinds = tuple(map(type, present))
    kernel = KERNELS.get(kinds) or (KERNELS.get(kinds[1:]) if kinds[:1] == (L2,) and WeightDecay not in kinds else None)
    if kernel is None or not kernel.works_on(param.device) or param.dtype != compute_dtype(param):
        return None
    if row.lr.is_cuda and param.dtype != torch.float32:  # kernels take a learning rate on the GPU in single precision
        return None
    if any(transform.window != (1, None) for transform in present) or any(key.endswith("/since") for key in state):
        return None
    form = (param.dtype, elements(local(param.detach())).stride())
    alike = all((state[key].dtype, local(state[key]).stride()) == form for link in links for key in link.state_keys)
    return kernel if alike else None


def _fields(transform: Any) -> dict[str, Any]:
    return {key: getattr(transform, key) for key in transform.hyperparameters() if key != "initial_accumulator_value"}


def _number(value: Any, device: torch.device) -> Any:
    """A field as kernels take it: a number, unless it is kept on a GPU."""
    if isinstance(value, tuple):
        return tuple(_number(one, device) for one in value)  # pyright: ignore[reportUnknownVariableType]
    return value.to(device, torch.float32) if isinstance(value, Tensor) and value.is_cuda else float(value)


@dataclass
class Fused(Members):
    """Parameters that one call of a kernel steps."""

    kernel: Kernel
    keys: Sequence[str]  # of what the kernel takes of their states
    stacked: bool  # whether the kernel takes all as one, in which they are the rows
    stacks: dict[str, Tensor]  # of a stack: the states
    buffer: Tensor | None  # the parameters, where they live in it, see flat
    scratch: Sequence[Tensor]  # memory for the parameters and their gradients, flat
    split: Split = field(default_factory=lambda: Split(()))
    fields: dict[str, Any] = field(default_factory=lambda: {})

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.strides = list(map(Tensor.stride, self.raw))
        self.scalars = [i for i, param in enumerate(self.raw) if param.dim() == 0]  # links see them, and keep state, as vectors
        self.vectors = list(map(elements, self.raw))
        self.taken = [[local(state[key]) for state in self.states] for key in self.keys]
        if self.stacked:
            shape = (len(self.raw), *self.raw[0].shape)
            param, self.gathered = (flat[: math.prod(shape)].view(shape) for flat in self.scratch)
            self.param = param if self.buffer is None else self.buffer.view(shape)
            self.rows = list(self.param.unbind())
            self.vectors, self.scalars = [self.param], []
            self.taken = [[self.stacks[key]] for key in self.keys]

    def bind(self, split: Split) -> None:
        """Take the links as they are now."""
        if split is not self.split:
            self.split = split
            present = [link.transform for link in split.links if not isinstance(link.transform, Absent)]
            device = self.raw[0].device
            self.fields = {key: _number(value, device) for one in present for key, value in _fields(one).items()}

    def is_direct(self) -> bool:
        return True

    def repeats(self) -> bool:
        """Whether the kernel takes the gradients as they are."""
        grads = [info.param.grad for info in self.infos]
        there = [grad for grad in grads if grad is not None]
        fit = not self.stacked and len(there) == len(grads) == len(self.steps) and self.agrees() and self.count > 0
        return fit and fits_kernel(self, there)

    def keep(self, lr: float) -> None:
        """Take the numbers of the coming steps."""
        self.number = torch.zeros((), dtype=torch.float32, device="cpu")
        self.numbers = [self.number] * len(self.raw)

    def repeat(self, grads: Sequence[Tensor | None], step: Step) -> None:
        """Take a step like the last one, with gradients by place."""
        mine: list[Any] = [grads[place] for place in self.places]
        for i in self.scalars:
            mine[i] = elements(mine[i])
        self.number.fill_(self.count + 1)
        self.kernel.run(self.vectors, mine, self.taken, self.numbers, False, dict(self.fields))
        self.advance()

    def agrees(self) -> bool:
        """Whether the kernel means what the chain means in the coming step, and where it is repeated."""
        others = [value for key, value in self.fields.items() if key != "lr"]
        if any(isinstance(value, Tensor) for value in tree_leaves(others)):
            return False  # kernels do not look for it on the GPU
        if self.count == 0 and self.steps.is_cuda:
            return False  # what a kernel does in a first step is not to be captured
        return self.fields.get("momentum") != 0  # without it kernels have no buffer, and do not damp

    def batch(self, grads: Sequence[Tensor | None], lr: Tensor, step: Step) -> Call:
        """The step of those that have a gradient."""
        mine = [grads[place] for place in self.places]
        there = [grad for grad in mine if grad is not None]
        if len(there) == len(mine):
            return Call(self, there, lr, step)
        present = [i for i, grad in enumerate(mine) if grad is not None]
        chosen = {name: [getattr(self, name)[i] for i in present] for name in ("infos", "states")}
        part = replace(self, **chosen, stacked=False)
        return Call(part, there, lr, step)


def _is_odd(grad: Tensor, dtype: torch.dtype) -> bool:
    """Whether a gradient cannot be given to a kernel, or would be marked as written."""
    return type(grad) is not Tensor or grad.dtype != dtype or grad.requires_grad


def fits_kernel(home: Fused, grads: Sequence[Tensor]) -> bool:
    """Whether a kernel can take all gradients as they are."""
    dtype = home.raw[0].dtype
    return not any(_is_odd(grad, dtype) for grad in grads) and list(map(Tensor.stride, grads)) == home.strides


class Call:
    """The parameters in one step."""

    def __init__(self, home: Fused, grads: Tensors, lr: Tensor, step: Step) -> None:
        self.home, self.grads, self.lr, self.step = home, grads, lr, step
        self.label, self.links = home.label, home.split.links

    def measure(self, position: int) -> Sequence[tuple[ParamInfo, Tensor]]:
        return ()

    def meet(self, position: int, answers: dict[int, Any]) -> None: ...

    def prepare(self) -> None: ...

    def brought(self) -> Tensors:
        """The gradients, copied where they are not in the form of what they step, or would be marked as written."""
        home, dtype = self.home, self.home.raw[0].dtype
        if home.stacked:
            if home.buffer is None:
                torch.stack(home.raw, out=home.param)
            return [torch.stack(self.grads, out=home.gathered)]
        if fits_kernel(home, self.grads):
            return self.grads
        odd = [_is_odd(grad, dtype) for grad in self.grads]
        rows = zip(home.raw, self.grads, odd, strict=True)
        return [torch.empty_like(p).copy_(g) if bad or g.stride() != p.stride() else g for p, g, bad in rows]

    def number(self) -> Tensor:
        """Of this step, where the kernel looks for it."""
        home, device = self.home, self.home.raw[0].device
        if home.steps.is_cuda:
            return self.step.coming(home).to(device, torch.float32)
        return torch.full((), home.count + 1, dtype=torch.float32, device=device)

    def write(self) -> None:
        """Run the kernel; or the chain on one parameter after the other, where the kernel means another thing."""
        home = self.home
        if not home.agrees():
            links = placed(self.links, home.raw[0].device)
            for info, state in zip(home.infos, home.states, strict=True):
                Job(info, links, self.lr, state, home.used, home.label).advance(len(links), {})
        else:
            grads = self.brought()
            for i in home.scalars:
                grads[i] = elements(grads[i])
            numbers = [self.number()] * len(grads)
            home.kernel.run(home.vectors, grads, home.taken, numbers, home.count == 0, dict(home.fields))
            if home.stacked and home.buffer is None:
                torch._foreach_copy_(home.raw, home.rows)  # pyright: ignore[reportPrivateImportUsage]
            elif home.stacked:
                torch.autograd.graph.increment_version(home.raw)  # written past them
            if len(home.infos) == len(home.steps):
                home.steps.add_(1)
            else:
                torch._foreach_add_([state["step"] for state in home.states], 1)  # pyright: ignore
        home.count += 1
        home.expected.copy_(home.steps)
