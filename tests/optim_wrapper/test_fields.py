"""Links with fields that have no hash, or no equality that is true or false: every driver runs them."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from gradchain import Transform, chain
from gradchain import transforms as t


@dataclass
class Weights:
    power: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Weighted(Transform):
    """The update, multiplied by the sum of what a field holds."""

    weights: Any = field(default_factory=dict)
    table: dict[str, float] = field(default_factory=dict)

    def update(self, carry, state, ctx):
        held = self.weights
        held = [held.power] if isinstance(held, Weights) else held.values() if isinstance(held, dict) else held
        return carry._replace(update=carry.update * (float(sum(held)) + sum(self.table.values()))), state


FORMS = {
    "dict": {"a": 1.0, "b": 2.0},
    "list": [1.0, 2.0],
    "set": {1.0, 2.0},
    "array": np.array([1.0, 2.0]),
    "dataclass": Weights(3.0),
    "nested": {"a": 3.0},
}


def stepped(optimizer, steps=3):
    for k in range(steps):
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.full_like(p, 1.0 + i + k)
        optimizer.step()
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


def optimizer_of(form, driver, groups=2):
    params = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    recipe = chain(Weighted(weights=form, table={"bias": 1.0}), t.Momentum(), t.LearningRate(lr=0.1))
    return recipe.optimizer([{"params": params[i::groups]} for i in range(groups)], driver=driver)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_field_without_a_hash_runs_in_every_driver(form):
    found = [stepped(optimizer_of(form, driver)) for driver in ("reference", "eager", "compiled")]
    assert found[0][0][0].item() == pytest.approx(-0.4 * (1 + 2.9 + 5.61))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_field_without_a_hash_is_copied_and_saved(form, driver):
    optimizer = optimizer_of(form, driver)
    stepped(optimizer)
    other = copy.deepcopy(optimizer)
    again = optimizer_of(form, driver)
    assert again.load_state_dict(optimizer.state_dict()).clean
    for p, q in zip(*(o.param_groups[0]["params"] for o in (optimizer, again)), strict=True):
        q.data.copy_(p)
    torch.testing.assert_close(stepped(other), stepped(optimizer))


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize("form", [{"a": 3.0}, [3.0], np.array([3.0])], ids=["dict", "list", "array"])
def test_a_group_that_is_given_other_content_goes_on_with_it(form, driver):
    optimizer = optimizer_of(form, driver, groups=1)
    stepped(optimizer, 1)
    optimizer.param_groups[0]["weights"] = type(form)() if not isinstance(form, np.ndarray) else np.zeros(1)
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    after = stepped(optimizer, 1)
    assert (before[0] - after[0])[0].item() == pytest.approx(0.1 * (0.9 * 4 + 1))
