"""Shared links that refresh by a schedule: who meets when, and what they are told."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from training import param, steps

from gradchain import SharedTransform, chain
from gradchain import transforms as t

MET = []  # (place of each parameter that met), by meeting


class Count(NamedTuple):
    met: Tensor


@dataclass(frozen=True, kw_only=True, repr=False)
class Roll(SharedTransform[Count]):
    """Keeps how many met at the last refresh."""

    State = Count

    @property
    def refresh_schedule(self):
        return 2, 3

    def init(self, param):
        return Count(param.new_zeros(()))

    def measure(self, carry, state, ctx):
        return ctx.layout.norm(carry.update)

    def share(self, measured, infos):
        MET.append([info.place for info in infos])
        return [torch.tensor(float(len(infos)))] * len(infos)

    def refresh(self, carry, state, ctx):
        return Count(ctx.shared)

    def update(self, carry, state, ctx):
        assert ctx.shared is None or (ctx.step - 2) % 3 == 0
        return carry, state

    def findings(self, infos):
        return {"met": {info.place: info.state[f"{self.label}/met"].item() for info in infos if info.state}}


@pytest.mark.filterwarnings("ignore:parameters of shape .* run one by one")  # the link looks at the number of the step
def test_a_shared_link_with_a_refresh_schedule_meets_at_its_refreshes_only():
    MET.clear()
    frozen = param(2, seed=3).requires_grad_(False)
    optimizer = chain(Roll(), t.LearningRate(lr=0.1)).optimizer([frozen, param(4), param(3)])
    steps(optimizer, 4)
    optimizer.add_param_group({"params": [param(5)]})
    steps(optimizer, 4, start=4)
    assert MET == [[1, 2], [1, 2], [3], [1, 2]]  # at steps 2, 5, 6 (the second of the newcomer) and 8
    assert optimizer.report().findings == {"roll": {"met": {1: 2.0, 2: 2.0, 3: 1.0}}}
