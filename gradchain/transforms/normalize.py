"""Division by the root of the second moment.

    update <- update / (sqrt(second_moment) + eps)

Reads    update, second_moment.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise.   Units  a pure number where second_moment has the gradient's units squared.
Place    after the links that write and shape second_moment.
Fields   eps: added outside the root, after bias correction, >= 0; 0 only where second_moment has a floor of its own.
Raises   ChainError if eps is negative.
Source   Kingma and Ba, Adam, arXiv 1412.6980, algorithm 1.
Differs  nothing known; eps stands where torch.optim has it (the TensorFlow form, eps before bias correction, is another rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class Normalize(Transform):
    """Division by the root of the second moment."""

    reads = frozenset({"update", "second_moment"})
    traits = frozenset({"normalizes"})

    eps: Annotated[float, "[0, inf)"] = 1e-8

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update / (carry.second_moment.sqrt() + self.eps)), state
