"""Chains whose lives are tested, and the parameters they start with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gradchain import chain, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import biases_and_norms, matrices

REFERENCE = "reference"  # the driver that every other must equal

SINGLE, DOUBLE, HALF = torch.float32, torch.float64, torch.bfloat16

SPECS = (  # shape, dtype, name; several of one shape run as one, of other shapes alone, the larger in tiles
    ((2, 3), DOUBLE, "{}.weight"),
    ((2, 3), DOUBLE, "{}.weight"),
    ((2, 3), DOUBLE, "norm{}.weight"),
    ((3, 3), DOUBLE, "{}.weight"),
    ((3, 3), DOUBLE, "{}.weight"),
    ((4, 4), DOUBLE, "{}.weight"),
    ((2, 3), SINGLE, "{}.weight"),
    ((2, 3), SINGLE, "{}.weight"),
    ((3,), DOUBLE, "{}.bias"),
    ((3,), DOUBLE, "{}.bias"),
    ((), DOUBLE, "{}.scale"),
    ((1, 5), DOUBLE, "{}.weight"),
    ((0, 3), DOUBLE, "{}.weight"),
    ((2, 3), HALF, "{}.weight"),
    ((2, 3), HALF, "{}.weight"),
)

ADAM_KEYS = {"moments/first": "exp_avg", "moments/second": "exp_avg_sq"}


@dataclass(frozen=True)
class Case:
    """A chain, and how it is bound to parameters."""

    recipe: Any
    theirs: Any = None  # the class of torch.optim that it equals
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of that class
    keys: Mapping[str, str] = field(default_factory=dict)  # our names of states -> torch's
    options: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True  # whether parameters come with names
    meets: bool = False  # whether parameters have numbers in common, and so their rounding

    @property
    def averages(self) -> bool:
        return any("averages" in link.traits for link in self.recipe.links)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.recipe.parts) if hasattr(self.recipe, "chains") else ()


def classic(preset, theirs, keys, named=False, **arguments):
    """A preset that equals a class of torch.optim with the same arguments."""
    return Case(preset(**arguments), theirs, arguments, keys, named=named)


ADAM = presets.adam(lr=0.05)
BALL = presets.sgd(lr=0.05, momentum=0.9)
LARGEST = {
    "amsgrad_moments/first": "exp_avg",
    "amsgrad_moments/second": "exp_avg_sq",
    "amsgrad_moments/largest": "max_exp_avg_sq",
}

CLASSICS = {
    "sgd": classic(
        presets.sgd,
        torch.optim.SGD,
        {"momentum/buffer": "momentum_buffer"},
        lr=0.05,
        momentum=0.9,
        dampening=0.1,
        weight_decay=0.1,
    ),
    "nesterov": classic(
        presets.sgd,
        torch.optim.SGD,
        {"nesterov_momentum/buffer": "momentum_buffer"},
        True,
        lr=0.05,
        momentum=0.9,
        nesterov=True,
    ),
    "adam": classic(presets.adam, torch.optim.Adam, ADAM_KEYS, lr=0.05, weight_decay=0.1),
    "adamw": classic(presets.adamw, torch.optim.AdamW, ADAM_KEYS, True, lr=0.05, weight_decay=0.1),
    "amsgrad": classic(presets.adam, torch.optim.Adam, LARGEST, lr=0.05, amsgrad=True),
    "nadam": classic(
        presets.nadam,
        torch.optim.NAdam,
        {"nesterov_moments/first": "exp_avg", "nesterov_moments/second": "exp_avg_sq"},
        lr=0.05,
    ),
    "rmsprop": classic(
        presets.rmsprop, torch.optim.RMSprop, {"second_moment/average": "square_avg"}, lr=0.05, weight_decay=0.1
    ),
    "adagrad": classic(presets.adagrad, torch.optim.Adagrad, {"sum_of_squares/total": "sum"}, lr=0.1, lr_decay=0.1),
    "radam": classic(presets.radam, torch.optim.RAdam, {}, lr=0.05),
}

ONE_BY_ONE = {  # links that see one parameter at a time
    "ladam": Case(presets.ladam(lr=0.05, c2=0.1, weight_decay=0.1, min_spatial_size=1)),
    "lion": Case(presets.lion(lr=0.05, weight_decay=0.1), named=False),
    "adafactor": Case(presets.adafactor(lr=0.05, weight_decay=0.1)),
    "orthogonal": Case(chain(t.Momentum(), t.Orthogonalize(), t.LearningRate(lr=0.05)), named=False),
    "lookahead": Case(chain(ADAM, t.Lookahead(la_steps=2, la_alpha=0.5)), named=False),
    "window": Case(chain(t.Moments(), t.Normalize(), t.WeightDecay(weight_decay=0.2, window=(2, 5)), t.LearningRate(lr=0.05))),
}

AVERAGES = {
    "schedule_free": Case(presets.schedule_free_adamw(lr=0.05)),
    "weight_ema": Case(chain(ADAM, t.WeightEMA(ema_decay=0.5)), named=False),
}

MEETINGS = {  # links that see several parameters at once
    "clip": Case(chain(t.ClipGlobalNorm(max_norm=1.0), ADAM), meets=True, named=False),
    "zclip": Case(chain(t.ZClip(), BALL), meets=True, named=False),
    "prodigy": Case(presets.prodigy(), meets=True),
}

BY_NAME = {  # parameters run different links, by name, shape or label
    "masked": Case(chain(t.Momentum(), masked(t.WeightDecay(weight_decay=0.5), by=~biases_and_norms), t.LearningRate(lr=0.05))),
    "partition": Case(partition({"ball": BALL, "adam": ADAM}, by={"ball": biases_and_norms})),
    "partition_averages": Case(
        partition({"average": chain(ADAM, t.WeightEMA(ema_decay=0.5)), "ball": BALL}, by={"average": matrices})
    ),
}

SEVERAL_CALLS = {
    "accumulate": Case(presets.adamw(lr=0.05), options={"accumulate": 2}, named=False),
    "gate": Case(presets.adamw(lr=0.05), options={"finite_gate": True}),
    "gated_lookahead": Case(chain(ADAM, t.Lookahead(la_steps=2)), options={"finite_gate": True, "accumulate": 2}, named=False),
}

CASES = CLASSICS | ONE_BY_ONE | AVERAGES | MEETINGS | BY_NAME | SEVERAL_CALLS
