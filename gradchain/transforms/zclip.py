"""ZClip: the norm of all gradients is clipped where it stands out from its own recent history.

    n = |all gradients|;   z = (n - mean) / (sqrt(variance) + eps)
    n' = mean + z_thresh^2 sqrt(variance) / z   where z > z_thresh, else n;   update <- update n' / n
    mean <- a mean + (1 - a) n';   variance <- a variance + (1 - a) (n' - mean)^2

In the first steps nothing is clipped, and mean and variance are those of the norms so far. They are numbers of the whole
optimizer: a parameter that joins late goes by those of the others.

Reads    update.   Writes  update.   State  seen (norms so far), mean, variance: 0-d, common to all parameters.
Cost     2 reads, 1 write, 1 norm a parameter.
Shapes   any.   Units  those of update (a rescaling). A norm that is not finite leaves the state as it is.
Place    first, on gradients. A fixed limit besides is a link of its own, ClipGlobalNorm.
Fields   z_thresh: > 0; zclip_alpha (a): in [0, 1); zclip_warmup_steps: >= 1; zclip_eps (eps): >= 0.
Raises   ChainError if a field is out of range.
Source   Kumar et al., ZClip: Adaptive Spike Mitigation for LLM Pre-Training, arXiv 2504.02507, with the reciprocal adjustment.
Differs  the authors' code keeps its state outside of checkpoints, always clips to a norm of 1 besides, and its clip_factor
         multiplies the mean too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, ParamInfo, SharedTransform


class NormHistory(NamedTuple):
    seen: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class ZClip(SharedTransform[NormHistory]):
    """Limit on the norm of all gradients by its z-score."""

    State = NormHistory
    common = ("seen", "mean", "variance")
    off = {"z_thresh": torch.inf}

    z_thresh: Annotated[float, "(0, inf]"] = 2.5
    zclip_alpha: Annotated[float, "[0, 1)"] = 0.97
    zclip_warmup_steps: Annotated[int, "[1, inf)"] = 25
    zclip_eps: Annotated[float, "[0, inf)"] = 1e-6

    @override
    def init(self, param: Tensor) -> NormHistory:
        seen = torch.zeros((), dtype=torch.int64, device=param.device)
        return NormHistory(seen, param.new_zeros(()), param.new_zeros(()))

    @override
    def measure(self, carry: Carry, state: NormHistory, ctx: Context) -> Tensor:
        return ctx.layout.norm(carry.update)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        length = torch.linalg.vector_norm(torch.stack([one.to(measured[0].device, torch.float64) for one in measured]))
        return [length.to(one.device) for one in measured]

    @override
    def update(self, carry: Carry, state: NormHistory, ctx: Context) -> tuple[Carry, NormHistory]:
        n, mean, deviation, t = ctx.shared, state.mean, state.variance.sqrt(), state.seen + 1
        z = (n - mean) / (deviation + self.zclip_eps)
        warm = t <= self.zclip_warmup_steps
        spike = (z > self.z_thresh) & ~warm
        clipped = torch.where(spike, mean + self.z_thresh**2 * deviation / torch.where(spike, z, 1), n)
        a = torch.where(warm, 1 - 1 / t.to(torch.float64), self.zclip_alpha)  # 1 - 1 / t makes running averages plain ones
        new_mean = a * mean + (1 - a) * clipped
        apart = (clipped - new_mean) * torch.where(warm, clipped - mean, clipped - new_mean)
        variance = a * state.variance + (1 - a) * apart
        factor = torch.where(spike, clipped / torch.where(n > 0, n, 1), 1)
        new = zip((t, new_mean, variance), state, strict=True)
        kept = (torch.where(n.isfinite(), x, old).to(old.dtype) for x, old in new)
        return carry._replace(update=carry.update * factor), NormHistory(*kept)

    @override
    def figures(self, state: NormHistory) -> dict[str, Tensor]:
        return {"mean": state.mean, "deviation": state.variance.sqrt()}
