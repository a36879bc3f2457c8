"""Relational guide: each element's gradient is compared with those of the elements whose parameters have similar values.

    RelationalGuide           guide_i = g_i - sum_j w_ij g_j / sum_j w_ij       j: the k nearest to i in value
    AllPairsGuide             the same                                          j: all others
                              update <- g + beta guide
    PublishedRelationalGuide  guide_i = clip(sum_j w_ij (g_i - g_j) / k, +-c)   j: the k nearest
                              update <- g + beta_0 / (1 + |g|) guide
    PublishedAllPairsGuide    guide_i = clip(sum_j w_ij (g_i - g_j) / n, +-c)   j: all others
                              update <- g + beta_0 / (1 + |g|) / (1 + (t - 1) / 1000) guide

w_ij = 1 / (R_ij + delta) with R_ij = |p_i - p_j| / (max p - min p), by the parameters at the last refresh. beta > 0 sharpens
the differences between similar elements, beta < 0 draws them together; |guide| is at most twice the largest |g|.

Reads    update, param.   Writes  update.   State  order (int64), values: like the parameter; 12 bytes an element in float32.
Cost     a sort at a refresh; per step 3 reads, 2 writes (one of each in random order), k passes in cache (all pairs: 96).
Shapes   any; fewer than 2 elements pass through, and up to k + 1 are all neighbors.   Units  those of the gradient.
Place    before the moments. A parameter with a value that is not finite gets a guide of 0.
Fields   beta: strength; between -1/2 and 1/2 no pattern changes its sign. k_neighbors (k): >= 1. update_interval: steps from
         one refresh to the next, >= 1. delta: > 0 (0.1 for all pairs and the published ones).
         distance: "range", R as above; "local", in units of the distance to the k-th neighbor.
         ties: among equally near elements, "rank" takes the nearer in sorted order, where equal values stand as in memory;
         "symmetric" lets all share the places that are left, so that the guide does not depend on the order of the elements.
         Published: beta_0 >= 0; guide_clip (c) > 0; lambda_reg in [0, 1]: share by which R, never renewed, fades each step.
Raises   ChainError if a field is out of range.
Source   cjh4088/relational-gradient 0.5 and 0.6 (GitHub). Exact neighbors by sorting, sharing and the row sum are our own.
Differs  the programs divide by k where fewer neighbors exist, clip, and scale by the norm, so the guide depends on the size of
         the gradient; they make n x n matrices; among ties their neighbors depend on the machine and may be the element itself.
         Version 0.5 learns R with the wrong sign, so that R runs away from the distances: its form here is that for lr_R = 0.
         Version 0.7 exists as a README only: 1 / (R + 1e-8), neither bounded nor clipped, 1e9 on a parameter of zeros.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._neighbors import FLOOR, Distance, everyone, extent, nearest, nearest_sharing, order_by_value
from gradchain.types import Carry, Context, Transform

Ties = Literal["rank", "symmetric"]


class Relations(NamedTuple):
    order: Tensor  # flat index of the element that stands at each place when they are sorted by value
    values: Tensor  # its value


@dataclass(frozen=True, kw_only=True, repr=False)
class _Guide(Transform[Relations]):
    """Sorts at a refresh, takes the gradient into that order and the guide back out of it."""

    State = Relations
    reads = frozenset({"update", "param"})

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], 2**62  # once

    @override
    def init(self, param: Tensor) -> Relations:
        return Relations(torch.zeros_like(param, dtype=torch.int64), torch.zeros_like(param))

    @override
    def refresh(self, carry: Carry, state: Relations, ctx: Context) -> Relations:
        def arranged(param: Tensor) -> tuple[Tensor, Tensor]:
            x = param.reshape(-1)
            order = order_by_value(x)
            return order.reshape(param.shape), x.index_select(0, order).reshape(param.shape)

        return Relations(*ctx.layout.on_whole(arranged, carry.param, like=2))

    @override
    def update(self, carry: Carry, state: Relations, ctx: Context) -> tuple[Carry, Relations]:
        def guided(update: Tensor, order: Tensor, values: Tensor) -> Tensor:
            order, x = order.reshape(-1), values.reshape(-1)
            guide = self.guide(x, update.reshape(-1).index_select(0, order), ctx)
            guide = torch.where(guide.isfinite().all() & extent(x).isfinite(), guide, 0)
            return torch.zeros_like(guide).scatter(0, order, guide).reshape(update.shape)

        u = carry.update
        if math.prod(ctx.layout.shape(u)) < 2:
            return carry, state
        guide = ctx.layout.on_whole(guided, u, *state)
        return carry._replace(update=u + self.strength(carry, ctx) * guide), state

    @override
    def figures(self, state: Relations) -> dict[str, Tensor]:
        gaps = state.values.reshape(-1).diff()
        return {"extent": gaps.sum(), "tied": (gaps == 0).sum() / max(1, gaps.numel())}

    @abstractmethod
    def guide(self, x: Tensor, g: Tensor, ctx: Context) -> Tensor:
        """From values in ascending order and what goes with them."""

    @abstractmethod
    def strength(self, carry: Carry, ctx: Context) -> Tensor | float:
        """beta of this step."""


@dataclass(frozen=True, kw_only=True, repr=False)
class _Renewed(_Guide):
    update_interval: Annotated[int, "[1, inf)"] = 10

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], self.update_interval


@dataclass(frozen=True, kw_only=True, repr=False)
class RelationalGuide(_Renewed):
    """Difference to the weighted mean of the k nearest in value."""

    off = {"beta": 0.0}

    beta: Annotated[float, "(-inf, inf)"] = 0.1
    k_neighbors: Annotated[int, "[1, inf)"] = 5
    delta: Annotated[float, "(0, inf)"] = 0.1
    distance: Distance = "range"
    ties: Ties = "rank"

    @override
    def guide(self, x: Tensor, g: Tensor, ctx: Context) -> Tensor:
        sums = nearest if self.ties == "rank" else nearest_sharing
        differences, weights = sums(x, g, min(self.k_neighbors, len(x) - 1), self.delta, self.distance)
        return differences / weights

    @override
    def strength(self, carry: Carry, ctx: Context) -> float:
        return self.beta


@dataclass(frozen=True, kw_only=True, repr=False)
class AllPairsGuide(_Renewed):
    """Difference to the weighted mean of all others."""

    off = {"beta": 0.0}

    beta: Annotated[float, "(-inf, inf)"] = 0.1

    @override
    def guide(self, x: Tensor, g: Tensor, ctx: Context) -> Tensor:
        differences, weights = everyone(x, g)
        return differences / weights

    @override
    def strength(self, carry: Carry, ctx: Context) -> float:
        return self.beta


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedRelationalGuide(_Renewed):
    """The guide of version 0.6."""

    off = {"beta_0": 0.0}

    beta_0: Annotated[float, "[0, inf)"] = 0.1
    k_neighbors: Annotated[int, "[1, inf)"] = 5
    guide_clip: Annotated[float, "(0, inf]"] = 1.0

    @override
    def guide(self, x: Tensor, g: Tensor, ctx: Context) -> Tensor:
        sums = nearest(x, g, min(self.k_neighbors, len(x) - 1), FLOOR)
        return (sums.differences / self.k_neighbors).clamp(-self.guide_clip, self.guide_clip)

    @override
    def strength(self, carry: Carry, ctx: Context) -> Tensor:
        return _falling(self.beta_0, carry, ctx)


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedAllPairsGuide(_Guide):
    """The guide of version 0.5 where nothing is learned."""

    off = {"beta_0": 0.0}

    beta_0: Annotated[float, "[0, inf)"] = 0.1
    lambda_reg: Annotated[float, "[0, 1]"] = 1e-4
    guide_clip: Annotated[float, "(0, inf]"] = 1.0

    @override
    def guide(self, x: Tensor, g: Tensor, ctx: Context) -> Tensor:
        sums = everyone(x, g, fading=(1 - self.lambda_reg) ** (ctx.step - self.window[0]))
        return (sums.differences / len(x)).clamp(-self.guide_clip, self.guide_clip)

    @override
    def strength(self, carry: Carry, ctx: Context) -> Tensor:
        return _falling(self.beta_0, carry, ctx) / (1 + 0.001 * (ctx.step - 1))


def _falling(beta_0: float, carry: Carry, ctx: Context) -> Tensor:
    """Strength that falls with the norm of the gradient; 0 where that is not finite."""
    return torch.nan_to_num(beta_0 / (1 + ctx.layout.norm(carry.update)), nan=0.0)
