"""The discrete periodic Laplacian that LAdam's links share. Not a transform."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gradchain.types import Layout

Stencil = Literal["9point", "5point"]
LARGEST_C2 = {"9point": 0.3, "5point": 0.25}  # up to here a + c2 laplacian(a) is a convex combination of neighbours


def laplacian(a: Tensor, layout: Layout, stencil: str) -> Tensor:
    """Sum of differences to the neighbours, with wrapped borders; of the shape of ``a``.

    One dimension: the second difference. More: the tensor as a matrix (first dimension, all others), with the kernel
    (4 (N+S+E+W) + NE+NW+SE+SW - 20 C) / 6 or N+S+E+W - 4 C. Zero where a ring of neighbours would fold onto itself:
    fewer than 4 elements in one dimension, an extent below 3 in two. Zero too where a sum is not finite, so that what
    overflows in one element stays there.
    """
    return torch.nan_to_num(_differences(a, layout, stencil), nan=0.0, posinf=0.0, neginf=0.0)


def _differences(a: Tensor, layout: Layout, stencil: str) -> Tensor:
    shape = layout.shape(a)
    if len(shape) < 2:
        if math.prod(shape) < 4:
            return torch.zeros_like(a)
        p = layout.pad(a, 0)
        return p[:-2] - 2 * a + p[2:]
    if shape[0] < 3 or math.prod(shape[1:]) < 3:
        return torch.zeros_like(a)
    f = a.reshape(a.shape[0], -1)
    rows = layout.pad(f, 0)
    if stencil == "5point":
        columns = layout.pad(f, 1)
        ring = rows[:-2] + rows[2:] + columns[:, :-2] + columns[:, 2:]
        return (ring - 4 * f).reshape(a.shape)
    columns = layout.pad(rows[:-2] + 4 * rows[1:-1] + rows[2:], 1)  # the kernel is separable: ([1 4 1] x [1 4 1] - 36 I) / 6
    return ((columns[:, :-2] + 4 * columns[:, 1:-1] + columns[:, 2:] - 36 * f) / 6).reshape(a.shape)
