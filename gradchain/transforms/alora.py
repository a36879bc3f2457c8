"""ALoRA scaling: A of a LoRA pair slows down as the adapter grows, B learns faster.

    A   update <- update / (1 + s),   s = mean over rows of |(B A)_row|
    B   update <- ratio update

PublishedALoRA is the program's form: the ratio only for a B without a partner; a pair whose shapes do not fit as B A is
multiplied in another order, or s is the mean of |A| and |B|.

Reads    update, param.   Writes  update.   State  factor: 0-d.   Cost  2 reads, 1 write, 2 products by a rank-sized matrix.
Shapes   any; tensors beyond matrices (convolutions) by their first extent and the rest; other parameters pass through.
Units    those of update (a rescaling).
Place    after Normalize, which would undo it; before WeightDecay, which is then not multiplied, and LearningRate.
Fields   alora_ratio: lr of B over lr of A where the adapter is zero, >= 0.
Raises   ChainError if alora_ratio is negative.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), which names ALLoRA (arXiv 2410.09692) and LoRA+ (arXiv 2402.12354)
         as its models; no paper has this rule. Not ALoRA of arXiv 2403.16187, which allocates ranks.
         Pairs are found by name. A partner without a gradient in this step counts if it stands in one of the same groups.
Differs  the program takes the parameters as its loop has left them, so that what stands later in a group sees new values;
         here both forms take them before the step. Its documentation gives every B the ratio. It finds a pair only within
         a parameter group, by parts of names anywhere, case included: "lora_attn.lora_up" is an A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from torch import Tensor
from typing_extensions import override

from gradchain.transforms._pairs import adapters, alike, dealt, itself, mean_row_length, resting, told, values
from gradchain.transforms._published_pairs import lora_pairs, pair_length
from gradchain.types import Carry, Context, ParamInfo, SharedTransform


class ALoRAState(NamedTuple):
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _ALoRA(SharedTransform[ALoRAState]):
    State = ALoRAState
    reads = frozenset({"update", "param"})
    traits = frozenset({"names", "favors_b"})

    alora_ratio: Annotated[float, "[0, inf)"] = 16.0

    @override
    def init(self, param: Tensor) -> ALoRAState:
        return ALoRAState(param.new_ones(()))

    @override
    def figures(self, state: ALoRAState) -> Mapping[str, Tensor]:
        return {"factor": state.factor}

    @override
    def measure(self, carry: Carry, state: ALoRAState, ctx: Context) -> Tensor:
        return ctx.layout.on_whole(itself, carry.param, like=0)

    @override
    def update(self, carry: Carry, state: ALoRAState, ctx: Context) -> tuple[Carry, ALoRAState]:
        length, leads = ctx.shared
        factor = (1 + leads * (self.alora_ratio - 1)) / (1 + length)
        return carry._replace(update=carry.update * factor), ALoRAState(factor.to(carry.update.dtype))


@dataclass(frozen=True, kw_only=True, repr=False)
class ALoRA(_ALoRA):
    """Damping of A by the size of the adapter, ratio for B."""

    alias = "alora"

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        rest = resting(infos)
        found, w = adapters([*infos, *rest]), values(measured, rest)
        b = {i for family, i in found.leads if family == "lora"}
        products = {i: (w[j].to(w[i]).flatten(1), w[i].flatten(1)) for i, j in found.pairs}
        return dealt(measured, alike(mean_row_length, products), b)

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        return told(infos, "lora")


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedALoRA(_ALoRA):
    """ALoRA scaling as the program has it."""

    alias = "published_alora"

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        rest = resting(infos)
        (pairs, alone), w = lora_pairs([*infos, *rest]), values(measured, rest)
        both = {i: (w[i].flatten(1), w[j].to(w[i]).flatten(1)) for i, j in pairs}
        return dealt(measured, alike(pair_length, both), alone)

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        infos = [*infos, *resting(infos)]
        pairs, alone = lora_pairs(infos)
        found = {"pairs": [{"A": infos[a].name, "B": infos[b].name} for a, b in pairs]}
        return {**found, "B without a partner": [infos[i].name for i in alone]} if alone else found
