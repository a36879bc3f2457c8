"""Momentum whose memory is rounded to 8 bits an element, with the residual of the newest update.

    m <- b m + (1 - b) u;   update <- m;   residual <- u - m;   then m is rounded, in blocks of 2048 with a scale each

Reads    update.   Writes  update, residual.   State  average: like the parameter, its values those of the 8-bit map.
Cost     2 reads, 3 writes, and the rounding, which on shards costs a whole tensor.
Shapes   any; blocks run through the flattened tensor.   Units  those of update.
Place    as ResidualMomentum.
Fields   momentum (b): decay of the average, in [0, 1).
Raises   ChainError if momentum is out of range.
Source   the 8-bit form of Automagic CameAMP (hinablue/sd-scripts), which stores m by bitsandbytes' blockwise quantization.
Differs  bitsandbytes picks a neighbor of the nearest value in a few borderline cases, and decodes a block of zeros to -0. How
         states are stored is a matter of the optimizer; this link has the rule, not the memory saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._eight_bits import eight_bits
from gradchain.types import Carry, Context, Transform

BLOCK = 2048


class EightBitMomentumState(NamedTuple):
    average: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class EightBitMomentum(Transform[EightBitMomentumState]):
    """Average of the update that forgets what 8 bits do not hold."""

    State = EightBitMomentumState
    writes = frozenset({"update", "residual"})

    momentum: Annotated[float, "[0, 1)"] = 0.9

    @override
    def init(self, param: Tensor) -> EightBitMomentumState:
        return EightBitMomentumState(torch.zeros_like(param))

    @override
    def figures(self, state: EightBitMomentumState) -> Mapping[str, Tensor]:
        return {"zeros": (state.average == 0).to(state.average.dtype).sum() / max(1, state.average.numel())}

    @override
    def update(self, carry: Carry, state: EightBitMomentumState, ctx: Context) -> tuple[Carry, EightBitMomentumState]:
        m = self.momentum * state.average + (1 - self.momentum) * carry.update
        kept = eight_bits(m, BLOCK, ctx.layout)
        return carry._replace(update=m, residual=carry.update - m), EightBitMomentumState(kept)
