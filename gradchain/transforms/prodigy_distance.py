"""Prodigy's estimate of the distance to the solution, one for the whole model: it takes the learning rate's place.

    w = d^2 lr;   s <- b s + w g;   update <- d g;   scale <- scale d
    then   r <- b r + sum(w <g, start - param>);   d <- max(d, coef r / sum(|s|));   eps_scale <- eps_scale d

with sums over all parameters that have a gradient. d starts at d0 and grows by growth_rate a step at the most, but for its
first growth. r and d are numbers of the whole optimizer: a parameter that joins late goes by those of the others.

Reads    update, param, scale, eps_scale.   Writes  update, scale, eps_scale.
State    start, gradient_sum (s): like the parameter; common to all, 0-d: seen (steps), numerator (r), growth (d / d0), bound
         (the largest estimate / d0).
Cost     4 reads, 2 writes, 2 sums a parameter.
Shapes   any.   Units  update: the gradient's times the parameter's; scale, eps_scale: those of the parameter, d.
Place    first, before the moments; ScaledNormalize, WeightDecay and ApplyScale behind them. Lion needs no normalizing link.
Fields   d0: > 0; d_coef (coef): > 0; growth_rate: > 1, None for no limit; beta3 (b): in [0, 1), the paper has the root of
         Adam's b2; safeguard_warmup: leave lr out of the weights of s; correction: decay of the averages behind, each in
         [0, 1), for whose late start scale and weights make up as Adam's bias correction does; (0, 0) for none.
Raises   ChainError if a field is out of range.
Source   Mishchenko and Defazio, Prodigy, arXiv 2306.06101, algorithm 4; growth_rate, safeguard_warmup and correction as
         prodigyopt 1.1.2 has them.
Differs  eps is scaled by the d that comes out of this step, as in that code; in the paper by the one before, as gradient
         and step are. That code skips the step, decay included, while all gradients have been 0, and refuses groups with
         different rates, which weigh by their own here; where groups differ in fields that r and d depend on, those of the
         first count. Its bias correction counts the optimizer's steps, here each parameter's own. A parameter whose gradient
         is not finite is left out of r.
         The sums grow by d^2: where parameters are so large that their rounding is a distance, they overflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gradchain.types import Carry, Context, ParamInfo, SharedTransform

ONCE = 2**62  # an interval longer than any run


class ProdigyState(NamedTuple):
    start: Tensor
    gradient_sum: Tensor
    seen: Tensor
    numerator: Tensor
    growth: Tensor
    bound: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class ProdigyDistance(SharedTransform[ProdigyState]):
    """Gradients and steps scaled by the estimated distance to the solution."""

    State = ProdigyState
    reads = frozenset({"update", "param", "scale", "eps_scale"})
    writes = frozenset({"update", "scale", "eps_scale"})
    common = ("seen", "numerator", "growth", "bound")
    every_step: ClassVar[bool] = True

    d0: Annotated[float, "(0, inf)"] = 1e-6
    d_coef: Annotated[float, "(0, inf)"] = 1.0
    growth_rate: Annotated[float, "(1, inf)"] | None = None
    beta3: Annotated[float, "[0, 1)"] = 0.999**0.5
    safeguard_warmup: bool = False
    correction: tuple[Annotated[float, "[0, 1)"], Annotated[float, "[0, 1)"]] = (0.0, 0.0)

    @property
    @override
    def refresh_schedule(self) -> tuple[int, int]:
        return self.window[0], ONCE

    @override
    def init(self, param: Tensor) -> ProdigyState:
        seen = torch.zeros((), dtype=torch.int64, device=param.device)
        zero, one = param.new_zeros(()), param.new_ones(())
        return ProdigyState(param.clone(), torch.zeros_like(param), seen, zero, one, one.clone())

    @override
    def refresh(self, carry: Carry, state: ProdigyState, ctx: Context) -> ProdigyState:
        return state._replace(start=carry.param.clone())

    def corrected(self, t: Tensor) -> Tensor:
        """The factor of Adam's bias correction."""
        b1, b2 = self.correction
        return (1 - b2**t) ** 0.5 / (1 - b1**t)

    def sums(self, carry: Carry, state: ProdigyState, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """What r grows by, the new s, and whether the parameter takes part."""
        g, growth = carry.update, state.growth.to(torch.float64)
        d = self.d0 * growth
        weight = growth * d * ctx.lr * self.corrected(ctx.step)
        product = ctx.layout.dot(g, torch.where(ctx.step > 1, state.start - carry.param, 0))
        taken = (ctx.lr > 0) & product.isfinite()
        s = self.beta3 * state.gradient_sum + (growth * d if self.safeguard_warmup else weight) * g
        return torch.where(taken, weight * product, 0), torch.where(taken, s, state.gradient_sum).to(g.dtype), taken

    @override
    def measure(self, carry: Carry, state: ProdigyState, ctx: Context) -> Tensor:
        product, s, taken = self.sums(carry, state, ctx)
        size = torch.where(ctx.lr > 0, ctx.layout.sum(s.abs()), 0)
        return torch.stack([x.to(torch.float64) for x in (product, size, taken)])

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        total = torch.stack([one.to(measured[0].device) for one in measured]).sum(0)
        return [total.to(one.device) for one in measured]

    @override
    def update(self, carry: Carry, state: ProdigyState, ctx: Context) -> tuple[Carry, ProdigyState]:
        (_, s, _), (products, size, taken) = self.sums(carry, state, ctx), ctx.shared.unbind()
        d, old = self.d0 * state.growth.to(torch.float64), state.numerator
        r = torch.where(taken > 0, self.beta3 * old + products, old).to(old.dtype)
        found = self.d_coef * r / torch.where(size > 0, size, 1) / self.d0
        found = torch.where((size > 0) & found.isfinite(), found, 0).to(state.growth.dtype)
        first = torch.where(state.growth == 1, torch.maximum(state.growth, found), state.growth)
        bound = torch.maximum(state.bound, found)
        growth = bound if self.growth_rate is None else torch.minimum(bound, first * self.growth_rate).to(bound.dtype)
        scale, eps_scale = carry.scale * d * self.corrected(ctx.step), carry.eps_scale * self.d0 * growth
        carry = carry._replace(update=d * carry.update, scale=scale, eps_scale=eps_scale)
        return carry, ProdigyState(state.start, s, state.seen + 1, r, growth, bound)

    @override
    def figures(self, state: ProdigyState) -> Mapping[str, Tensor]:
        return {"distance": self.d0 * state.growth}
