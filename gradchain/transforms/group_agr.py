"""Group-wide adaptive gradient regularization: each element is reduced by its share of the group's absolute gradient.

    GroupAGR       a = |g| / (S + eps),  S = sum |g| over the parameter group;   update <- g - a g
    EdgeGroupAGR   a = |g| (1 + p E) / (S + eps),  E = |L g| where |L g| > threshold, else 0

L is the second difference along the last axis plus along the one before it, without the border rows and columns.

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 sum a parameter (with edges: 6 reads more).
Shapes   any; edges are found where both of the last two axes have at least 3 entries, elsewhere E = 0.
Units    those of the gradient; edge_threshold is in units of the gradient too.
Place    first, before the moments.
Fields   agr_eps (eps): >= 0; edge_penalty (p): >= 0; edge_threshold: >= 0; edge_matrices_only: no edges in tensors of more
         than two dimensions.
Raises   ChainError if a field is out of range.
Source   Automagic CameAMP Improved (hinablue/sd-scripts), after arXiv 2407.16944.
Differs  the paper, and AGR here, take the share within the parameter. In a group of many parameters the share is so small that
         the link nearly does nothing. The original's dual momentum version finds edges in matrices only (edge_matrices_only).
         As published, E has the size of the gradient, and the update that of its square: large gradients change their sign, and
         beyond 1e19 it overflows float32. The versions without eps give NaN for a group of zeros, which here stays 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._edges import edges, has_inside
from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform


@dataclass(frozen=True, kw_only=True, repr=False)
class _GroupShare(SharedTransform):
    agr_eps: Annotated[float, "[0, inf)"] = 1e-10

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        return ctx.layout.sum(carry.update.abs())

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        totals: dict[int, Tensor] = {}
        for one, info in zip(measured, infos, strict=True):
            amount, group = one.to(measured[0].device, torch.float64), id(info.group)
            totals[group] = totals[group] + amount if group in totals else amount
        return [totals[id(info.group)].to(one.device) for one, info in zip(measured, infos, strict=True)]

    def share_of_group(self, g: Tensor, ctx: Context) -> Tensor:
        total = ctx.shared + self.agr_eps
        return g.abs() / torch.where(total > 0, total, 1)


@dataclass(frozen=True, kw_only=True, repr=False)
class GroupAGR(_GroupShare):
    """Reduction of each gradient element by its share of the whole parameter group."""

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        return carry._replace(update=g - self.share_of_group(g, ctx) * g), state


@dataclass(frozen=True, kw_only=True, repr=False)
class EdgeGroupAGR(_GroupShare):
    """Reduction of each gradient element by its share of the parameter group, more of it at edges."""

    edge_penalty: Annotated[float, "[0, inf)"] = 0.1
    edge_threshold: Annotated[float, "[0, inf)"] = 0.6
    edge_matrices_only: bool = False

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        g = carry.update
        share = self.share_of_group(g, ctx)
        if has_inside(g, ctx.layout, self.edge_matrices_only):
            share = share * (1 + self.edge_penalty * edges(g, ctx.layout, self.edge_threshold))
        return carry._replace(update=g - share * g), state
