"""Kahan's compensated write: what rounding to the parameter's dtype has lost of a step is added to the next one.

    step = update - c;   new = round(w - step);   c <- (w - new) - step;   update <- step

With parameters in bfloat16, steps far below half a unit in the last place add up instead of vanishing.

Reads    update, param, gate.   Writes  update.   State  compensation (c): like the parameter.   Cost  3 reads, 2 writes.
Shapes   any; elementwise.   Units  those of the parameter.
Place    last: it owns the write. Weight decay before LearningRate is compensated with the step.
Fields   none; the dtype is the parameter's.
Raises   nothing.
Source   Kahan, Further remarks on reducing truncation errors, CACM 8, 1965; Zamirai et al., Revisiting BFloat16 Training,
         arXiv 2010.06192, algorithm 3.
Differs  optimi multiplies the decay past the compensation, and keeps that in the parameter's dtype; here it is in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class KahanState(NamedTuple):
    compensation: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Kahan(Transform[KahanState]):
    """Compensation of what the write rounds away."""

    State = KahanState
    reads = frozenset({"update", "param", "gate"})
    traits = frozenset({"owns"})

    @override
    def init(self, param: Tensor) -> KahanState:
        return KahanState(torch.zeros_like(param))

    @override
    def figures(self, state: KahanState) -> Mapping[str, Tensor]:
        return {"carried": torch.linalg.vector_norm(state.compensation)}

    @override
    def update(self, carry: Carry, state: KahanState, ctx: Context) -> tuple[Carry, KahanState]:
        w, c = carry.param, state.compensation
        taken = (carry.gate != 0) & (ctx.lr != 0)
        step = torch.where(taken, carry.update - c, carry.update)
        new = (w - step).to(ctx.dtype).to(w.dtype)
        return carry._replace(update=step), KahanState(torch.where(taken, (w - new) - step, c))
