"""ALLoRA: each row of a matrix learns the faster the smaller it is.

    update_i <- update_i / sqrt(|w_i| + 1 / eta^2)      for every row i of the parameter

A row of zeros learns eta times as fast, a row of length 1 about as fast as without.

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 sum by rows.
Shapes   tensors of two or more extents, rows along the first; others pass through.   Units  those of update (a rescaling).
Place    after Normalize, which would undo most of it; before WeightDecay, which is then not multiplied, and LearningRate.
Fields   eta: factor of a row of zeros, > 0.
Raises   ChainError if eta is not positive.
Source   Huang and Balestriero, ALLoRA, arXiv 2410.09692, for LoRA without dropout and without a scaling factor; the form is the
         one of Automagic CameAMP (hinablue/sd-scripts).
Differs  the paper scales the gradient before the optimizer, which Adam would undo; here it is the step. The program works the
         factor out once, when the run starts, so that B, which is zero then, keeps the factor eta for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ALLoRA(Transform):
    """Larger steps for shorter rows."""

    alias = "allora"
    reads = frozenset({"update", "param"})

    eta: Annotated[float, "(0, inf)"] = 2.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        w, u = carry.param, carry.update
        if w.dim() < 2:
            return carry._replace(update=u.clone()), state
        squares = w * w
        for dim in range(1, w.dim()):
            squares = ctx.layout.sum(squares, dim)
        return carry._replace(update=u / (squares.sqrt() + self.eta**-2.0).sqrt()), state
