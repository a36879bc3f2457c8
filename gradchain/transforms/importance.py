"""Importance scores: parameters that matter more than others take longer steps, and those that matter less shorter ones.

At the first step and every N steps after it, for each parameter of n elements,

    G = s |grad| / sqrt(n),  s = max(0.1, 1 - std / mean of the last five |grad|);   C = ||w| - |w0|| / |w0|
    I = var(w) (1 - share of |w_i| < 1e-6);   c = 0.4 G / mean(G) + 0.3 C / mean(C) + 0.3 I / mean(I);   e <- r e + (1 - r) c

    scale <- scale clip(1 + a (e - 1), low, high)                                                 at every step

with means over all parameters of all groups, so that the scores' mean is 1, whatever the units of gradients and weights.

Reads    grad, param, scale.   Writes  scale.   State  score (e): 0-d; norms: the last five |grad|; start (|w0|): 0-d.
Cost     none, but every N steps 3 reads and 6 sums a parameter and a sum over all parameters.
Shapes   any; 0-d and one-element parameters have I = 0, empty ones only zeros.   Units  a pure number.
Place    before ApplyScale.
Fields   adaptation_strength (a): 0 for none, >= 0; importance_decay (r): in [0, 1); importance_interval (N): >= 1;
         importance_range (low, high): each >= 0.
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts), whose documents want longer steps for important parameters.
Differs  there the score is absolute and falls like 0.95^(t / 100) where gradients and weights are small, a hidden decay of the
         learning rate (AbsoluteImportance); |grad| is not divided by sqrt(n), so that large parameters pass for important; the
         strength multiplies the learning rate; and only the first group is ever scored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._importance import ImportanceState, change, fresh, intrinsic, remembered, steadiness
from gradchain.types import Carry, Context, ParamInfo, SharedTransform


@dataclass(frozen=True, kw_only=True, repr=False)
class Importance(SharedTransform[ImportanceState]):
    """Factor per parameter, by its importance beside that of the others."""

    State = ImportanceState
    reads = frozenset({"grad", "param", "scale"})
    writes = frozenset({"scale"})
    off = {"adaptation_strength": 0.0}

    adaptation_strength: Annotated[float, "[0, inf)"] = 1.0
    importance_decay: Annotated[float, "[0, 1)"] = 0.95
    importance_interval: Annotated[int, "[1, inf)"] = 100
    importance_range: tuple[Annotated[float, "[0, inf)"], Annotated[float, "[0, inf]"]] = (0.1, 3.0)

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return 1, self.importance_interval

    @override
    def init(self, param: Tensor) -> ImportanceState:
        return fresh(param)

    @override
    def figures(self, state: ImportanceState) -> Mapping[str, Tensor]:
        return {"score": state.score, "factor": self.factor(state.score)}

    def factor(self, score: Tensor) -> Tensor:
        """What a score is worth."""
        return (1 + self.adaptation_strength * (score - 1)).clamp(*self.importance_range)

    @override
    def measure(self, carry: Carry, state: ImportanceState, ctx: Context) -> Tensor:
        layout, w = ctx.layout, carry.param
        rms = layout.norm(carry.grad) / max(1, math.prod(layout.shape(w))) ** 0.5
        parts = (rms * steadiness(state.norms), change(layout.norm(w), state.start), intrinsic(w, layout))
        return torch.stack([part.to(w.dtype) for part in parts]).nan_to_num(posinf=0)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        parts = torch.stack([one.to(measured[0].device, torch.float64) for one in measured])
        mean = parts.mean(0)
        relative = torch.where(mean > 0, parts / torch.where(mean > 0, mean, 1), 1)
        gradient, drift, variance = relative.unbind(1)
        worth = 0.4 * gradient + 0.3 * drift + 0.3 * variance
        return [one.to(like.device) for one, like in zip(worth.unbind(), measured, strict=True)]

    @override
    def refresh(self, carry: Carry, state: ImportanceState, ctx: Context) -> ImportanceState:
        score = self.importance_decay * state.score + (1 - self.importance_decay) * ctx.shared
        return remembered(state, score, ctx.layout.norm(carry.grad), ctx.layout.norm(carry.param))

    @override
    def update(self, carry: Carry, state: ImportanceState, ctx: Context) -> tuple[Carry, ImportanceState]:
        return carry._replace(scale=carry.scale * self.factor(state.score)), state
