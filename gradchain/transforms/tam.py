"""Torque-aware momentum's damping: gradients that turn away from the momentum count less.

    s <- y s + (1 - y) <m, g> / (|m| |g|);   d = (1 + s) / 2;   update <- (eps + d) g;   m <- b m + update

Reads    update.   Writes  update.   State  momentum: like the parameter; similarity: 0-d.
Cost     3 reads, 2 writes, 3 sums a parameter.
Shapes   any; empty passes through.   Units  those of the gradient; between eps and 1 + eps of it.
Place    before Moments or Momentum. Before Momentum(momentum=b) it is the paper's TAM.
Fields   tam_beta (b): decay of the momentum that gradients are compared with, tam_decay (y): of the similarity, each in [0, 1);
         tam_eps (eps): smallest factor, >= 0.
Raises   ChainError if a field is out of range.
Source   Malviya et al., Torque-Aware Momentum, arXiv 2412.18790. The similarity is per parameter.
Differs  pytorch_optimizer and the programs copied from it multiply normalized columns element by element, which is no cosine.
         AdaTAM, as pytorch_optimizer has it, neither corrects a bias nor weighs with 1 - b; ours is this link ahead of Moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._cosine import cosine
from gradchain.types import Carry, Context, Transform


class TAMState(NamedTuple):
    momentum: Tensor
    similarity: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class TAM(Transform[TAMState]):
    """Damping of the gradient by its angle to the momentum."""

    State = TAMState

    tam_beta: Annotated[float, "[0, 1)"] = 0.9
    tam_decay: Annotated[float, "[0, 1)"] = 0.9
    tam_eps: Annotated[float, "[0, inf)"] = 1e-8

    @override
    def init(self, param: Tensor) -> TAMState:
        return TAMState(torch.zeros_like(param), param.new_zeros(()))

    @override
    def figures(self, state: TAMState) -> Mapping[str, Tensor]:
        return {"similarity": state.similarity, "damping": self.tam_eps + (1 + state.similarity) / 2}

    @override
    def update(self, carry: Carry, state: TAMState, ctx: Context) -> tuple[Carry, TAMState]:
        g, m = carry.update, state.momentum
        s = (self.tam_decay * state.similarity + (1 - self.tam_decay) * cosine(m, g, ctx.layout)).to(g.dtype)
        damped = (self.tam_eps + (1 + s) / 2) * g
        return carry._replace(update=damped), TAMState(self.tam_beta * m + damped, s)
