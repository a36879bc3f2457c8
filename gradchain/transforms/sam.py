"""Sharpness-aware minimization: the gradient is taken where the loss is highest nearby, and the step from where one was.

    e = rho T^2 g / (|T g| + d);   g <- gradient at param + e          |.| over all parameters
    SAM    T = 1,  d = 1e-12        ASAM   T = |param| + eta for weights, 1 for biases,  d = 1e-16

Reads    grad (ASAM: and param).   Writes  nothing.   State  none.
Cost     a second closure, and a copy of the parameters while it runs.
Shapes   any; empty parameters contribute nothing.   Units  rho: those of the parameter (ASAM: a pure number).
Place    first. The link asks ``step`` for a closure, which runs twice; the links behind it see the second gradient.
         BatchNorm's running statistics take part in both runs: freeze them in one.
Fields   rho: length of e, >= 0, 0 for none; ASAM: asam_eta (eta), >= 0, added to |param|.
Raises   ChainError if a field is out of range, or ``step`` is called without a closure.
Source   Foret et al., Sharpness-Aware Minimization, arXiv 2010.01412; Kwon et al., ASAM, arXiv 2102.11600, with its code.
Differs  those copies of the parameters are rebound afterwards, ours are copied back, to the bit. ASAM's weights are those with
         "weight" in their name, as there; without names, those of two or more dimensions. Groups may have their own rho.
         Programs whose adaptive form has no eta never move a weight of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform

NEVER = 2**62  # a step that no run reaches: in an ordinary pass the link does not meet


@dataclass(frozen=True, kw_only=True, repr=False)
class _Ascent(SharedTransform):
    reads = frozenset({"grad"})
    writes = frozenset()
    traits = frozenset({"perturbs"})
    off = {"rho": 0.0}

    rho: Annotated[float, "[0, inf)"] = 0.05

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return NEVER, 1

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry, state


@dataclass(frozen=True, kw_only=True, repr=False)
class SAM(_Ascent):
    """Gradients at the top of a ball around the parameters."""

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        return ctx.layout.norm(carry.grad)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        return [1 / (_length(measured).to(one.device) + 1e-12) for one in measured]

    def perturbation(self, carry: Carry, ctx: Context) -> Tensor:
        return self.rho * ctx.shared * carry.grad


@dataclass(frozen=True, kw_only=True, repr=False)
class ASAM(_Ascent):
    """Gradients at the top of an ellipsoid that scales with the weights."""

    reads = frozenset({"grad", "param"})

    rho: Annotated[float, "[0, inf)"] = 0.5
    asam_eta: Annotated[float, "[0, inf)"] = 0.01

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        stretched = (carry.param.abs() + self.asam_eta) * carry.grad
        return torch.stack([ctx.layout.norm(stretched), ctx.layout.norm(carry.grad)])

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        stretch = [_is_weight(info) for info in infos]
        length = _length([one[0] if yes else one[1] for one, yes in zip(measured, stretch, strict=True)])
        return [(1 / (length.to(one.device) + 1e-16), yes) for one, yes in zip(measured, stretch, strict=True)]

    def perturbation(self, carry: Carry, ctx: Context) -> Tensor:
        factor, stretch = ctx.shared
        t = carry.param.abs() + self.asam_eta if stretch else 1.0
        return self.rho * factor * t * t * carry.grad


def _length(norms: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([one.to(norms[0].device, torch.float64) for one in norms]))


def _is_weight(info: ParamInfo) -> bool:
    named = not info.name.replace(".", "").isdigit()
    return "weight" in info.name if named else info.param.dim() >= 2
