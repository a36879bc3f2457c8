"""Where the elements of a parameter live: all on one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Whole:
    """All elements in one tensor: the plain operations."""

    def shape(self, x: Tensor) -> torch.Size:
        return x.shape

    def sum(self, x: Tensor, dim: int | None = None) -> Tensor:
        return x.sum() if dim is None else x.sum(dim, keepdim=True)

    def mean(self, x: Tensor, dim: int | None = None) -> Tensor:
        return self.sum(x, dim) / max(1, x.numel() if dim is None else x.shape[dim])

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum()

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x)

    def pad(self, x: Tensor, dim: int) -> Tensor:
        return torch.cat((x.narrow(dim, x.shape[dim] - 1, 1), x, x.narrow(dim, 0, 1)), dim)

    def on_whole(self, work: Callable[..., Any], *xs: Tensor, like: int = 1) -> Any:
        return work(*xs)


WHOLE = Whole()
