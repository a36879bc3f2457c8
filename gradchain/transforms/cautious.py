"""Cautious masking: only the elements of the update that agree in sign with the gradient are kept, and they are enlarged.

    mask = [update processed > 0];   update <- update mask / max(mean(mask), floor)

Reads    update, processed (the gradient).   Writes  update.   State  kept: 0-d, mean(mask).   Cost  2 reads, 1 write, 1 mean.
Shapes   any; empty passes through.   Units  those of update (a rescaling).
Place    after the direction is formed, before WeightDecay and LearningRate; caps on the update come after it.
Fields   floor: smallest mean of the mask, in (0, 1]; the update is enlarged 1 / floor times at most.
Raises   ChainError if floor is outside (0, 1].
Source   Liang et al., Cautious Optimizers, arXiv 2411.16085, algorithm 1, with the scale of the authors' later code.
Differs  the paper's scale n / (sum(mask) + 1) halves the update of a one-element tensor and is capped by n alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class CautiousState(NamedTuple):
    kept: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Cautious(Transform[CautiousState]):
    """Mask of the elements that agree with the gradient, rescaled."""

    State = CautiousState
    reads = frozenset({"update", "processed"})
    traits = frozenset({"aligns", "enlarges"})

    floor: Annotated[float, "(0, 1]"] = 1e-3

    @override
    def init(self, param: Tensor) -> CautiousState:
        return CautiousState(param.new_ones(()))

    @override
    def figures(self, state: CautiousState) -> Mapping[str, Tensor]:
        return {"masked": 1 - state.kept}

    @override
    def update(self, carry: Carry, state: CautiousState, ctx: Context) -> tuple[Carry, CautiousState]:
        u = carry.update
        mask = (u * carry.signal > 0).to(u.dtype)
        kept = ctx.layout.mean(mask)
        return carry._replace(update=u * mask / kept.clamp(min=self.floor)), CautiousState(kept)
