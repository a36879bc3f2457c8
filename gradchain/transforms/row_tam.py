"""Torque-aware damping row by row: each row of a tensor has its own angle to the momentum.

    s_i <- y s_i + (1 - y) <m_i, g_i> / (|m_i| |g_i|);   d = (1 + s) / 2;   update <- (eps + d) g;   m <- b m + update

Reads    update.   Writes  update.   State  momentum: like the parameter; similarity: like it, with a last axis of 1.
Cost     3 reads, 2 writes, 3 sums a row.
Shapes   any; rows run along the last axis, and a vector is one row.   Units  those of the gradient.
Place    as TAM: before a momentum link.
Fields   tam_beta (b): decay of the momentum that gradients are compared with, tam_decay (y): of the similarity, each in [0, 1);
         tam_eps (eps): smallest factor, >= 0.
Raises   ChainError if a field is out of range.
Source   Malviya et al., Torque-Aware Momentum, arXiv 2412.18790; by rows as Automagic CameAMP (hinablue/sd-scripts) offers it
         for large tensors.
Differs  the paper's similarity is per parameter: that is TAM. CameAMP's in-place form puts the damped gradient in the
         similarity's place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class RowTAMState(NamedTuple):
    momentum: Tensor
    similarity: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class RowTAM(Transform[RowTAMState]):
    """Damping of each row of the gradient by its angle to the momentum."""

    alias = "row_tam"
    State = RowTAMState

    tam_beta: Annotated[float, "[0, 1)"] = 0.9
    tam_decay: Annotated[float, "[0, 1)"] = 0.9
    tam_eps: Annotated[float, "[0, inf)"] = 1e-8

    @override
    def init(self, param: Tensor) -> RowTAMState:
        return RowTAMState(torch.zeros_like(param), torch.zeros_like(param[..., :1]))

    @override
    def figures(self, state: RowTAMState) -> Mapping[str, Tensor]:
        return {"mean similarity": state.similarity.sum() / max(1, state.similarity.numel())}

    @override
    def update(self, carry: Carry, state: RowTAMState, ctx: Context) -> tuple[Carry, RowTAMState]:
        g, m, layout = carry.update, state.momentum, ctx.layout
        lengths = layout.sum(m * m, dim=-1).sqrt() * layout.sum(g * g, dim=-1).sqrt()
        cosine = layout.sum(m * g, dim=-1) / torch.where(lengths > 0, lengths, 1)
        s = (self.tam_decay * state.similarity + (1 - self.tam_decay) * cosine).to(g.dtype)
        damped = (self.tam_eps + (1 + s) / 2) * g
        return carry._replace(update=damped), RowTAMState(self.tam_beta * m + damped, s)
