"""The chi-anneal schedule: values, its repairs, resuming, errors."""

import math
from itertools import pairwise

import pytest
import torch
from torch.optim import AdamW

from gradchain import presets
from gradchain.optim_wrapper.schedulers import ChiAnnealScheduler
from gradchain.types import ChainError


def make(total_steps=100, lr=2.0, chain=False, **fractions):
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = presets.ladam(lr=lr).optimizer([param]) if chain else AdamW([param], lr=lr)
    return optimizer, ChiAnnealScheduler(optimizer, total_steps, **fractions)


def rates(optimizer, scheduler, steps):
    """The rate that each of the next optimizer steps uses."""
    used = []
    for _ in range(steps):
        used.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return used


def published(n, total, warm, settle, base):
    """The rate after the n-th call of step() in ladam 0.4.1."""
    w, s = int(total * warm), int(total * (1 - settle))
    if n <= w:
        return base * n / max(w, 1)
    if n < s:
        return base
    return base * ((1 + math.cos(math.pi * (n - s) / max(total - s, 1))) / 2) ** 2


def test_the_first_step_is_warmed_up():
    assert make()[0].param_groups[0]["lr"] == pytest.approx(2.0 / 5)


def test_it_rises_in_equal_steps_stays_and_falls():
    used = rates(*make(), 100)
    assert used[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert used[5:71] == [2.0] * 66
    assert used[85] == pytest.approx(2.0 / 4)  # half way down: cos(pi/4)^4
    assert all(b < a for a, b in pairwise(used[70:]))
    assert used[99] > 0


@pytest.mark.parametrize(("total", "warm", "settle"), [(100, 0.05, 0.3), (37, 0.2, 0.5), (10, 0.0, 0.9), (4, 0.25, 0.75)])
def test_from_the_end_of_the_rise_to_the_last_step_it_is_the_published_schedule(total, warm, settle):
    used = rates(*make(total, warmup_frac=warm, settle_frac=settle), total + 1)
    rise = int(total * warm)
    assert used[max(rise, 1) :] == pytest.approx(
        [published(n, total, warm, settle, 2.0) for n in range(max(rise, 1), total + 1)]
    )
    assert used[:rise] == pytest.approx([published(n + 1, total, warm, settle, 2.0) for n in range(rise)])


def test_past_the_end_it_does_not_rise_again():
    assert rates(*make(10), 40)[10:] == [0.0] * 30


def test_without_a_fall_it_stays_at_base():
    assert rates(*make(10, settle_frac=0.0, warmup_frac=0.0), 15) == [2.0] * 15


def test_a_run_of_one_step_uses_the_full_rate():
    assert rates(*make(1, warmup_frac=0.5, settle_frac=0.0), 1) == [2.0]


def test_each_group_keeps_its_own_base():
    optimizer = AdamW([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (1.0, 10.0)])
    ChiAnnealScheduler(optimizer, 100)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 2.0])


@pytest.mark.parametrize("chain", [False, True], ids=["AdamW", "ladam"])
def test_a_tensor_rate_is_changed_in_place_and_stays_a_tensor(chain):
    lr = torch.tensor(2.0)
    optimizer, scheduler = make(lr=lr, chain=chain)
    before = optimizer.param_groups[0]["lr"]
    assert rates(optimizer, scheduler, 3) == pytest.approx([0.4, 0.8, 1.2])
    assert optimizer.param_groups[0]["lr"] is before


def test_its_state_holds_the_whole_schedule():
    optimizer, scheduler = make(100)
    rates(optimizer, scheduler, 80)
    other_optimizer, other = make(7, warmup_frac=0.5)
    other.load_state_dict(scheduler.state_dict())
    other_optimizer.load_state_dict(optimizer.state_dict())
    assert rates(other_optimizer, other, 20) == rates(optimizer, scheduler, 20)


def test_a_ladam_chain_follows_it():
    assert rates(*make(chain=True), 100) == rates(*make(), 100)


@pytest.mark.parametrize("total_steps", [0, -5, 10.0, True, None])
def test_total_steps_that_are_no_count_are_refused(total_steps):
    with pytest.raises(ChainError, match=rf"total_steps must be a whole number above 0; found {total_steps}\. Pass epochs"):
        make(total_steps)


@pytest.mark.parametrize("name", ["warmup_frac", "settle_frac"])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), True, "half"])
def test_a_share_outside_0_to_1_is_refused(name, share):
    with pytest.raises(ChainError, match=rf"{name} must be a number in \[0, 1\); found {share!r}\. Pass a share"):
        make(**{name: share})


def test_shares_of_more_than_the_whole_are_refused_and_the_rate_is_untouched():
    optimizer = AdamW([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    with pytest.raises(ChainError, match=r"together must be at most 1; found 0\.5 \+ 0\.6\. Make one of them smaller"):
        ChiAnnealScheduler(optimizer, 100, warmup_frac=0.5, settle_frac=0.6)
    assert optimizer.param_groups[0]["lr"] == 2.0
