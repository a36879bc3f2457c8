"""Lookahead: every k steps the parameters are drawn to slow weights that have followed them part of the way.

    f = param - update;   every k steps:  s <- s + a (f - s),  and the step lands on s

Reads    update, param, gate.   Writes  update.   State  slow (s): like the parameter, its value before the first step.
Cost     3 reads, 2 writes.
Shapes   any; elementwise.   Units  those of the parameter.
Place    last: it owns the write, so that no link behind it may change the step. State of the links before it goes on.
Fields   la_steps (k): steps between meetings, >= 1; la_alpha (a): share of the way, in [0, 1]; 1 leaves everything as it is.
Raises   ChainError if a field is out of range.
Source   Zhang et al., Lookahead Optimizer, arXiv 1907.08610, algorithm 1; k and a as in the authors' code.
Differs  that code keeps the slow weights and the count out of its checkpoints; timm's first meeting does nothing. A meeting at
         lr = 0, or behind a closed gate, is left out here, so that such a step changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

ONCE = 2**62  # an interval longer than any run


class LookaheadState(NamedTuple):
    slow: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Lookahead(Transform[LookaheadState]):
    """Slow weights that the parameters return to."""

    State = LookaheadState
    reads = frozenset({"update", "param", "gate"})
    traits = frozenset({"owns"})
    off = {"la_alpha": 1.0}

    la_steps: Annotated[int, "[1, inf)"] = 5
    la_alpha: Annotated[float, "[0, 1]"] = 0.8

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> LookaheadState:
        return LookaheadState(param.clone())

    @override
    def refresh(self, carry: Carry, state: LookaheadState, ctx: Context) -> LookaheadState:
        return LookaheadState(carry.param.clone())

    @override
    def update(self, carry: Carry, state: LookaheadState, ctx: Context) -> tuple[Carry, LookaheadState]:
        f, a = carry.param - carry.update, self.la_alpha
        meet = (ctx.step % self.la_steps == 0) & (ctx.lr != 0) & (carry.gate != 0)
        slow = torch.where(meet, a * f + (1 - a) * state.slow, state.slow)
        back = torch.where(meet, f - slow, 0)
        return carry._replace(update=carry.update + back), LookaheadState(slow)

    @override
    def figures(self, state: LookaheadState) -> Mapping[str, Tensor]:
        return {"slow weights' norm": torch.linalg.vector_norm(state.slow)}
