"""The cosine of the angle between two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from gradchain.types import Layout


def cosine(x: Tensor, y: Tensor, layout: Layout) -> Tensor:
    """<x, y> / (|x| |y|), 0-d; 0 where either is zero, or too long to be measured."""
    lengths = layout.norm(x) * layout.norm(y)
    known = (lengths > 0) & lengths.isfinite()
    return torch.where(known, layout.dot(x, y) / torch.where(known, lengths, 1), 0)
