"""Leading singular subspaces of matrices, followed from step to step, which the links on rank share. Not a transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradchain.types import Layout


def mean_rank_decay(extents: tuple[int, ...]) -> float:
    """Mean of exp(-0.1 k) over k = 0 ... r - 1, where r is the smaller extent: what CameAMP's rank-aware decay comes to."""
    r = min(extents)
    return (1 - math.exp(-0.1 * r)) / (r * (1 - math.exp(-0.1))) if r > 0 else 0.0


def first_basis(param: Tensor, rank: int) -> Tensor:
    """Orthonormal columns to start from, as many as ``rank`` or the matrix has; empty for anything but matrices.

    They come from chirps, which are as good as random and always the same.
    """
    if param.dim() != 2:
        return param.new_zeros((0, 0))
    columns = param.shape[1]
    i = torch.arange(1, columns + 1, dtype=torch.float64, device=param.device)
    j = torch.arange(1, min(rank, columns) + 1, dtype=torch.float64, device=param.device)
    return torch.linalg.qr(torch.cos(i[:, None] ** 2 * (j - 0.5) * math.sqrt(2))).Q.to(param.dtype)


def has_tail(w: Tensor, basis: Tensor, layout: Layout) -> bool:
    """Whether a matrix has more singular values than the basis has columns."""
    shape = layout.shape(w)
    return len(shape) == 2 and all(size > basis.shape[-1] for size in shape)


def follow(w: Tensor, basis: Tensor, layout: Layout) -> Tensor:
    """The basis one step nearer to the leading right singular vectors: Q <- qr(W' W Q), on W scaled to be harmless.

    Where W holds what is not finite, the basis stays what it was.
    """

    def turned(w: Tensor) -> Tensor:
        largest = w.abs().amax()
        scaled = w / torch.where(largest > 0, largest, 1)
        q = torch.linalg.qr(scaled.mT @ (scaled @ basis)).Q
        return torch.where(q.isfinite().all(), q, basis)

    return layout.on_whole(turned, w, like=0)


def leading(w: Tensor, basis: Tensor, layout: Layout) -> Tensor:
    """The part of W in the rows' subspace that the basis spans: W Q Q'."""

    def projected(w: Tensor) -> Tensor:
        return (w @ basis) @ basis.mT

    return layout.on_whole(projected, w)
