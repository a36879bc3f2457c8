"""The largest second moment seen so far, in place of the current one.

    w <- max(w, second_moment);   second_moment <- w

Reads    second_moment.   Writes  second_moment.   State  largest: like the parameter.   Cost  2 reads, 2 writes.
Shapes   any; elementwise.   Units  the gradient's, squared.
Place    between the link that writes second_moment and Normalize.
Fields   none.
Raises   nothing.
Source   Reddi et al., On the Convergence of Adam and Beyond, ICLR 2018, algorithm 2.
Differs  behind Moments the maximum is of the bias-corrected moment, as in optax; torch takes it of the uncorrected one and
         corrects afterwards, which is AMSGradMoments. Behind StepCorrectedMoments it is of the uncorrected one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class LargestState(NamedTuple):
    largest: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class LargestSecondMoment(Transform[LargestState]):
    """Running maximum of the second moment."""

    State = LargestState
    reads = frozenset({"second_moment"})
    writes = frozenset({"second_moment"})

    @override
    def init(self, param: Tensor) -> LargestState:
        return LargestState(torch.zeros_like(param))

    @override
    def update(self, carry: Carry, state: LargestState, ctx: Context) -> tuple[Carry, LargestState]:
        w = torch.maximum(state.largest, carry.second_moment)
        return carry._replace(second_moment=w), LargestState(w)
