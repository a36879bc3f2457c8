"""The schedule of dynamic weight decay."""

from __future__ import annotations

from torch import Tensor


def decay_factor(step: Tensor, transition: int, base: float, floor: float, longest: float = float("inf")) -> Tensor:
    """max(floor, base^min((t - T) / T, longest)), and 1 up to t = T; 0-d."""
    progress = ((step - transition) / transition).clamp(min=0).clamp(max=longest)
    return (base**progress).clamp(min=floor)
