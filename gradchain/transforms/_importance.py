"""What the importance of a parameter is made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gradchain.types import Layout

KEPT = 5  # norms of the gradient that are remembered
UNKNOWN = -1.0


class ImportanceState(NamedTuple):
    score: Tensor  # 0-d, 1 at the start
    norms: Tensor  # (5,), of the gradient at the last refreshes, the newest last
    start: Tensor  # 0-d, norm of the parameter at the first refresh


def fresh(param: Tensor) -> ImportanceState:
    """Nothing known yet."""
    return ImportanceState(param.new_ones(()), param.new_full((KEPT,), UNKNOWN), param.new_full((), UNKNOWN))


def steadiness(norms: Tensor) -> Tensor:
    """1 - std / mean of the remembered norms, at least 0.1; 1 where fewer than two are known."""
    known = norms >= 0
    count = known.sum()
    mean = torch.where(known, norms, 0).sum() / count.clamp(min=1)
    variance = torch.where(known, (norms - mean).square(), 0).sum() / (count - 1).clamp(min=1)
    return torch.where(count > 1, (1 - variance.sqrt() / (mean + 1e-8)).clamp(min=0.1), 1)


def change(size: Tensor, start: Tensor) -> Tensor:
    """How much of its norm at the start the parameter has won or lost."""
    return torch.where(start > 0, (size - start).abs() / torch.where(start > 0, start, 1), 0)


def intrinsic(param: Tensor, layout: Layout) -> Tensor:
    """Variance of the elements times the share of them that are not practically 0; nan for a single element."""
    deviation = param - layout.mean(param)
    variance = layout.dot(deviation, deviation) / (math.prod(layout.shape(param)) - 1)
    return variance * (1 - layout.mean((param.abs() < 1e-6).to(param.dtype)))


def remembered(state: ImportanceState, score: Tensor, norm: Tensor, size: Tensor) -> ImportanceState:
    """The state after a refresh."""
    norm, size = (x.nan_to_num(posinf=0) for x in (norm, size))
    norms = torch.cat((state.norms[1:], norm.reshape(1).to(state.norms)))
    return ImportanceState(score.to(state.score), norms, torch.where(state.start < 0, size, state.start))
