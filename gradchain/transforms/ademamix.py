"""AdEMAMix's moments: Adam's, with a second, far slower average of the gradient mixed into the first.

    m <- b1 m + (1 - b1) g;   s <- b3(t) s + (1 - b3(t)) g;   v <- b2 v + (1 - b2) g^2
    update <- m / (1 - b1^t) + a(t) s;   second_moment <- v / (1 - b2^t)

a(t) rises linearly from 0 to alpha, b3(t) from b1 to b3 so that the half-life of the average rises linearly:
1 / ln b3(t) = (1 - x) / ln b1 + x / ln b3, with x = t / warm-up.

Reads    update.   Writes  update, second_moment.   State  first, slow, second: like the parameter.   Cost  4 reads, 5 writes.
Shapes   any; elementwise.   Units  update: those of the gradient; second_moment: their square.
Place    where Moments would stand.
Fields   betas: decay of the quick average, of the squares and of the slow average, each in [0, 1); alpha: weight of the slow
         one, >= 0, and at 0 this is Moments; alpha_warmup, beta3_warmup: steps, None for none.
Raises   ChainError if a field is out of range.
Source   Pagliardini, Ablin and Grangier, The AdEMAMix Optimizer, arXiv 2409.03137, algorithm 1, with the authors' code
         (1e-8 is added to decays before their logarithm is taken).
Differs  nothing known; alpha = 2 is the default of the authors' code. pytorch_optimizer divides the slow average by 1 - b1^t
         too; timm has no AdEMAMix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

NEAR = 1e-8  # added to decays in the authors' schedule


class AdEMAMixState(NamedTuple):
    first: Tensor
    slow: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class AdEMAMix(Transform[AdEMAMixState]):
    """Adam's moments with a quick and a slow average of the gradient."""

    State = AdEMAMixState
    writes = frozenset({"update", "second_moment"})
    alias = "ademamix"

    betas: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.9, 0.999, 0.9999)
    alpha: Annotated[float, "[0, inf)"] = 2.0
    alpha_warmup: Annotated[int, "[1, inf)"] | None = None
    beta3_warmup: Annotated[int, "[1, inf)"] | None = None

    @override
    def init(self, param: Tensor) -> AdEMAMixState:
        return AdEMAMixState(torch.zeros_like(param), torch.zeros_like(param), torch.zeros_like(param))

    @override
    def figures(self, state: AdEMAMixState) -> Mapping[str, Tensor]:
        quick, slow = torch.linalg.vector_norm(state.first), self.alpha * torch.linalg.vector_norm(state.slow)
        return {"slow share": slow / torch.where(quick + slow > 0, quick + slow, 1)}

    def slow_decay(self, t: Tensor) -> Tensor:
        """b3(t)."""
        b1, _, b3 = (torch.as_tensor(b, dtype=torch.float64, device=t.device) for b in self.betas)
        if self.beta3_warmup is None:
            return b3
        x = t / self.beta3_warmup
        warm = (1 / ((1 - x) / (b1 + NEAR).log() + x / (b3 + NEAR).log())).exp()
        return torch.where(x < 1, torch.minimum(warm, b3.clamp(min=b1)), b3)

    @override
    def update(self, carry: Carry, state: AdEMAMixState, ctx: Context) -> tuple[Carry, AdEMAMixState]:
        (b1, b2, _), b3 = self.betas, self.slow_decay(ctx.step)
        g, t = carry.update, ctx.step
        a = self.alpha if self.alpha_warmup is None else self.alpha * (t / self.alpha_warmup).clamp(max=1)
        m = b1 * state.first + (1 - b1) * g
        s = b3 * state.slow + (1 - b3) * g
        v = b2 * state.second + (1 - b2) * g * g
        return carry._replace(update=m / (1 - b1**t) + a * s, second_moment=v / (1 - b2**t)), AdEMAMixState(m, s, v)
