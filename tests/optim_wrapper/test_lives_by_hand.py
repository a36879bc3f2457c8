"""Lives that are written down, one for each kind of edit: under every driver as in the reference, and as under torch.optim."""

import pytest
from lives.cases import SPECS, torch
from lives.edits import (
    Add,
    Cast,
    Copy,
    Forget,
    Group,
    Label,
    Load,
    Memory,
    Mode,
    New,
    Pop,
    Rate,
    Resize,
    Save,
    Set,
    Step,
    Tie,
    Write,
)
from lives.life import live
from lives.limits import small_limits  # noqa: F401 (a fixture)
from lives.worlds import DRIVERS

TWO, NORM, SQUARE, TILED, SINGLE, BIAS, SCALAR, ROW, EMPTY, HALF = 0, 2, 3, 5, 6, 8, 10, 11, 12, 13  # specs
ALIKE = [[TWO, TWO, TWO], [SQUARE, BIAS, TILED]]
KINDS = [[TWO, TWO, SINGLE, HALF], [SQUARE, BIAS, TILED, SINGLE]]
ONE, TWICE = [Step(n=1)], [Step(n=1), Step(n=2)]


def moments(name):
    """A state of the chain that a user may write to."""
    return {"adamw": "moments/first", "rmsprop": "second_moment/average", "clip": "moments/first", "masked": "momentum/buffer"}[
        name
    ]


