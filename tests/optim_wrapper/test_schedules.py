"""Hyperparameters that change: torch's schedulers, tensors, functions of the step."""

import copy

import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from training import identical, param, snapshot, steps

from gradchain import ChainError, presets


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (presets.adam(lr=0.1), lambda p: optim.Adam(p, lr=0.1)),
        (presets.sgd(lr=0.1, momentum=0.9), lambda p: optim.SGD(p, lr=0.1, momentum=0.9)),
    ],
    ids=["adam", "sgd"],
)
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: StepLR(o, 3, gamma=0.5),
        lambda o: OneCycleLR(o, max_lr=0.2, total_steps=12, cycle_momentum=True),
        lambda o: ReduceLROnPlateau(o, patience=1, factor=0.5),
    ],
    ids=["step", "one cycle", "plateau"],
)
def test_schedulers_of_torch_work_as_on_torch_optimizers(ours, theirs, schedule):
    results = []
    for make in (ours.optimizer, theirs):
        p = param(4, 3, dtype=torch.float64)
        optimizer = make([p])
        scheduler = schedule(optimizer)
        for i in range(10):
            p.grad = torch.sin(p.detach() + i)
            optimizer.step()
            scheduler.step(*([1.0] if isinstance(scheduler, ReduceLROnPlateau) else []))
        results.append((p.detach(), {k: v for k, v in optimizer.param_groups[0].items() if k in ("lr", "betas", "momentum")}))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_one_cycle_without_momentum_says_so():
    with pytest.raises(ValueError, match="momentum"):
        OneCycleLR(presets.adagrad().optimizer([param(1)]), max_lr=0.2, total_steps=12)


def test_a_schedule_that_leaves_its_range_is_refused_with_nothing_changed():
    optimizer = presets.adam(lr=0.1, betas=(lambda step: 0.8 if step < 3 else 1.5, 0.99)).optimizer([p := param(3)])
    steps(optimizer, 2)
    before = snapshot(optimizer)
    with pytest.raises(ChainError, match=r"'moments', step 3: betas must be each a number in \[0, 1\)"):
        steps(optimizer, 1)
    assert identical(snapshot(optimizer), before) and optimizer.param_groups[0]["betas"] == (0.8, 0.99)
    assert p.grad is not None


def test_a_schedule_stands_in_the_group_as_its_current_value():
    a, b = param(3), param(3)
    optimizer = presets.adam(lr=lambda step: 1.0 / step).optimizer([{"params": [a]}, {"params": [b], "lr": 0.25}])
    seen = []
    for i in range(4):
        steps(optimizer, start=i)
        seen.append(tuple(group["lr"] for group in optimizer.param_groups))
    assert seen == [(1.0, 0.25), (0.5, 0.25), (1 / 3, 0.25), (0.25, 0.25)]


def test_a_schedule_goes_on_after_saving_and_loading():
    def lr(step):
        return 1.0 / step

    straight, first = param(3), param(3)
    steps(presets.adam(lr=lr).optimizer([straight]), 6)
    optimizer = presets.adam(lr=lr).optimizer([first])
    steps(optimizer, 3)
    second = nn.Parameter(first.detach().clone())
    resumed = presets.adam(lr=lr).optimizer([second])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(resumed, 3, start=3)
    assert torch.equal(second, straight) and resumed.param_groups[0]["lr"] == 1 / 6


def test_any_hyperparameter_may_be_a_schedule():
    p, alone = param(5, 5), param(5, 5)
    steps(presets.ladam(lr=0.1, c2=lambda step: 0.1).optimizer([p]), 3)
    steps(presets.ladam(lr=0.1, c2=0.1).optimizer([alone]), 3)
    assert torch.equal(p, alone)


def test_a_schedule_takes_over_where_a_run_without_one_was_saved():
    plain, scheduled = param(2), param(2)
    first = presets.sgd(lr=0.5).optimizer([plain])
    for _ in range(3):
        plain.grad = torch.ones_like(plain)
        first.step()
    second = presets.sgd(lr=lambda n: 1.0 / n).optimizer([scheduled])
    second.load_state_dict(first.state_dict())
    scheduled.grad = torch.ones_like(scheduled)
    second.step()
    assert second.param_groups[0]["lr"] == 0.25
