"""Relativistic speed limit: the step keeps its direction, and its length stays below c.

    r = |u| / c_t,  c_t = c min(1, t / W);   update <- u s(r) / r

    lorentz    s = r / sqrt(1 + r^2)        u read as momentum over mass, s as velocity in units of c
    tanh       s = tanh r                   u read as rapidity
    hard       s = min(r, 1)                ordinary clipping
    published  s = r sqrt(1 - r^2) below r = 1, tanh r from there on

SpeedLimit takes |u| over the whole parameter, ComponentSpeedLimit per element, GlobalSpeedLimit over all parameters.

Reads    update.   Writes  update.   State  factor: 0-d, s(r) / r of the last step (per element: none).
Cost     2 reads, 1 write, 1 norm a parameter (per element: none).
Shapes   any; 0-d and empty pass through.   Units  c: those of the parameter, per step.
Place    after LearningRate, and after what may enlarge the update (Cautious).
Fields   speed_limit (c): > 0; speed_profile; speed_warmup_steps (W): steps over which the limit rises to c, 0 for none.
Raises   ChainError if a field is out of range.
Source   relativistic-adam 1.0.0 (PyPI); Franca, Sulam, Robinson and Vidal, Conformal Symplectic and Relativistic Optimization,
         arXiv 1903.04100, for the physics of the lorentz profile.
Differs  the package knows the published profile only, which nearly cancels a step just below c and jumps to 0.76 at c; its
         "global" mode is per tensor; one non-finite element lets the whole tensor through unlimited, where here a step of
         non-finite length is not taken (per element: by those elements).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, ParamInfo, S, SharedTransform, Transform

Profile = Literal["lorentz", "tanh", "hard", "published"]


def _shrink(r: Tensor, profile: str) -> Tensor:
    """s(r) / r, which is 1 at r = 0."""
    if profile == "lorentz":
        return torch.hypot(torch.ones_like(r), r).reciprocal()
    if profile == "hard":
        return 1 / r.clamp(min=1)
    safe = torch.where(r > 0, r, 1)
    saturated = torch.where(r > 0, torch.tanh(safe) / safe, 1)
    if profile == "tanh":
        return saturated
    return torch.where(r < 1, (1 - r * r).clamp(min=0).sqrt(), saturated)


class SpeedState(NamedTuple):
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _Limit(Transform[S]):
    traits = frozenset({"caps"})
    off = {"speed_limit": torch.inf}

    speed_limit: Annotated[float, "(0, inf]"] = 0.1
    speed_profile: Profile = "lorentz"
    speed_warmup_steps: Annotated[int, "[0, inf)"] = 0

    def limited(self, u: Tensor, length: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """The limited update and the factor that it took."""
        c = self.speed_limit
        if self.speed_warmup_steps > 0:
            c = c * (ctx.step / self.speed_warmup_steps).clamp(max=1)
        factor, taken = _shrink(length / c, self.speed_profile), length.isfinite()
        return torch.where(taken, u * factor, torch.zeros_like(u)), torch.where(taken, factor, 0).to(u.dtype)


@dataclass(frozen=True, kw_only=True, repr=False)
class _WholeLimit(_Limit[SpeedState]):
    State = SpeedState

    @override
    def init(self, param: Tensor) -> SpeedState:
        return SpeedState(param.new_ones(()))

    @override
    def figures(self, state: SpeedState) -> Mapping[str, Tensor]:
        return {"factor": state.factor}


@dataclass(frozen=True, kw_only=True, repr=False)
class SpeedLimit(_WholeLimit):
    """Relativistic limit on the length of a parameter's step."""

    @override
    def update(self, carry: Carry, state: SpeedState, ctx: Context) -> tuple[Carry, SpeedState]:
        update, factor = self.limited(carry.update, ctx.layout.norm(carry.update), ctx)
        return carry._replace(update=update), SpeedState(factor)


@dataclass(frozen=True, kw_only=True, repr=False)
class ComponentSpeedLimit(_Limit[NoState]):
    """Relativistic limit on the size of each element's step."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        update, _ = self.limited(carry.update, carry.update.abs(), ctx)
        return carry._replace(update=update), state


@dataclass(frozen=True, kw_only=True, repr=False)
class GlobalSpeedLimit(_WholeLimit, SharedTransform[SpeedState]):
    """Relativistic limit on the length of the whole model's step."""

    @override
    def measure(self, carry: Carry, state: SpeedState, ctx: Context) -> Tensor:
        return ctx.layout.norm(carry.update)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        length = torch.linalg.vector_norm(torch.stack([one.to(measured[0].device, torch.float64) for one in measured]))
        return [length.to(one.device) for one in measured]

    @override
    def update(self, carry: Carry, state: SpeedState, ctx: Context) -> tuple[Carry, SpeedState]:
        update, factor = self.limited(carry.update, ctx.shared, ctx)
        return carry._replace(update=update), SpeedState(factor)
