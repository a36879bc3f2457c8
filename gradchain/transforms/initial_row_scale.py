"""CameAMP's row scaling: each row of a matrix learns by how large it was when the run started.

    k_i = 1 / sqrt(|w_i| + 1 / eta^2) at the first step;   update_i <- k_i update_i      for every row i of a matrix

Reads    update, param.   Writes  update.   State  factor (k): one number a row, 1 until the first step; empty elsewhere.
Cost     1 read, 1 write.
Shapes   matrices; everything else passes through.   Units  those of update (a rescaling).
Place    next to the learning rate mask, before LearningRate.
Fields   eta: factor of a row of zeros, > 0.
Raises   ChainError if eta is not positive.
Source   Automagic CameAMP (hinablue/sd-scripts), after ALLoRA, arXiv 2410.09692.
Differs  nothing known. A row that starts at zero, as those of LoRA's B do, keeps the factor eta; ALLoRA looks at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

ONCE = 2**62  # an interval longer than any run


class InitialRowScaleState(NamedTuple):
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class InitialRowScale(Transform[InitialRowScaleState]):
    """Larger steps for rows that started small."""

    State = InitialRowScaleState
    reads = frozenset({"update", "param"})

    eta: Annotated[float, "(0, inf)"] = 2.0

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> InitialRowScaleState:
        return InitialRowScaleState(torch.ones_like(param[:, :1]) if param.dim() == 2 else param.new_zeros(0))

    @override
    def refresh(self, carry: Carry, state: InitialRowScaleState, ctx: Context) -> InitialRowScaleState:
        w = carry.param
        if w.dim() != 2:
            return state
        return InitialRowScaleState((ctx.layout.sum(w * w, dim=1).sqrt() + self.eta**-2.0).rsqrt())

    @override
    def update(self, carry: Carry, state: InitialRowScaleState, ctx: Context) -> tuple[Carry, InitialRowScaleState]:
        if carry.update.dim() != 2:
            return carry, state
        return carry._replace(update=carry.update * state.factor), state

    @override
    def figures(self, state: InitialRowScaleState) -> Mapping[str, Tensor]:
        return {"mean factor": state.factor.sum() / max(1, state.factor.numel())}
