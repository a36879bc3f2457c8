"""A matrix of averages kept as its row and column means, whose outer product stands for the whole."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gradchain.types import Layout


class Factors(NamedTuple):
    row: Tensor  # (..., R, 1)
    column: Tensor  # (..., 1, C)


def no_factors(param: Tensor) -> Factors:
    """Zeros of the factors' shapes; both empty for fewer than two dimensions."""
    if param.dim() < 2:
        return Factors(param.new_zeros(0), param.new_zeros(0))
    return Factors(torch.zeros_like(param[..., :1]), torch.zeros_like(param[..., :1, :]))


def averaged(old: Factors, square: Tensor, beta: Tensor | float, layout: Layout) -> Factors:
    """Exponential averages of the row and column means; squares are capped where their sum would overflow."""
    square = square.clamp(max=torch.finfo(square.dtype).max / max(1, math.prod(layout.shape(square))))
    row, column = (layout.mean(square, dim=dim) for dim in (-1, -2))
    return Factors(beta * old.row + (1 - beta) * row, beta * old.column + (1 - beta) * column)


def outer(factors: Factors, layout: Layout) -> Tensor:
    """The matrix of rank one that has these row and column means; the division comes first, so that tiny ones survive.

    What would underflow to 0, between rows of very different sizes, is the smallest normal number.
    """
    mean = layout.mean(factors.row, dim=-2)
    return (factors.row / torch.where(mean > 0, mean, 1) * factors.column).clamp(min=torch.finfo(mean.dtype).tiny)
