"""Training and evaluation of chains that average the weights; who may own the write."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from reference.structure import ema
from torch import nn, optim
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, masked, parallel, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.optim_wrapper import Adam, ScheduleFreeAdamW

FREE = presets.schedule_free_adamw(lr=0.1, weight_decay=0.1, warmup_steps=3)
AVERAGED = chain(presets.adam(lr=0.1), t.WeightEMA(ema_decay=0.7))
BOTH = pytest.mark.parametrize("recipe", [FREE, AVERAGED], ids=["schedule free", "ema"])


def test_the_published_figures_of_schedule_free_adamw():
    k = torch.arange(24, dtype=torch.float64)
    p = nn.Parameter(torch.cos(1 + k).reshape(4, 6))
    optimizer = presets.schedule_free_adamw(lr=0.05, weight_decay=0.1, warmup_steps=4).optimizer([p])
    for step in range(1, 13):
        p.grad = (0.1 * torch.sin(1 + step * (k + 1))).reshape(4, 6)
        optimizer.step()
    y = [0.572700216948, -0.880319995745, 11.281943865757]
    x = [0.570960136967, -0.878902161553, 11.286765361099]
    for mode, figures in ((optimizer.train, y), (optimizer.eval, x)):
        mode()
        flat = p.detach().flatten()
        assert torch.stack([flat[0], flat[8], flat.square().sum()]).tolist() == pytest.approx(figures, abs=2e-12)


def test_the_average_of_the_weights_is_that_of_the_rule():
    p = param(4, 3, dtype=torch.float64)
    start, taken = p.detach().clone().numpy(), []
    optimizer = AVERAGED.optimizer([p])
    for i in range(20):
        before = p.detach().clone()
        steps(optimizer, start=i)
        taken.append((before - p.detach()).numpy())
    np.testing.assert_allclose(optimizer.state[p]["weight_ema/average"].numpy(), ema(taken, start, 0.7)[-1], rtol=1e-12)


def test_an_average_of_weights_does_not_count_steps_that_are_not_taken():
    p = param(3)
    steps(optimizer := presets.adopt(lr=0.1).insert_after("learning_rate", t.WeightEMA()).optimizer([p]))
    assert torch.equal(optimizer.state[p]["weight_ema/average"], param(3).detach())


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_evaluation_and_back_keeps_every_bit(recipe, dtype):
    params, others = ([param(4, 3, dtype=dtype), param(dtype=dtype), param(0, dtype=dtype)] for _ in "ab")
    straight, turning = recipe.optimizer(params), recipe.optimizer(others)
    for i in range(4):
        steps(straight, start=i)
        steps(turning, start=i)
        training = copy.deepcopy(others)
        turning.eval()
        turning.eval()
        assert i == 0 or not torch.equal(others[0], training[0])  # after one step the average is that step
        assert others[0].dtype == dtype
        turning.train()
        turning.train()
        assert all(map(torch.equal, others, training))
    assert all(map(torch.equal, params, others)) and identical(snapshot(straight), snapshot(turning))


@BOTH
def test_no_step_in_evaluation(recipe):
    optimizer = recipe.optimizer([param(3)])
    optimizer.eval()
    with pytest.raises(ChainError, match=r"hold the average for evaluation; found a step. Call optimizer.train\(\)"):
        steps(optimizer)
    optimizer.train()
    steps(optimizer)


def test_only_optimizers_that_average_have_modes():
    assert not hasattr(Adam([param(1)]), "train") and not hasattr(Adam([param(1)]), "eval")
    assert "train_mode" not in presets.adam().optimizer([param(1)]).param_groups[0]
    assert callable(ScheduleFreeAdamW([param(1)]).train) and FREE.optimizer([param(1)]).param_groups[0]["train_mode"]


@BOTH
@pytest.mark.parametrize("evaluating", [True, False], ids=["in evaluation", "in training"])
def test_a_checkpoint_goes_on_in_the_mode_it_was_saved_in(recipe, evaluating):
    p, file = param(4, 3), io.BytesIO()
    optimizer = recipe.optimizer([p])
    steps(optimizer, 3)
    if evaluating:
        optimizer.eval()
    torch.save((optimizer.state_dict(), p.detach()), file)
    file.seek(0)
    saved, value = torch.load(file, weights_only=True)
    q = nn.Parameter(value.clone())
    resumed = recipe.optimizer([q])
    resumed.load_state_dict(saved, strict=True)
    for one in (optimizer, resumed):
        one.train()
        steps(one, 2, start=3)
    assert torch.equal(p, q) and identical(snapshot(optimizer), snapshot(resumed))


@BOTH
def test_copies_turn_by_themselves(recipe):
    p = param(4, 3)
    optimizer = recipe.optimizer([p])
    steps(optimizer, 3)
    for twin, q in (copy.deepcopy((optimizer, p)), pickle.loads(pickle.dumps((optimizer, p)))):
        twin.eval()
        assert not torch.equal(q, p)
        twin.train()
        steps(twin, start=3)
        assert not torch.equal(q, p) and optimizer.param_groups[0]["train_mode"]


def test_a_link_that_joins_a_saved_run_starts_from_the_weights_it_meets():
    p = param(4, 3)
    first = presets.adam(lr=0.1).optimizer([p])
    steps(first, 3)
    second = AVERAGED.optimizer([q := nn.Parameter(torch.zeros(4, 3))])
    with pytest.warns(ChainWarning, match="fresh: weight_ema"):
        second.load_state_dict(first.state_dict())
    with torch.no_grad():
        q.copy_(p)
    before = q.detach().clone()
    steps(second, start=3)
    torch.testing.assert_close(second.state[q]["weight_ema/average"], 0.7 * before + 0.3 * q.detach())


def test_a_step_of_rate_zero_counts_for_nothing():
    p = param(3)
    optimizer = FREE.optimizer([p])
    steps(optimizer, 3)
    before, total = p.detach().clone(), optimizer.state[p]["schedule_free/weight_sum"].clone()
    optimizer.param_groups[0]["lr"] = 0.0
    steps(optimizer)
    assert torch.equal(p, before) and torch.equal(optimizer.state[p]["schedule_free/weight_sum"], total)


def test_schedule_free_around_any_chain_and_under_a_scheduler():
    recipe = chain(t.AGR(), t.ADOPT(), t.LearningRate(lr=0.1), t.ScheduleFree())
    p = param(4, 3)
    optimizer = recipe.optimizer([p])
    cycle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=20, cycle_momentum=False)
    for i in range(10):
        steps(optimizer, start=i)
        cycle.step()
    optimizer.eval()
    assert p.isfinite().all()


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: chain(t.LearningRate(), t.Lookahead(), t.ScheduleFree()),
            "'lookahead' and 'schedule_free' both own the parameter's write; one link can. Leave one out",
        ),
        (
            lambda: chain(t.LearningRate(), t.ScheduleFree(), t.WeightEMA()),
            "'schedule_free' and 'weight_ema' both give the weights",
        ),
        (
            lambda: chain(t.LearningRate(), t.Lookahead(), t.SPD()),
            "'lookahead' owns the parameter's write, so no link behind it may change the step; found 'spd'. Put 'spd' before",
        ),
        (
            lambda: parallel({"a": t.Momentum(), "b": t.Lookahead()}),
            "branch 'b' has 'lookahead', which belongs behind the merge",
        ),
    ],
)
def test_one_owner_a_parameter_and_nothing_behind_it(make, complaint):
    with pytest.raises(ChainError, match=complaint.replace("(", r"\(")):
        make()


def test_different_parameters_may_have_different_owners_and_an_average_stands_behind():
    ahead, free = masked(t.Lookahead(), by=matrices), masked(t.ScheduleFree(), by=~matrices)
    optimizer = chain(t.LearningRate(), ahead, free).optimizer([param(2, 2), param(3)])
    steps(optimizer, 2)
    chain(t.LearningRate(), t.Lookahead(), t.WeightEMA())
    clash = masked(t.ScheduleFree(), by=lambda name, p: True)
    with pytest.raises(ChainError, match=r"parameter '0.0' has two links.*'lookahead' and 'schedule_free'"):
        chain(t.LearningRate(), ahead, clash).optimizer([param(2, 2), param(3)])
