"""L2 regularization: the penalty's gradient joins the loss's ("coupled" weight decay).

    update <- update + wd param

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  those of the gradient.
Place    first, before the moments, which then contain it. For decay past the moments see WeightDecay.
Fields   weight_decay (wd): strength, >= 0.
Raises   ChainError if weight_decay is negative.
Source   torch.optim.Adam, SGD, RMSprop and Adagrad call this weight_decay.
Differs  nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class L2(Transform):
    """Coupled weight decay."""

    reads = frozenset({"update", "param"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update + self.weight_decay * carry.param), state
