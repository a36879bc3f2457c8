"""CameAMP's dual momentum: a long and a short memory in one average, which takes the gradient's place from here on.

    L <- l L + u;   M = b1 L + a u;   V <- b2 V + (1 - b2) (M^2 + (a u)^2);   z = M / (sqrt(V) + eps)
    t < T    s <- y s + (1 - y) cos(M, z), column by column;   m = b M + ((1 + s) / 2 + eps) z
    t >= T   m = b_t M + (1 - b_t) z,   b_t = max(b1 y^t, 0.4)
    update <- m;   residual <- z - m;   regularized <- processed;   processed <- z

Reads    update, processed.   Writes  update, residual, processed, regularized.
State    long (L), square (V): like the parameter; similarity (s): one number a column.
Cost     4 reads, 6 writes, 3 sums a column.
Shapes   any; columns run along the first dimension, a vector is one column, and so is a tensor of 10,000 or more elements.
Units    a pure number.
Place    in the momentum's place: after the normalizing links, before PublishedConfidence.
Fields   momentum (b1), dual_beta (b2), long_term_beta (l), torque_beta (b): in [0, 1); beta1_decay (y): in (0, 1];
         alpha_mix_ratio (a): >= 0, None for (1 - b1) / (1 - l); torque_steps (T): >= 1; torque_eps (eps): >= 0.
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP (hinablue/sd-scripts, 803cb56), after AdamS, arXiv 2505.16363.
Differs  on LoRA's matrices the original multiplies the stored s by 1.2 at every step, so that it grows without bound: left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Layout, Transform

LARGE = 10_000  # elements of a tensor that is one column


class DualMomentumState(NamedTuple):
    long: Tensor
    square: Tensor
    similarity: Tensor


def _cosine(x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    shape = layout.shape(x)
    if len(shape) > 1 and math.prod(shape) >= LARGE:
        return layout.dot(x, y) / (layout.norm(x) * layout.norm(y)).clamp(min=1e-12)
    lengths = layout.sum(x * x, dim=0).sqrt() * layout.sum(y * y, dim=0).sqrt()
    return layout.sum(x * y, dim=0) / lengths.clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True, repr=False)
class DualMomentum(Transform[DualMomentumState]):
    """Average of two memories, normalized, under torque first and a falling decay later."""

    State = DualMomentumState
    reads = frozenset({"update", "processed"})
    writes = frozenset({"update", "residual", "processed", "regularized"})

    momentum: Annotated[float, "[0, 1)"] = 0.8
    beta1_decay: Annotated[float, "(0, 1]"] = 0.9995
    dual_beta: Annotated[float, "[0, 1)"] = 0.99
    long_term_beta: Annotated[float, "[0, 1)"] = 0.99
    alpha_mix_ratio: Annotated[float, "[0, inf)"] | None = None
    torque_steps: Annotated[int, "[1, inf)"] = 250
    torque_beta: Annotated[float, "[0, 1)"] = 0.9
    torque_eps: Annotated[float, "[0, inf)"] = 1e-30

    @override
    def init(self, param: Tensor) -> DualMomentumState:
        return DualMomentumState(torch.zeros_like(param), torch.zeros_like(param), torch.zeros_like(param[:1]))

    @override
    def update(self, carry: Carry, state: DualMomentumState, ctx: Context) -> tuple[Carry, DualMomentumState]:
        u, b1, y, eps = carry.update, self.momentum, self.beta1_decay, self.torque_eps
        a = (1 - b1) / (1 - self.long_term_beta) if self.alpha_mix_ratio is None else self.alpha_mix_ratio
        long = self.long_term_beta * state.long + u
        mixed = b1 * long + a * u
        square = self.dual_beta * state.square + (1 - self.dual_beta) * (mixed * mixed + (a * u) ** 2)
        z = torch.where(square > 0, mixed / (square.sqrt() + eps), torch.zeros_like(u))
        early = (ctx.step < self.torque_steps).to(u.device)
        s = torch.where(early, y * state.similarity + (1 - y) * _cosine(mixed, z, ctx.layout), state.similarity)
        b = (b1 * y**ctx.step).clamp(min=0.4)
        m = torch.where(early, self.torque_beta * mixed + ((1 + s) / 2 + eps) * z, b * mixed + (1 - b) * z)
        new = carry._replace(update=m, residual=z - m, processed=z, regularized=carry.signal)
        return new, DualMomentumState(long, square, s)

    @override
    def figures(self, state: DualMomentumState) -> dict[str, Tensor]:
        return {"similarity": state.similarity.sum() / max(1, state.similarity.numel())}
