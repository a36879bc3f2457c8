"""ADOPT: the gradient is divided by the root of the second moment before it enters either moment; the first call only measures.

    t = 1   v <- g^2, and the parameter is left alone
    t > 1   n = clip(g / max(sqrt(v), eps), (t - 1)^(1/4));   m <- b1 m + (1 - b1) n;   update <- m;   v <- b2 v + (1 - b2) g^2

Reads    update, gate.   Writes  update, gate.   State  first, second: like the parameter.   Cost  3 reads, 3 writes.
Shapes   any; elementwise.   Units  a pure number.
Place    in the place of Moments and Normalize.
Fields   betas: decay of m and v, each in [0, 1); adopt_eps (eps): smallest root, > 0.
Raises   ChainError if a field is out of range.
Source   Taniguchi et al., ADOPT, arXiv 2411.02853, algorithm 2, with the clipping of the authors' code.
Differs  nothing known. The first call also skips weight decay, as theirs does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform


class ADOPTState(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class ADOPT(Transform[ADOPTState]):
    """Adam with the second moment of the steps before."""

    State = ADOPTState
    reads = frozenset({"update", "gate"})
    writes = frozenset({"update", "gate"})
    traits = frozenset({"normalizes"})

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.9999)
    adopt_eps: Annotated[float, "(0, inf)"] = 1e-6

    @override
    def init(self, param: Tensor) -> ADOPTState:
        return ADOPTState(torch.zeros_like(param), torch.zeros_like(param))

    @override
    def figures(self, state: ADOPTState) -> Mapping[str, Tensor]:
        return {"size": (state.first.square().sum() / max(1, state.first.numel())).sqrt()}

    @override
    def update(self, carry: Carry, state: ADOPTState, ctx: Context) -> tuple[Carry, ADOPTState]:
        b1, b2 = self.betas
        g, later = carry.update, ctx.step > 1
        bound = ((ctx.step - 1) ** 0.25).to(g.dtype)
        n = (g / state.second.sqrt().clamp(min=self.adopt_eps)).clamp(-bound, bound)
        m = torch.where(later, b1 * state.first + (1 - b1) * n, state.first)
        v = torch.where(later, b2 * state.second + (1 - b2) * g * g, g * g)
        return carry._replace(update=m, gate=carry.gate * later), ADOPTState(m, v)
