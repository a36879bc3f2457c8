"""CameAMP's momentum: torque-aware at first, an average with a falling decay later, in one buffer.

    n(x) = x / |x|, column by column;   b_t = max(momentum decay^t, floor)
    t < T    s <- 0.9 s + 0.1 n(m) n(u);   m <- b m + ((1 + e s) / 2 + eps) u        e = 1 outside matrices
    t >= T   m <- b_t m + (1 - b_t) u
    update <- m;   residual <- u - m

Reads    update.   Writes  update, residual.   State  average (m), torque (s): like the parameter.
Cost     3 reads, 4 writes, 2 sums a column.
Shapes   any; columns run along the first dimension, a vector is one column.   Units  those of update.
Place    after the normalizing links, before PublishedConfidence.
Fields   momentum, momentum_floor (floor), torque_beta (b): in [0, 1); beta1_decay (decay): in (0, 1]; torque_steps (T): first
         step of the average, >= 1; torque_emphasis (e): on matrices, >= 0; torque_eps (eps): >= 0.
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP (hinablue/sd-scripts), flat versions, after Malviya et al., Torque-Aware Momentum, arXiv 2412.18790.
Differs  products of normalized columns are no cosine, and a sum that becomes an average makes the step ten times smaller from
         one step to the next. Phase(TAM()) in front of FallingMomentum is the sound form, and needs no common buffer. Here the
         two are one link because they have one buffer: a link's state is its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Layout, Transform


class TorqueMomentumState(NamedTuple):
    average: Tensor
    torque: Tensor


def _columns(x: Tensor, layout: Layout) -> Tensor:
    """x with columns of length one; columns of zeros stay."""
    return x / layout.sum(x * x, dim=0).sqrt().clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True, repr=False)
class TorqueMomentum(Transform[TorqueMomentumState]):
    """Torque-aware sum of the updates, then their average."""

    State = TorqueMomentumState
    writes = frozenset({"update", "residual"})

    momentum: Annotated[float, "[0, 1)"] = 0.8
    beta1_decay: Annotated[float, "(0, 1]"] = 0.9995
    momentum_floor: Annotated[float, "[0, 1)"] = 0.4
    torque_steps: Annotated[int, "[1, inf)"] = 250
    torque_beta: Annotated[float, "[0, 1)"] = 0.9
    torque_emphasis: Annotated[float, "[0, inf)"] = 1.0
    torque_eps: Annotated[float, "[0, inf)"] = 1e-30

    @override
    def init(self, param: Tensor) -> TorqueMomentumState:
        return TorqueMomentumState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: TorqueMomentumState, ctx: Context) -> tuple[Carry, TorqueMomentumState]:
        u, m, layout = carry.update, state.average, ctx.layout
        early = (ctx.step < self.torque_steps).to(u.device)
        s = 0.9 * state.torque + 0.1 * _columns(m, layout) * _columns(u, layout)
        e = self.torque_emphasis if u.dim() == 2 else 1.0
        b = (self.momentum * self.beta1_decay**ctx.step).clamp(min=self.momentum_floor)
        new = torch.where(early, self.torque_beta * m + ((1 + e * s) / 2 + self.torque_eps) * u, b * m + (1 - b) * u)
        return carry._replace(update=new, residual=u - new), TorqueMomentumState(new, torch.where(early, s, state.torque))

    @override
    def figures(self, state: TorqueMomentumState) -> dict[str, Tensor]:
        return {"torque": state.torque.sum() / max(1, state.torque.numel())}
