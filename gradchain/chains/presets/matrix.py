"""Muon and what is made of it: optimizers whose step on a matrix is orthogonal; ``muon_adamw`` for a whole model."""

from __future__ import annotations

from typing import Literal

from gradchain.chains.chain import Chain, chain
from gradchain.chains.partition import Partition, partition
from gradchain.chains.presets._arguments import preset
from gradchain.chains.presets.came import came
from gradchain.chains.presets.classic import adamw
from gradchain.chains.where import Where, hidden_matrices
from gradchain.transforms import AverageMomentum, Cautious, LearningRate, NesterovAverage, Orthogonalize, WeightDecay

Scale = Literal["original", "match_rms_adamw", "rms_to_rms", "none"]
Precision = Literal["full", "bfloat16"]


@preset
def muon(
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: Scale = "original",
    ns_precision: Precision = "full",
) -> Chain:
    """Orthogonalized momentum, for the hidden matrices of a model; "bfloat16" gives torch's numbers."""
    return chain(
        NesterovAverage(momentum=momentum) if nesterov else AverageMomentum(momentum=momentum),
        Orthogonalize(ns_steps=ns_steps, ns_eps=eps, adjust_lr_fn=adjust_lr_fn, ns_precision=ns_precision),
        WeightDecay(weight_decay=weight_decay),
        LearningRate(lr=lr),
    )


@preset
def c_muon(
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: Scale = "original",
    ns_precision: Precision = "full",
) -> Chain:
    """Muon without what disagrees with the gradient in sign, which costs some of the orthogonality."""
    base = muon(lr, weight_decay, momentum, nesterov, eps, ns_steps, adjust_lr_fn, ns_precision)
    return base.insert_after("orthogonalize", Cautious())


@preset
def came_muon(
    lr: float = 2e-4,
    eps: tuple[float, float] = (1e-30, 1e-16),
    clip_threshold: float = 1.0,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    weight_decay: float = 0.0,
    ns_steps: int = 5,
    adjust_lr_fn: Scale = "match_rms_adamw",
    ns_precision: Precision = "full",
) -> Chain:
    """CAME whose step on a matrix is orthogonalized, by default to AdamW's size, so that it needs no warm-up for its gain."""
    base = came(lr, eps, clip_threshold, betas, weight_decay)
    link = Orthogonalize(ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn, ns_precision=ns_precision)
    return base.insert_after("factored_confidence", link)


@preset
def muon_adamw(
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    ns_steps: int = 5,
    adjust_lr_fn: Scale = "match_rms_adamw",
    ns_precision: Precision = "full",
    by: Where = hidden_matrices,
) -> Partition:
    """Muon for hidden matrices, AdamW for the rest: pass ``model.named_parameters()``.

    One learning rate and weight decay serve both, as adjust_lr_fn makes their steps alike; to part them, pass
    ``.optimizer(..., muon={"lr": 0.02, "adjust_lr_fn": "original"})``. by: which parameters are Muon's. Of the momenta, one
    is called momentum and one betas, so schedulers that cycle them take ``cycle_momentum=False``.
    """
    matrices = muon(lr, weight_decay, momentum, nesterov, 1e-7, ns_steps, adjust_lr_fn, ns_precision)
    return partition({"muon": matrices, "adamw": adamw(lr, betas, eps, weight_decay)}, by={"muon": by})
