"""Muon's orthogonalization: the singular values of a matrix are all brought close to 1, its singular vectors are kept.

    X <- update / max(|update|, eps);   k times:  A <- X X',  X <- a X + (b A + c A A) X;   update <- s X

A matrix with more rows than columns is transposed for it. Of m rows and n columns, by adjust_lr_fn,

    "original"         s = sqrt(max(1, m / n))     so that a step changes outputs alike whatever the shape
    "match_rms_adamw"  s = 0.2 sqrt(max(m, n))     root mean square 0.2, so that AdamW's lr and weight decay fit
    "rms_to_rms"       s = sqrt(m / n)
    "none"             s = 1

Reads    update.   Writes  update.   State  none.
Cost     4 k m n min(m, n) operations and 2 k min(m, n)^3; 2 k + 3 tensors of the parameter's size are written.
Shapes   two or more dimensions, flattened to a matrix of rows; 0-d and 1-d pass through as they are.
Units    of what it writes: a pure number. Scale-invariant above eps; of zeros, zeros.
Place    behind the momentum, ahead of WeightDecay and LearningRate. Elementwise links behind it undo the orthogonality.
Fields   ns_steps (k): in [1, 99]; ns_coefficients (a, b, c): "jordan" (3.4445, -4.775, 2.0315), steepest at 0, which leaves
         singular values above 1/100 of |update| between 0.68 and 1.21, or "convergent" (15/8, -5/4, 3/8), which goes to 1 in
         10 to 30 steps; ns_eps (eps): >= 0; adjust_lr_fn (s); ns_precision: "full" (that of the state) or "bfloat16".
Raises   ChainError if a field is out of range.
Source   Jordan et al., Muon, 2024, kellerjordan.github.io/posts/muon; Liu et al., arXiv 2502.16982 ("match_rms_adamw").
Differs  torch.optim.Muon and the authors iterate in bfloat16, about 3 digits: ns_precision="bfloat16" gives their numbers.
         torch refuses what is not a matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, Transform

COEFFICIENTS = {"jordan": (3.4445, -4.7750, 2.0315), "convergent": (15 / 8, -5 / 4, 3 / 8)}


def _factor(rule: str, rows: int, columns: int) -> float:
    if rule == "none" or not rows * columns:
        return 1.0
    factors = {"original": max(1, rows / columns) ** 0.5, "match_rms_adamw": 0.2 * max(rows, columns) ** 0.5}
    return factors.get(rule, math.sqrt(rows / columns))


@dataclass(frozen=True, kw_only=True, repr=False)
class Orthogonalize(Transform):
    """Newton-Schulz iteration towards the nearest orthogonal matrix."""

    ns_steps: Annotated[int, "[1, 99]"] = 5
    ns_coefficients: Literal["jordan", "convergent"] = "jordan"
    ns_eps: Annotated[float, "[0, inf)"] = 1e-7
    adjust_lr_fn: Literal["original", "match_rms_adamw", "rms_to_rms", "none"] = "original"
    ns_precision: Literal["full", "bfloat16"] = "full"

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        if len(shape := ctx.layout.shape(carry.update)) < 2:
            return carry, state
        a, b, c = COEFFICIENTS[self.ns_coefficients]
        steps, eps, narrow = self.ns_steps, self.ns_eps, self.ns_precision == "bfloat16"
        tall = shape[0] > math.prod(shape[1:])

        def orthogonal(u: Tensor) -> Tensor:
            x = u.bfloat16() if narrow else u
            x = x.flatten(1).mT if tall else x.flatten(1)
            length = torch.linalg.vector_norm(x)
            floor = torch.as_tensor(eps, dtype=x.dtype, device=x.device).clamp(min=torch.finfo(x.dtype).tiny)
            x = x / torch.maximum(length, floor)
            for _ in range(steps):
                gram = x @ x.mT
                x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            return (x.mT if tall else x).reshape(u.shape).to(u.dtype)

        factor = _factor(self.adjust_lr_fn, shape[0], math.prod(shape[1:]))
        return carry._replace(update=factor * ctx.layout.on_whole(orthogonal, carry.update)), state
