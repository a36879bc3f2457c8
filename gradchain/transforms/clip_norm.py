"""Clipping by norm: a gradient that is longer than a limit is shortened to it.

    update <- update min(1, c / |update|)

ClipNorm takes the norm of each parameter's gradient, ClipGlobalNorm that of all gradients together.

Reads    update.   Writes  update.   State  none.   Cost  2 reads, 1 write, 1 norm a parameter.
Shapes   any.   Units  c: those of update. A norm that is not finite makes the update not finite: no limit can tell what it was.
Place    first, on gradients; ClipGlobalNorm before what works on each parameter's gradient by itself.
Fields   clip_norm (c of ClipNorm), max_norm (c of ClipGlobalNorm): > 0.
Raises   ChainError if the limit is not positive.
Source   Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, arXiv 1211.5063, algorithm 1.
Differs  torch.nn.utils.clip_grad_norm_ adds 1e-6 to the norm, so that a clipped gradient is a little shorter than the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipNorm(Transform):
    """Limit on the norm of each parameter's gradient."""

    off = {"clip_norm": torch.inf}

    clip_norm: Annotated[float, "(0, inf]"] = 1.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        factor = (self.clip_norm / ctx.layout.norm(carry.update)).clamp(max=1)
        return carry._replace(update=carry.update * factor), state


@dataclass(frozen=True, kw_only=True, repr=False)
class ClipGlobalNorm(SharedTransform):
    """Limit on the norm of all gradients together."""

    off = {"max_norm": torch.inf}

    max_norm: Annotated[float, "(0, inf]"] = 1.0

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        return ctx.layout.norm(carry.update)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        length = torch.linalg.vector_norm(torch.stack([one.to(measured[0].device, torch.float64) for one in measured]))
        return [length.to(one.device) for one in measured]

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update * (self.max_norm / ctx.shared).clamp(max=1)), state
