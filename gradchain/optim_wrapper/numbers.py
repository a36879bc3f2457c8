"""Hyperparameters and step counts on their way to a GPU, where a link finds them beside its parameter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CONSTANTS: dict[tuple[float, torch.dtype, torch.device], Tensor] = {}
MANY = 1 << 12  # of them are kept


def counts(key: str) -> bool:
    """Whether the state of this name counts steps."""
    return key.rpartition("/")[2] in ("step", "since")


def on_device(numbers: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """0-d tensors on the device of a parameter, sent there together; the host does not wait.

    Where some are there already, a CUDA graph may be in the making, in which nothing can be sent: the others are those of
    earlier steps.
    """
    away = [i for i, number in enumerate(numbers) if not number.is_cuda]
    if device.type != "cuda" or not away:
        return list(numbers)
    placed = list(numbers)
    if len(away) < len(numbers):
        for i in away:
            placed[i] = _constant(numbers[i], device)
        return placed
    flat = torch.stack([number.to(torch.float64) for number in numbers])
    rows = flat.unsqueeze(1).expand(-1, 2).contiguous().to(device, non_blocking=True)  # 16 bytes apart, as compiled code wants
    return [row.to(number.dtype) for row, number in zip(rows[:, 0].unbind(), numbers, strict=True)]


def _constant(number: Tensor, device: torch.device) -> Tensor:
    key = (float(number), number.dtype, device)
    known = CONSTANTS.get(key)
    if known is None:
        if len(CONSTANTS) >= MANY:
            CONSTANTS.clear()
        known = CONSTANTS[key] = number.to(device, non_blocking=True)
    return known
