"""Gradient centralization: each output unit's gradient loses its mean.

    g_row <- g_row - mean(g_row)          rows: along the first dimension, over all others

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 mean a row.
Shapes   two dimensions and more; others pass through.   Units  those of the gradient.
Place    before the moments, behind L2 (as in the authors' SGD).
Fields   none.
Raises   nothing.
Source   Yong et al., Gradient Centralization, arXiv 2004.01461, equation 1.
Differs  the authors' code has a form for convolutions only; torchzero removes the mean of whole tensors, biases included.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class Centralize(Transform):
    """Removal of each row's mean."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        if len(ctx.layout.shape(g)) < 2:
            return carry, state
        rows = g.flatten(1)
        return carry._replace(update=(rows - ctx.layout.mean(rows, 1)).reshape(g.shape)), state
