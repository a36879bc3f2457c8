"""Importance as an absolute score: the size and steadiness of the gradient, the change of the weights' norm, their variance.

Every N steps of the optimizer, from step N on, for parameters with and without a gradient (then |grad| = 0),

    G = s |grad|,  s = max(0.1, 1 - std / mean of the last five |grad|);   C = ||w| - |w0|| / |w0|
    I = var(w) (1 - share of |w_i| < 1e-6);   e <- r e + (1 - r) max(0.01, 0.4 G + 0.3 C + 0.3 I)

    scale <- scale clip(a e, low, high)                                                            at every step

Reads    grad, param, scale.   Writes  scale.
State    score (e): 0-d; norms: the last five |grad|; start (|w0|): 0-d, the weights' norm at the first refresh.
Cost     none, but every N steps 3 reads and 6 sums a parameter.
Shapes   any; a one-element parameter has no variance and counts 0.01.   Units  a mixture: gradients, pure numbers and squared
         weights.
Place    before ApplyScale.
Fields   adaptation_strength (a): multiplies the learning rate too, >= 0; importance_decay (r): in [0, 1); importance_interval
         (N): >= 1; importance_range (low, high): each >= 0.
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW (hinablue/sd-scripts).
Differs  there only the first parameter group is ever scored, parameters that are frozen are scored too, and no score is
         saved. Importance is the form that compares parameters with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._importance import ImportanceState, change, fresh, intrinsic, remembered, steadiness
from gradchain.types import Carry, Context, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class AbsoluteImportance(Transform[ImportanceState]):
    """Factor per parameter, by an absolute score."""

    State = ImportanceState
    reads = frozenset({"grad", "param", "scale"})
    writes = frozenset({"scale"})
    traits = frozenset({"optimizer_step"})
    refreshes_by = "optimizer_step"

    adaptation_strength: Annotated[float, "[0, inf)"] = 1.0
    importance_decay: Annotated[float, "[0, 1)"] = 0.95
    importance_interval: Annotated[int, "[1, inf)"] = 100
    importance_range: tuple[Annotated[float, "[0, inf)"], Annotated[float, "[0, inf]"]] = (0.1, 3.0)

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.importance_interval, self.importance_interval

    @override
    def init(self, param: Tensor) -> ImportanceState:
        return fresh(param)

    @override
    def figures(self, state: ImportanceState) -> Mapping[str, Tensor]:
        return {"score": state.score, "factor": self.factor(state.score)}

    def factor(self, score: Tensor) -> Tensor:
        """What a score is worth."""
        return (self.adaptation_strength * score).clamp(*self.importance_range)

    @override
    def refresh(self, carry: Carry, state: ImportanceState, ctx: Context) -> ImportanceState:
        norm, size = ctx.layout.norm(carry.grad), ctx.layout.norm(carry.param)
        gradient = norm * steadiness(state.norms)
        worth = 0.4 * gradient + 0.3 * change(size, state.start) + 0.3 * intrinsic(carry.param, ctx.layout)
        worth = torch.where((worth > 0.01) & worth.isfinite(), worth, 0.01)
        score = self.importance_decay * state.score + (1 - self.importance_decay) * worth
        return remembered(state, score, norm, size)

    @override
    def update(self, carry: Carry, state: ImportanceState, ctx: Context) -> tuple[Carry, ImportanceState]:
        return carry._replace(scale=carry.scale * self.factor(state.score)), state
