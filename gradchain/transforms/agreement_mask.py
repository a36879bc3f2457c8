"""Agreement mask: only the elements of the update that agree in sign with the gradient are kept, at their size.

    update <- update [update processed > 0]

Reads    update, processed (the gradient).   Writes  update.   State  kept: 0-d, the mean of the mask in the last step.
Cost     2 reads, 1 write, 1 mean a parameter.
Shapes   any; empty passes through.   Units  those of update.
Place    after the direction is formed, before WeightDecay and LearningRate.
Fields   none.
Raises   nothing.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), use_cautious.
Differs  nothing known. Cautious, the form of the paper it names, enlarges what is kept by what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class AgreementMaskState(NamedTuple):
    kept: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class AgreementMask(Transform[AgreementMaskState]):
    """Mask of the elements that agree with the gradient."""

    State = AgreementMaskState
    reads = frozenset({"update", "processed"})
    traits = frozenset({"aligns"})

    @override
    def init(self, param: Tensor) -> AgreementMaskState:
        return AgreementMaskState(param.new_ones(()))

    @override
    def figures(self, state: AgreementMaskState) -> Mapping[str, Tensor]:
        return {"masked": 1 - state.kept}

    @override
    def update(self, carry: Carry, state: AgreementMaskState, ctx: Context) -> tuple[Carry, AgreementMaskState]:
        u = carry.update
        mask = (u * carry.signal > 0).to(u.dtype)
        return carry._replace(update=u * mask), AgreementMaskState(ctx.layout.mean(mask))
