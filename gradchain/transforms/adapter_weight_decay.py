"""Decoupled weight decay after the step that fades for adapters alone: LoRA and LoKr factors by name, each at their pace.

    update <- update + lr wd k (w - update)
    k = 1 for t <= T, else max(c floor, f^(e min((t - T) / T, longest)))

    lora_A, lora_B, lora_down, lora_up    e = 1,   longest = 2,   c = 1
    lokr_...                              e = 0.7, longest = 1.5, c = 1.5
    everything else                       k = 1

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise. t is the parameter's own count of steps with a gradient.   Units  those of the parameter.
Place    after LearningRate; the learning rate is the group's.
Fields   weight_decay (wd): strength at first, >= 0; wd_transition_steps (T): >= 1; wd_decay_factor (f): what each further T
         steps leave, in (0, 1]; wd_min_ratio (floor): in [0, 1].
Raises   ChainError if a field is out of range.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), dynamic_weight_decay.
Differs  T = 0 divides by zero there. As there, parts of names count anywhere in a name ("lora_attn.bias" is an adapter's), and
         the floor is out of reach at f = 0.7. DynamicWeightDecay needs no names and reaches its floor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.transforms._published_pairs import kind
from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform

PACES = {"lora": (1.0, 2.0, 1.0), "lokr": (0.7, 1.5, 1.5), "": (0.0, 0.0, 0.0)}  # e, longest, c


@dataclass(frozen=True, kw_only=True, repr=False)
class AdapterWeightDecay(SharedTransform):
    """Decoupled weight decay after the step, fading for LoRA and LoKr factors."""

    reads = frozenset({"update", "param"})
    traits = frozenset({"names"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0
    wd_transition_steps: Annotated[int, "[1, inf)"] = 1000
    wd_decay_factor: Annotated[float, "(0, 1]"] = 0.7
    wd_min_ratio: Annotated[float, "[0, 1]"] = 0.1

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        return carry.update.new_zeros((), dtype=torch.float64)

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        paces = [PACES[kind(info.name)[:4]] for info in infos]
        return [tuple(zero + number for number in pace) for zero, pace in zip(measured, paces, strict=True)]

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        fading = [info.name for info in infos if kind(info.name)]
        return {"fading": fading} if fading else {}

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        exponent, longest, multiple = ctx.shared
        u, late = carry.update, (ctx.step - self.wd_transition_steps) / self.wd_transition_steps
        k = self.wd_decay_factor ** (exponent * torch.minimum(late.to(longest.device), longest))
        k = torch.where(late.to(longest.device) > 0, torch.maximum(k, multiple * self.wd_min_ratio), 1)
        return carry._replace(update=u + ctx.lr * self.weight_decay * k * (carry.param - u)), state
