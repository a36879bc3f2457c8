"""AMSGrad: Adam's moments, with the largest second moment seen so far in place of the current one.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;   w <- max(w, v)
    update <- m / (1 - b1^t);   second_moment <- w / (1 - b2^t)

Reads    update.   Writes  update, second_moment.   State  first, second, largest: like the parameter.
Cost     4 reads, 5 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of the two averages, each in [0, 1).
Raises   ChainError if a beta is outside [0, 1).
Source   Reddi et al., On the Convergence of Adam and Beyond, ICLR 2018, algorithm 2; bias correction as in torch.optim.
Differs  the paper has no bias correction. As in torch, the maximum is of the uncorrected v; in optax of the corrected one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class AMSGradState(NamedTuple):
    first: Tensor
    second: Tensor
    largest: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class AMSGradMoments(Transform[AMSGradState]):
    """Bias-corrected first moment, and the running maximum of the second."""

    State = AMSGradState
    writes = frozenset({"update", "second_moment"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999)

    @override
    def init(self, param: Tensor) -> AMSGradState:
        return AMSGradState(torch.zeros_like(param), torch.zeros_like(param), torch.zeros_like(param))

    @override
    def figures(self, state: AMSGradState) -> Mapping[str, Tensor]:
        return {"held": (state.largest > state.second).to(state.second.dtype).sum() / max(1, state.second.numel())}

    @override
    def update(self, carry: Carry, state: AMSGradState, ctx: Context) -> tuple[Carry, AMSGradState]:
        b1, b2 = self.betas
        g, t = carry.update, ctx.step
        m = b1 * state.first + (1 - b1) * g
        v = b2 * state.second + (1 - b2) * g * g
        w = torch.maximum(state.largest, v)
        return carry._replace(update=m / (1 - b1**t), second_moment=w / (1 - b2**t)), AMSGradState(m, v, w)
