"""Kronecker-aware scaling of LoKr: the factors slow down as the adapter grows, the one that starts at zero learns faster.

    update <- update / (1 + c |W1 (x) W2|)   for every factor;   w2, or w2_b where w2 is decomposed: ratio times that
    |W1 (x) W2| = |W1| |W2|;   W = w, or w_a w_b, or built from t, w_a and w_b

PublishedLoKrScale is the program's form, which pairs w1 with w2, w1_a with w2_a, w1_b with w2_b, and gives w2_a the ratio too.

Reads    update, param.   Writes  update.   State  factor: 0-d.   Cost  2 reads, 1 write, products of a rank's size.
Shapes   any; other parameters pass through.   Units  those of update (a rescaling).
Place    after Normalize, which would undo it; before WeightDecay, which is then not multiplied, and LearningRate.
Fields   lokr_damping (c): >= 0; lokr_ratio: lr of the factor that starts at zero over the lr of the others, >= 0.
Raises   ChainError if a field is negative.
Source   HinaAdamWOptimizer (hinablue/sd-scripts, e57630c), with ratio 0.6 alora_ratio; factors as LyCORIS multiplies them.
         Factors are found by name. One without a gradient in this step counts if it stands in one of the same groups.
Differs  in the program a full w1 and a decomposed w2 are never paired, and parameters are taken as its loop has left them;
         here before the step. An earlier revision multiplied w_b w_a, and never ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from torch import Tensor
from typing_extensions import override

from gradchain.transforms._pairs import adapters, dealt, itself, kronecker_norms, resting, told, values
from gradchain.transforms._published_pairs import kind, lokr_groups
from gradchain.types import Carry, Context, ParamInfo, SharedTransform


class LoKrState(NamedTuple):
    factor: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class _LoKrScale(SharedTransform[LoKrState]):
    State = LoKrState
    reads = frozenset({"update", "param"})
    traits = frozenset({"names"})

    lokr_damping: Annotated[float, "[0, inf)"] = 0.3
    lokr_ratio: Annotated[float, "[0, inf)"] = 9.6

    @override
    def init(self, param: Tensor) -> LoKrState:
        return LoKrState(param.new_ones(()))

    @override
    def figures(self, state: LoKrState) -> Mapping[str, Tensor]:
        return {"factor": state.factor}

    @override
    def measure(self, carry: Carry, state: LoKrState, ctx: Context) -> Tensor:
        return ctx.layout.on_whole(itself, carry.param, like=0)

    @override
    def update(self, carry: Carry, state: LoKrState, ctx: Context) -> tuple[Carry, LoKrState]:
        norm, leads = ctx.shared
        factor = (1 + leads * (self.lokr_ratio - 1)) / (1 + self.lokr_damping * norm)
        return carry._replace(update=carry.update * factor), LoKrState(factor.to(carry.update.dtype))


@dataclass(frozen=True, kw_only=True, repr=False)
class LoKrScale(_LoKrScale):
    """Damping of LoKr factors by the size of the adapter, ratio for the one that starts at zero."""

    alias = "lokr_scale"

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        rest = resting(infos)
        found = adapters([*infos, *rest])
        leads = {i for family, i in found.leads if family == "lokr"}
        return dealt(measured, kronecker_norms(values(measured, rest), found.kronecker), leads)

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        return told(infos, "lokr")


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedLoKrScale(_LoKrScale):
    """LoKr scaling as the program has it."""

    alias = "published_lokr_scale"

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        rest = resting(infos)
        norms = kronecker_norms(values(measured, rest), [((i,), (j,)) for i, j in lokr_groups([*infos, *rest])])
        leads = {i for i, info in enumerate(infos) if kind(info.name) == "lokr_w2"}
        return dealt(measured, norms, leads)

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        infos = [*infos, *resting(infos)]
        return {"pairs": [{"w1": infos[i].name, "w2": infos[j].name} for i, j in lokr_groups(infos)]}
