"""LoRA+: the factor of a LoRA pair that starts at zero learns faster than the other.

    update <- ratio update for B,   update for everything else

Reads    update.   Writes  update.   State  none.   Cost  1 read, 1 write.
Shapes   any.   Units  those of update (a rescaling).
Place    after Normalize, which would undo it; before WeightDecay, which is then not multiplied, and LearningRate.
Fields   loraplus_lr_ratio: lr of B over lr of A, >= 0; 1 for none.
Raises   ChainError if loraplus_lr_ratio is negative.
Source   Hayou, Ghosh and Yu, LoRA+, arXiv 2402.12354, which suggests about 16 and a smaller lr for A.
         B is found by name: lora_B, lora_up, lora_embedding_B.
Differs  the authors' code also counts every one-dimensional parameter as B, and gives embeddings an lr of their own.
         A group for B with an lr of its own (peft, sd-scripts) does the same; with both, the ratios multiply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor
from typing_extensions import override

from gradchain.transforms._pairs import adapters, told
from gradchain.types import Carry, Context, NoState, ParamInfo, SharedTransform


@dataclass(frozen=True, kw_only=True, repr=False)
class LoRAPlus(SharedTransform):
    """Larger step for B of a LoRA pair."""

    alias = "lora_plus"
    traits = frozenset({"names", "favors_b"})
    off = {"loraplus_lr_ratio": 1.0}

    loraplus_lr_ratio: Annotated[float, "[0, inf)"] = 16.0

    @override
    def measure(self, carry: Carry, state: NoState, ctx: Context) -> Tensor:
        return carry.update.new_zeros(())

    @override
    def share(self, measured: Sequence[Tensor], infos: Sequence[ParamInfo]) -> Sequence[Any]:
        b = {i for family, i in adapters(infos).leads if family == "lora"}
        return [one + 1 if i in b else one for i, one in enumerate(measured)]

    @override
    def findings(self, infos: Sequence[ParamInfo]) -> Mapping[str, Any]:
        return told(infos, "lora")

    @override
    def update(self, carry: Carry, state: NoState, ctx: Context) -> tuple[Carry, NoState]:
        return carry._replace(update=carry.update * (1 + ctx.shared * (self.loraplus_lr_ratio - 1))), state
