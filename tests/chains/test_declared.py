"""What a class of links declares about itself is checked: traits, slots, fields, state, refreshes."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gradchain import ChainError, Transform, transforms
from gradchain.types import TRAITS, Carry, SharedTransform


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Step(NamedTuple):
    step: Tensor


class Number(NamedTuple):
    number: float


def update(self, carry, state, ctx):
    return carry, state


def defined(**declared):
    fields = {"__annotations__": {"strength": float}, "strength": 0.1}
    made = type("Mine", (Transform,), {**fields, "update": update, **declared})
    return dataclass(frozen=True, kw_only=True, repr=False)(made)


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ({"traits": frozenset({"decay"})}, r"traits names 'decay'.*there are: aligns, .*solves\. Did you mean 'decays'\?"),
        ({"traits": frozenset({"zzz"})}, r"traits names 'zzz'.*Use one of these"),
        ({"traits": "decays"}, r"traits must be a set of names; found 'decays'. Write frozenset"),
        ({"reads": frozenset({"gradient"})}, r"reads names 'gradient'.*there are: bump_scale, .*Did you mean 'grad'\?"),
        ({"reads": ("update",)}, r"reads must be a set of names; found \('update',\)"),
        ({"writes": frozenset({"branches"})}, r"writes names 'branches'"),
        ({"alias": "my/link"}, r"'my/link' cannot name a link: '/' and '\.' are kept for state keys"),
        ({"alias": "my.link"}, r"'my\.link' cannot name a link"),
        ({"off": ("strength",)}, r"off must map fields to the values at which they do nothing; found \('strength',\)"),
        ({"State": Tensor}, r"State must be a NamedTuple of tensors; found .*Tensor"),
        ({"State": tuple}, r"State must be a NamedTuple of tensors"),
        ({"State": Step}, r"a state cannot be named 'step'"),
        ({"State": Pair, "common": ("third",)}, r"common names 'third'.*there are: first, second"),
        ({"State": Pair, "common": "first"}, r"common must be a tuple of names; found 'first'"),
        ({"common_to": "model"}, r"common_to names 'model'.*there are: group, optimizer"),
        ({"refreshes_by": "total"}, r"refreshes_by names 'total'.*there are: optimizer_step, step"),
        ({"refreshes_by": "optimizer_step"}, r"refreshes by optimizer_step, which is missing in its traits"),
    ],
)
def test_a_class_that_declares_what_does_not_exist_is_refused_when_it_is_defined(declared, complaint):
    with pytest.raises(ChainError, match=f"class Mine.*{complaint}"):
        type("Mine", (Transform,), {"update": update, **declared})


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ({"off": {"strenght": 0.0}}, r"off names 'strenght'.*there are: strength\. Did you mean 'strength'\?"),
        ({"settings": (*Transform.settings, "strenght")}, r"settings names 'strenght'.*Did you mean 'strength'\?"),
        ({"State": Number}, r"State must be a NamedTuple of tensors; found number: .*float.*Make it a Tensor"),
        ({"refresh_schedule": (1, 0)}, r"refresh_schedule must be .*; found \(1, 0\)"),
        ({"refresh_schedule": 5}, r"refresh_schedule must be .*; found 5"),
        ({"refresh_schedule": (1.0, 5)}, r"refresh_schedule must be .*; found \(1\.0, 5\)"),
        ({"refresh_schedule": lambda self: (1, 5)}, r"refresh_schedule must be a property .*; found a method"),
    ],
)
def test_a_class_that_declares_fields_or_refreshes_that_do_not_fit_is_refused_with_its_first_link(declared, complaint):
    with pytest.raises(ChainError, match=complaint):
        defined(**declared)()


def test_all_that_can_be_declared_can_be_declared():
    slots = frozenset(Carry._fields) - {"branches"}
    kind = defined(
        traits=frozenset(TRAITS),
        reads=set(slots),
        writes=slots,
        off={"strength": 0.0},
        alias="my_link",
        State=Pair,
        common=("second",),
        common_to="group",
        refreshes_by="optimizer_step",
        refresh_schedule=property(lambda self: (1, 5)),
    )
    assert kind(strength=0.5).label == "my_link"


def test_every_trait_belongs_to_a_link_of_the_library_or_to_the_drivers():
    kinds = [getattr(transforms, name) for name in transforms.__all__ if name != "Phase"]
    assert TRAITS.keys() - {trait for kind in kinds for trait in kind.traits} <= {"eager", "solves"}


def test_a_state_that_cannot_be_looked_up_is_left_to_the_first_step():
    class Hidden(NamedTuple):
        value: "Unknown"  # noqa: F821

    assert defined(State=Hidden)().State is Hidden


def test_shared_links_are_checked_alike():
    with pytest.raises(ChainError, match=r"traits names 'name'.*Did you mean 'names'"):
        type("Mine", (SharedTransform,), {"traits": frozenset({"name"})})


def test_a_schedule_may_depend_on_fields_that_are_checked_first():
    link = defined(refresh_schedule=property(lambda self: (self.window[0], int(self.strength))))
    assert link(strength=3.0).refresh_schedule == (1, 3)
    with pytest.raises(ChainError, match="strength must be a number"):
        link(strength=None)
    assert torch.is_tensor(link(strength=torch.tensor(2.0)).strength)
