"""Differences between neighbours in a whole tensor, which the links on edges share. Not a transform."""

from __future__ import annotations

import torch
from torch import Tensor

from gradchain.types import Layout


def _second_difference(x: Tensor, dim: int) -> Tensor:
    """x[i+1] - 2 x[i] + x[i-1] along a dimension, 0 at its ends."""
    inner = x.shape[dim] - 2
    if inner < 1:
        return torch.zeros_like(x)
    end = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat((end, x.narrow(dim, 2, inner) - 2 * x.narrow(dim, 1, inner) + x.narrow(dim, 0, inner), end), dim)


def curvature(x: Tensor) -> Tensor:
    """|L x|, where L is the second difference along the last axis plus along the one before it."""
    return (_second_difference(x, -2) + _second_difference(x, -1)).abs()


def edges(x: Tensor, layout: Layout, threshold: Tensor | float) -> Tensor:
    """|L x| where it exceeds the threshold, else 0; for tensors of two dimensions or more."""
    found = layout.on_whole(curvature, x)
    return torch.where(found > threshold, found, 0)


def has_inside(x: Tensor, layout: Layout, matrices_only: bool) -> bool:
    """Whether both of the last two axes have an inside, as the published edge detectors ask for."""
    shape = layout.shape(x)
    return (len(shape) == 2 or (len(shape) > 2 and not matrices_only)) and all(size > 2 for size in shape[-2:])


def steps_between_neighbours(x: Tensor) -> Tensor:
    """|x[i, j] - x[i, j-1]| + |x[i, j] - x[i-1, j]| of a matrix, with 0 for neighbours beyond its border."""
    above, left = (torch.cat((torch.zeros_like(x.narrow(dim, 0, 1)), x.diff(dim=dim).abs()), dim) for dim in (0, 1))
    return above + left
