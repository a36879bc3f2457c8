"""What learning rate masks have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gradchain.types import ChainError


def check_rates(label: str, low: Any, high: Any) -> None:
    """ChainError where the smallest rate is above the largest; what is not yet a number is not looked at."""
    if isinstance(low, float) and isinstance(high, float) and low > high:
        raise ChainError(f"{label!r}: min_lr must be at most max_lr; found {low!r} and {high!r}. Swap them.")


def spread(mask: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation of the elements, 0 of an empty mask."""
    count = max(1, mask.numel())
    mean = mask.sum() / count
    return {"mean": mean, "spread": ((mask - mean).square().sum() / count).sqrt()}
