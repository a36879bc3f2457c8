"""CameAMP's factor on the decay of matrices, which depends on their smaller extent alone."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_factor(shape: torch.Size, rate: Tensor | float) -> Tensor | float:
    """1 + mean of exp(-rate k) over k = 0 ... min(shape) - 1 for matrices, 1 for other shapes and at rate 0."""
    if len(shape) != 2 or 0 in shape:
        return 1.0
    rate = rate if isinstance(rate, Tensor) else torch.tensor(rate, dtype=torch.float64, device="cpu")
    r = torch.sym_min(*shape)
    safe = torch.where(rate > 0, rate, 1)
    return torch.where(rate > 0, 1 + torch.expm1(-safe * r) / (r * torch.expm1(-safe)), 1)
