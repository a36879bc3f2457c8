"""Neighbors by value among n numbers, by sorting: what the relational guides share. Not a transform.

The k nearest of a sorted element lie within k places of it, and of its o-th on the left and its (k + 1 - o)-th on the right
exactly one belongs to them: the nearer. So k passes over shifted slices find them, and nothing of size n k is made.
All sums run over sorted tensors of one dimension: x the values, g what goes with them, w_ij = 1 / (distance_ij + delta).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise, product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.functional import pad

Distance = Literal["range", "local"]
CHUNK = 2**16  # sorted places worked on at a time, so that temporaries stay in cache

# 1 / (d + 0.1) = sum of w exp(-a d) for d in [0, 1] to 2e-13 of itself: rates a in geometric steps, w by least squares
FLOOR = 0.1
RATES = [0.2 * 1000 ** (m / 23) for m in range(24)]
WEIGHTS = [
    *(0.917486468387783, -0.482624570858710, -0.459730809309929, 0.359994317278609, 0.711138857091144, 0.0612291756099158),
    *(-0.104180525366007, 0.942497290578791, 0.217886996004265, 0.792675803823831, 0.769136694693807, 0.958948888588539),
    *(1.05602419058427, 1.10539642858949, 1.05366763937321, 0.889881286017695, 0.637462714027101, 0.365735371698099),
    *(0.155469097301465, 0.0440847541126194, 0.00723573188458643, 0.000567646782009514, 1.64281753147978e-5, 1.249321408951e-7),
]


class Sums(NamedTuple):
    """Over the neighbors j of each element i."""

    differences: Tensor  # of w_ij (g_i - g_j)
    weights: Tensor  # of w_ij


def order_by_value(x: Tensor) -> Tensor:
    """The stable ascending order of x. Compared as integers, numbers sort eight times as fast."""
    integer = torch.int64 if x.dtype == torch.float64 else torch.int32
    bits = (x + 0.0).view(integer)  # -0 becomes 0
    return torch.sort(torch.where(bits < 0, bits ^ torch.iinfo(integer).max, bits), stable=True)[1]


def extent(x: Tensor) -> Tensor:
    """Largest distance among sorted values; 1 where all are equal, so that it can be divided by."""
    length = x[-1] - x[0]
    return torch.where(length == 0, 1, length)


def by_stretches(sums: Callable[..., Sums], k: int, padded: Sequence[Tensor]) -> Sums:
    """``sums`` of tensors that have k more entries at either end, worked out a stretch at a time."""
    n = len(padded[0]) - 2 * k
    traced = torch.compiler.is_compiling() or get_proxy_mode() is not None
    step = n if traced else CHUNK  # a compiler fuses the passes
    parts = [sums(*(x[start : min(start + step, n) + 2 * k] for x in padded)) for start in range(0, n, step)]
    return parts[0] if len(parts) == 1 else Sums(*map(torch.cat, zip(*parts, strict=True)))


def hedged(x: Tensor, k: int) -> Tensor:
    """Sorted values with k at infinity at either end."""
    return torch.cat((x.new_full((k,), -torch.inf), x, x.new_full((k,), torch.inf)))


def nearest(x: Tensor, g: Tensor, k: int, delta: Tensor | float, distance: Distance = "range") -> Sums:
    """Over the k nearest; of equally near ones, the nearer in order, then the left, comes first.

    Distances are in units of the extent of x, or ("local") of that to the k-th nearest.
    """
    unit = extent(x) if distance == "range" else None

    def sums(x: Tensor, g: Tensor) -> Sums:
        n = len(x) - 2 * k
        here, own = x[k : k + n], g[k : k + n]
        distances: list[Tensor] = []
        differences: list[Tensor] = []
        for o in range(1, k + 1):
            left, right = slice(k - o, k - o + n), slice(2 * k + 1 - o, 2 * k + 1 - o + n)
            to_left, to_right = here - x[left], x[right] - here
            nearer = to_left <= to_right if o <= k + 1 - o else to_left < to_right
            distances.append(torch.minimum(to_left, to_right))
            differences.append(own - torch.where(nearer, g[left], g[right]))
        scale = _unit(distances) if unit is None else unit
        w = [(d / scale + delta).reciprocal() for d in distances]
        return Sums(_sum([a * b for a, b in zip(w, differences, strict=True)]), _sum(w))

    return by_stretches(sums, k, (hedged(x, k), pad(g, (k, k))))


def nearest_sharing(x: Tensor, g: Tensor, k: int, delta: Tensor | float, distance: Distance = "range") -> Sums:
    """Over the k nearest; equally near ones share what is left of the k places, so that order plays no part.

    Worked out for groups of equal values (count c, mean m of g), which stand in tensors of the same length n; what is
    behind the last group is empty. For each group, its own elements come first, then the k groups on either side.
    """
    unit, ones = extent(x), torch.ones_like(x, dtype=torch.float64)
    group = torch.cumsum(pad((x[1:] != x[:-1]).to(torch.int64), (1, 0)), 0)
    count = torch.zeros_like(ones).scatter_add(0, group, ones)
    mean = torch.zeros_like(ones).scatter_add(0, group, g.to(torch.float64)) / count.clamp(min=1)
    value = torch.full_like(x, torch.inf).scatter(0, group, x)
    c, m = (pad(y.to(x.dtype), (k, k)) for y in (count, mean))

    def near(value: Tensor, c: Tensor, m: Tensor) -> Sums:
        """Per group, over its neighbors in other groups: of w m and of w."""
        n = len(value) - 2 * k
        at = [*(slice(k - o, k - o + n) for o in range(1, k + 1)), *(slice(k + o, k + o + n) for o in range(1, k + 1))]
        own = c[k : k + n] - 1
        counts = [c[s] for s in at]
        distances = [(value[s] - value[k : k + n]).abs().minimum(unit) for s in at]
        places = _places(distances, counts, own, k)
        scale = _unit([torch.where(p > 0, d, 0) for p, d in zip(places, distances, strict=True)])
        w = [p / (d / (unit if distance == "range" else scale) + delta) for p, d in zip(places, distances, strict=True)]
        return Sums(_sum([a * m[s] for a, s in zip(w, at, strict=True)]), _sum(w))

    other = by_stretches(near, k, (hedged(value, k), c, m))
    kin = (count - 1).clamp(max=k).to(x.dtype) / delta  # weight of the other elements of the group, together
    means, weights, kin, size, own = (y[group] for y in (*other, kin, count.to(x.dtype), mean.to(x.dtype)))
    apart = size / (size - 1).clamp(min=1)  # g_i less the mean of the group's others is this times g_i less their mean
    return Sums(g * weights - means + kin * apart * (g - own), weights + kin)


def _places(distances: Sequence[Tensor], counts: Sequence[Tensor], own: Tensor, k: int) -> list[Tensor]:
    """How many of a group's k places the elements of each group around it take: k to the left, then k to the right."""
    sides = list(range(k)), list(range(k, 2 * k))
    before, level = [own] * (2 * k), list(counts)
    for side in sides:
        for nearer, farther in pairwise(side):
            before[farther] = before[nearer] + counts[nearer]
    for i, j in product(*sides):
        before[i], before[j] = (
            before[i] + torch.where(distances[j] < distances[i], counts[j], 0),
            before[j] + torch.where(distances[i] < distances[j], counts[i], 0),
        )
        same = distances[i] == distances[j]
        level[i], level[j] = level[i] + torch.where(same, counts[j], 0), level[j] + torch.where(same, counts[i], 0)
    shares = [((k - b) / at.clamp(min=1)).clamp(0, 1) for b, at in zip(before, level, strict=True)]
    return [share * count for share, count in zip(shares, counts, strict=True)]


def everyone(x: Tensor, g: Tensor, fading: Tensor | float = 1.0) -> Sums:
    """Over all others, at distances in units of the extent of x, times ``fading``; delta is 0.1.

    A weight that is a sum of exponentials makes each sum a few cumulative ones.
    """
    y = ((x - x[0]) / extent(x)).to(torch.float64)
    both = torch.stack((g.to(torch.float64), torch.ones_like(y)))
    total = torch.zeros_like(both)
    for rate, weight in zip(RATES, WEIGHTS, strict=True):
        grown = torch.exp(rate * fading * y)
        mirrored = torch.exp(rate * fading * (1 - y))
        left = torch.cumsum(both * grown, -1) / grown
        right = torch.cumsum((both * mirrored).flip(-1), -1).flip(-1) / mirrored
        total = total + weight * (left + right - both)
    return Sums(*((g * total[1] - total[0]).to(x.dtype), (total[1] - 1 / FLOOR).to(x.dtype)))


def _unit(distances: Sequence[Tensor]) -> Tensor:
    farthest = torch.stack([*distances]).amax(0)
    return torch.where(farthest == 0, 1, farthest)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, terms)
