"""Decoupled weight decay that fades: constant up to step T, then exponentially down to a floor.

    k(t) = 1 for t <= T, else max(floor, f^((t - T) / T))

    DynamicWeightDecay            update <- update + wd k w                        before the learning rate
    DynamicWeightDecayAfterStep   update <- update + lr wd k (w - update),         of the parameter that the step arrives at;
                                  with min((t - T) / T, longest) in the exponent

Reads    update, param.   Writes  update.   State  none.   Cost  2 reads, 1 write.
Shapes   any; elementwise. t is the parameter's own count of steps with a gradient.   Units  DynamicWeightDecay: those of the
         parameter over the learning rate; DynamicWeightDecayAfterStep: those of the parameter.
Place    DynamicWeightDecay after the direction is formed, before LearningRate; DynamicWeightDecayAfterStep after LearningRate,
         and the learning rate is the group's.
Fields   weight_decay (wd): strength at first, >= 0; wd_transition_steps (T): >= 1; wd_decay_factor (f): what each further T
         steps leave, in (0, 1]; wd_min_ratio (floor): in [0, 1]; wd_longest (longest): how many times T it lasts, >= 0.
Raises   ChainError if a field is out of range.
Source   AdaptiveHinaAdamW and HinaAdamWOptimizer (hinablue/sd-scripts) and their DYNAMIC_WEIGHT_DECAY_THEORY.md.
Differs  AdaptiveHinaAdamW is DynamicWeightDecayAfterStep with longest = 2: at f = 0.7 it stops at 0.49, so that the floor of
         0.1, and the 24 % and 10 % that the document promises after 5000 and 7000 steps, are never reached. DynamicWeightDecay
         does what the document says. T = 0 divides by zero there. HinaAdamWOptimizer fades the decay of adapters alone, each
         kind at a pace of its own: that is AdapterWeightDecay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import override

from gradchain.transforms._decay_schedule import decay_factor
from gradchain.types import Carry, Context, NoState, Transform


@dataclass(frozen=True, kw_only=True, repr=False)
class _Fading(Transform):
    reads = frozenset({"update", "param"})
    off = {"weight_decay": 0.0}

    weight_decay: Annotated[float, "[0, inf)"] = 0.0
    wd_transition_steps: Annotated[int, "[1, inf)"] = 1000
    wd_decay_factor: Annotated[float, "(0, 1]"] = 0.7
    wd_min_ratio: Annotated[float, "[0, 1]"] = 0.1


@dataclass(frozen=True, kw_only=True, repr=False)
class DynamicWeightDecay(_Fading):
    """Decoupled weight decay that fades to a floor."""

    traits = frozenset({"decays"})

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        k = decay_factor(ctx.step, self.wd_transition_steps, self.wd_decay_factor, self.wd_min_ratio)
        return carry._replace(update=carry.update + self.weight_decay * k * carry.param), state


@dataclass(frozen=True, kw_only=True, repr=False)
class DynamicWeightDecayAfterStep(_Fading):
    """Decoupled weight decay that fades for a while, applied after the step."""

    wd_longest: Annotated[float, "[0, inf]"] = 2.0

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        u = carry.update
        k = decay_factor(ctx.step, self.wd_transition_steps, self.wd_decay_factor, self.wd_min_ratio, self.wd_longest)
        return carry._replace(update=u + ctx.lr * self.weight_decay * k * (carry.param - u)), state
