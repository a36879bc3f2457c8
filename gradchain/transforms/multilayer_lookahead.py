"""Lookahead in layers: slow weights behind slow weights, each meeting the layer before it more rarely.

    f = param - update;   when t is a multiple of k_1:   s_1 <- s_1 + a_1 (f - s_1), and the step lands on s_1
    at every k_l-th meeting of layer l - 1:              s_l <- s_l + a_l (s_(l-1) - s_l),  s_(l-1) <- s_l

Reads    update, param.   Writes  update.
State    slow_1 ... slow_4 (s): like the parameter, its value when the link sets in; empty beyond la_layers.
Cost     2 reads, 1 write, and 2 reads, 1 write a layer.
Shapes   any; elementwise.   Units  those of the parameter.
Place    last: it owns the write. In the original between two steps of the run: Phase(link, start=W, stop=2 * W).
Fields   la_layers: 1 to 4; la_alphas (a): share of the way a layer, each in [0, 1]; la_ks (k): meetings between, each >= 1.
Raises   ChainError if a field is out of range.
Source   the first Automagic CameAMP (hinablue/sd-scripts). Lookahead is the paper's single layer.
Differs  nothing known. When a deeper layer has met, the parameters follow at the next meeting, not at once. A meeting at lr = 0
         is left out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, Transform

ONCE = 2**62  # an interval longer than any run
Share = Annotated[float, "[0, 1]"]
Count = Annotated[int, "[1, inf)"]


class MultilayerLookaheadState(NamedTuple):
    slow_1: Tensor
    slow_2: Tensor
    slow_3: Tensor
    slow_4: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class MultilayerLookahead(Transform[MultilayerLookaheadState]):
    """Slow weights in layers that the parameters return to."""

    State = MultilayerLookaheadState
    reads = frozenset({"update", "param"})
    traits = frozenset({"owns"})

    la_layers: Annotated[int, "[1, 4]"] = 3
    la_alphas: tuple[Share, Share, Share, Share] = (0.6, 0.75, 0.85, 0.85)
    la_ks: tuple[Count, Count, Count, Count] = (5, 5, 3, 3)

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> MultilayerLookaheadState:
        return self._from(param)

    @override
    def refresh(self, carry: Carry, state: MultilayerLookaheadState, ctx: Context) -> MultilayerLookaheadState:
        return self._from(carry.param)

    @override
    def update(self, carry: Carry, state: MultilayerLookaheadState, ctx: Context) -> tuple[Carry, MultilayerLookaheadState]:
        f = carry.param - carry.update
        layers = [f, *state[: self.la_layers]]
        k = self.la_ks[0]
        meet = (ctx.step % k == 0) & (ctx.lr != 0)
        meetings = torch.floor(ctx.step / k) - (self.window[0] - 1) // k  # of layer 1, since the link set in
        for l in range(1, self.la_layers + 1):  # noqa: E741
            if l > 1:
                meet = meet & (meetings % self.la_ks[l - 1] == 0)
                meetings = torch.floor(meetings / self.la_ks[l - 1])
            a = self.la_alphas[l - 1]
            slow = torch.where(meet, a * layers[l - 1] + (1 - a) * layers[l], layers[l])
            layers[l - 1 : l + 1] = torch.where(meet, slow, layers[l - 1]), slow
        slow = MultilayerLookaheadState(*layers[1:], *state[self.la_layers :])
        return carry._replace(update=carry.update + (f - layers[0])), slow

    def _from(self, param: Tensor) -> MultilayerLookaheadState:
        kept = self.la_layers
        return MultilayerLookaheadState(*[param.clone() if i < kept else param.new_empty(0) for i in range(4)])