EDITS = {  # name -> chains, groups, edits
    "a parameter is taken out": ("adamw rmsprop masked clip", ALIKE, [*ONE, Group(0, (0, 2)), Step(n=2)]),
    "a parameter is taken out, but not its name": ("adamw masked", ALIKE, [*ONE, Group(0, (1, 2), names=False), Step(n=2)]),
    "a parameter is taken out before the first step": ("masked", [[BIAS, TWO, BIAS]], [Group(0, (1, 2)), *TWICE]),
    "a parameter is put in between": (
        "adamw masked clip",
        [[BIAS, TWO, BIAS]],
        [*ONE, New(TWO), Group(0, (0, 3, 1, 2)), *TWICE],
    ),
    "parameters are reversed": ("masked", [[BIAS, TWO, TWO]], [*ONE, Group(0, (2, 1, 0), in_place=True), Step(n=2)]),
    "parameters are reversed, but not their names": (
        "masked",
        [[BIAS, TWO, TWO]],
        [*ONE, Group(0, (2, 1, 0), names=False), Step(n=2)],
    ),
    "a parameter is replaced": (
        "adamw rmsprop masked",
        ALIKE,
        [*TWICE, New(TWO), Group(0, (0, 6, 2), in_place=True), Step(n=3)],
    ),
    "a parameter changes its group": (
        "adamw rmsprop masked clip",
        ALIKE,
        [*ONE, Set(1, "lr", 0.2), Group(0, (0, 1)), Group(1, (2, 3, 4, 5)), Step(n=2)],
    ),
    "the last of a group becomes the first of the next": (
        "rmsprop clip",
        [[TWO, TWO], [TWO, TWO]],
        [Set(1, "lr", 0.2), *ONE, Group(0, (0,)), Group(1, (1, 2, 3)), Step(n=2)],
    ),
    "a group becomes empty": (
        "rmsprop clip",
        [[TWO], [TWO, TWO]],
        [Set(1, "lr", 0.2), *ONE, Group(0, ()), Group(1, (0, 1, 2)), Step(n=2)],
    ),
    "a group is taken out": ("adamw rmsprop masked clip", [[BIAS, BIAS], [TWO, TWO]], [*ONE, Pop(0), *TWICE]),
    "a group is added": ("adamw masked partition", ALIKE, [*ONE, New(TWO), New(BIAS), Add((6, 7), lr=0.2), *TWICE]),
    "a group changes its label": (
        "partition",
        [[TWO, TWO], [BIAS, BIAS]],
        [*TWICE, Label(0, "ball"), Label(1, "adam"), *TWICE],
    ),
    "a group changes its label before the first step": ("partition", [[TWO, TWO], [BIAS, BIAS]], [Label(0, "ball"), *TWICE]),
    "a group changes its label and back": (
        "partition",
        [[TWO, TWO], [BIAS, BIAS]],
        [*TWICE, Label(0, "ball"), Step(n=3), Label(0, "adam"), *TWICE],
    ),
    "a parameter changes to a group of another label": (
        "partition",
        [[TWO, TWO], [BIAS, BIAS]],
        [*ONE, Group(1, (0, 1, 3)), Group(0, (2,)), *TWICE],
    ),
    "memory is another": ("adamw rmsprop clip", ALIKE, [*ONE, *(Memory(i, "copy") for i in range(6)), Step(n=2)]),
    "a square is transposed where it is": (
        "adamw rmsprop ladam",
        [[SQUARE, SQUARE, TILED]],
        [*ONE, Memory(0, "transposed"), Memory(2, "transposed"), *TWICE],
    ),
    "rows are added": (
        "adamw rmsprop ladam clip sgd",
        [[TWO, TWO, TILED]],
        [*ONE, Resize(0, (4, 3)), Step(n=2), Forget(0, "del"), *TWICE],
    ),
    "rows are added and the state goes": (
        "adamw rmsprop ladam clip sgd",
        [[TWO, TWO, TILED]],
        [*ONE, Resize(0, (4, 3), forget=True), *TWICE],
    ),
    "columns are taken from a tiled parameter": (
        "adamw rmsprop ladam",
        [[TILED, TWO]],
        [*ONE, Resize(0, (4, 3)), Step(n=2), Forget(0, "del"), *TWICE],
    ),
    "a shape that broadcasts": (
        "adamw rmsprop sgd clip",
        [[TWO, TWO]],
        [*ONE, Resize(0, (1, 3)), Step(n=2), Forget(0, "del"), *TWICE],
    ),
    "a shape of as many elements": (
        "adamw rmsprop sgd clip",
        [[TWO, TWO]],
        [*ONE, Resize(0, (3, 2)), Step(n=2), Forget(0, "del"), *TWICE],
    ),
    "a gradient of another shape": (
        "adamw rmsprop sgd clip",
        [[TWO, TWO]],
        [*ONE, Resize(0, (1, 3), forget=True), Step(n=2, kept=(0,)), *TWICE],
    ),
    "another dtype": (
        "rmsprop ladam",
        [[SINGLE, SINGLE, TWO]],
        [*ONE, Cast(0, "half"), *TWICE, Cast(0, "single"), Cast(1, "double"), *TWICE],
    ),
    "two parameters over one memory": ("adamw rmsprop lion ladam sgd", [[TWO, TWO, SQUARE]], [Tie(0, 1), *TWICE]),
    "two parameters over one memory after a step": ("adamw rmsprop lion", [[TWO, TWO, SQUARE]], [*ONE, Tie(0, 1), *TWICE]),
    "two parameters of half precision over one memory": ("lion ladam", [[HALF, HALF, TWO]], [Tie(0, 1), *TWICE]),
    "two parameters over one memory in two groups": ("adamw rmsprop", [[TWO], [TWO, TWO]], [Tie(0, 1), *TWICE]),
    "slices that overlap": ("adamw rmsprop lion", [[TWO, TWO, TWO]], [Tie(0, 1, rows=True), *TWICE]),
    "tiled parameters over one memory": ("rmsprop ladam", [[TILED, TILED]], [Tie(0, 1), *TWICE]),
    "memory is no longer common": ("adamw rmsprop", [[TWO, TWO, SQUARE]], [Tie(0, 1), *ONE, Memory(1, "copy"), *TWICE]),
    "all state is cleared": ("adamw rmsprop clip sgd lookahead", ALIKE, [*TWICE, Forget(), Step(n=3), Save()]),
    "all state is replaced": ("adamw rmsprop clip sgd lookahead", ALIKE, [*TWICE, Forget(how="new"), Step(n=3), Save()]),
    "the state of a parameter is deleted": ("adamw rmsprop clip", ALIKE, [*TWICE, Forget(1, "del"), Step(n=3)]),
    "the state of a parameter is cleared": ("adamw rmsprop clip", ALIKE, [*TWICE, Forget(1), Step(n=3)]),
    "the state of a tiled parameter is cleared": ("ladam rmsprop", [[TILED, TWO]], [*TWICE, Forget(0), Step(n=3)]),
    **{
        f"a state is written to by {how}": (
            name,
            ALIKE,
            [*TWICE, *(Write(i, moments(name), how) for i in (1, 4, 5)), Step(n=3)],
        )
        for name in ("adamw", "rmsprop", "clip")
        for how in ("in_place", "data", "assigned")
    },
    "betas are a list": ("adamw clip", ALIKE, [*ONE, Set(0, "betas", (0.5, 0.9), "list"), *TWICE]),
    "betas are an array": ("adamw clip", ALIKE, [*ONE, Set(0, "betas", (0.5, 0.9), "array"), *TWICE]),
    "a rate is a tensor and followed": ("adamw rmsprop", ALIKE, [Set(0, "lr", 0.125, "tensor"), *ONE, Rate(0, 0.5), *TWICE]),
    "a rate becomes a tensor that equals it and is followed": (
        "adamw rmsprop clip",
        ALIKE,
        [*ONE, Set(0, "lr", 0.0625, "tensor"), Step(n=2), Rate(0, 0.5), *TWICE],
    ),
    "a rate is a number of numpy": ("adamw rmsprop clip", ALIKE, [*ONE, Set(1, "lr", 0.1, "numpy"), *TWICE]),
    "a rate is no number": ("adamw rmsprop clip", ALIKE, [*ONE, Set(1, "lr", "fast"), Step(n=2), Set(1, "lr", 0.1), *TWICE]),
    "a rate is negative": ("adamw rmsprop clip", ALIKE, [*ONE, Set(1, "lr", -0.1), Step(n=2), Set(1, "lr", 0.1), *TWICE]),
    "betas are one": ("adamw clip", ALIKE, [*ONE, Set(1, "betas", (0.9,)), Step(n=2), Set(1, "betas", (0.9, 0.99)), *TWICE]),
    "a step in evaluation": ("schedule_free weight_ema", ALIKE, [*ONE, Mode(False), Step(n=2), Mode(True), *TWICE]),
    **{
        f"surroundings: {mode}": (
            "orthogonal adamw ladam weight_ema clip",
            KINDS,
            [Step(n=1, mode=mode), Step(n=2, mode=mode), *TWICE],
        )
        for mode in ("autocast", "inference", "no_grad", "float64", "thread")
    },
    "inference after plain steps": ("adamw ladam clip", ALIKE, [*TWICE, Step(n=3, mode="inference"), *TWICE]),
    "state is rolled back": ("adamw ladam clip accumulate", ALIKE, [*ONE, Save(), *TWICE, Load(), *TWICE]),
    "a row is loaded": ("adafactor", [[ROW, TWO]], [*ONE, Save(), Load(), *TWICE]),
    "a copy lives on": ("adamw ladam clip masked", ALIKE, [*ONE, Copy("deepcopy"), *TWICE, Copy("pickle"), *TWICE]),
    "a gradient is not finite": (
        "gate gated_lookahead",
        ALIKE,
        [*ONE, Step(n=2, infinite=(1,)), *TWICE, Step(n=5, infinite=(4,)), *TWICE],
    ),
    "a gradient is missing between calls": (
        "accumulate",
        ALIKE,
        [Step(n=1, missing=(0,)), Step(n=2), Step(n=3, missing=(1, 4)), *TWICE],
    ),
    "counts part and meet": ("rmsprop ladam clip", ALIKE, [Step(n=1, missing=(0,)), Step(n=2, missing=(1, 3)), *TWICE, *TWICE]),
}
LIVES = [(name, groups, edits, what) for what, (names, groups, edits) in EDITS.items() for name in names.split()]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("name", "groups", "edits"), [one[:3] for one in LIVES], ids=[f"{one[3]}: {one[0]}" for one in LIVES])
def test_drivers_live_as_the_reference(name, groups, edits, driver, small_limits):  # noqa: F811
    live(name, groups, (0.0625, 0.03125)[: len(groups)], edits, (driver,))


def test_the_specs_are_those_meant_here():
    shapes = {
        TWO: (2, 3),
        NORM: (2, 3),
        SQUARE: (3, 3),
        TILED: (4, 4),
        SINGLE: (2, 3),
        BIAS: (3,),
        SCALAR: (),
        ROW: (1, 5),
        EMPTY: (0, 3),
    }
    assert {spec: SPECS[spec][0] for spec in shapes} == shapes and SPECS[HALF][1] == torch.bfloat16
