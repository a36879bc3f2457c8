"""Branches over the same gradient."""

import copy
import pickle

import pytest
import torch
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, masked, parallel, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.chains.branches import Branch, Merge

ADAM, BALL = chain(t.Moments(betas=(0.8, 0.9)), t.Normalize()), chain(t.Momentum(momentum=0.7))
BOTH = {"adam": ADAM, "ball": BALL}
RATE = t.LearningRate(lr=0.1)


def total(updates):
    return updates[0] + 2 * updates[1]


def alone(recipe, count=4):
    """What each step of a chain would be, at fixed gradients."""
    p, found = param(4, 3, dtype=torch.float64), []
    optimizer = chain(recipe, t.LearningRate(lr=1.0)).optimizer([p])
    for i in range(count):
        before = p.detach().clone()
        p.grad = torch.sin(torch.arange(12.0, dtype=torch.float64).reshape(4, 3) + i)
        optimizer.step()
        found.append(before - p.detach())
    return found


@pytest.mark.parametrize(
    ("merge", "rule"),
    [
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
        ("graft", lambda a, b: b * a.norm() / b.norm()),
        (total, lambda a, b: a + 2 * b),
    ],
    ids=["sum", "mean", "graft", "function"],
)
def test_every_branch_works_on_the_same_gradient_and_their_updates_are_merged(merge, rule):
    found = alone(parallel(BOTH, merge=merge))
    for got, a, b in zip(found, alone(ADAM), alone(BALL), strict=True):
        torch.testing.assert_close(got, rule(a, b), rtol=1e-10, atol=1e-12)


def test_state_and_hyperparameters_stand_under_the_name_of_their_branch():
    p = param(3)
    optimizer = chain(parallel(BOTH), RATE).optimizer([p])
    steps(optimizer)
    assert set(optimizer.state[p]) == {"step", "adam/moments/first", "adam/moments/second", "ball/momentum/buffer"}
    assert {k for k in optimizer.param_groups[0] if "/" in k} == {
        "adam/betas",
        "adam/eps",
        "ball/momentum",
        "ball/dampening",
    }
    optimizer.param_groups[0]["ball/momentum"] = 0.5
    before = optimizer.state[p]["ball/momentum/buffer"].clone()
    steps(optimizer, start=1)
    torch.testing.assert_close(optimizer.state[p]["ball/momentum/buffer"], 0.5 * before + p.grad)


def test_branches_may_have_branches():
    inner = parallel({"a": BALL, "b": t.L2(weight_decay=0.5)}, name="inner")
    found = alone(chain(parallel({"x": inner, "y": ADAM})))
    summed = [a + b + c for a, b, c in zip(alone(BALL), alone(t.L2(weight_decay=0.0)), alone(ADAM), strict=True)]
    torch.testing.assert_close(found[0] - summed[0], 0.5 * param(4, 3, dtype=torch.float64).detach(), rtol=1e-10, atol=1e-10)
    assert "x/a/momentum" in chain(parallel({"x": inner, "y": ADAM})).names


def test_what_a_branch_writes_ends_with_it():
    with pytest.raises(ChainError, match="'normalize' reads second_moment, but no link before it writes it"):
        chain(parallel({"a": t.Moments(), "b": t.Momentum()}), t.Normalize(), RATE)
    with pytest.raises(ChainError, match="'b/normalize' reads second_moment"):
        chain(parallel({"a": t.Moments(), "b": t.Normalize()}))
    shared = chain(t.Moments(), parallel({"a": (t.VarianceFloor(floor=9.0), t.Normalize()), "b": t.Normalize()}))
    found, floored = alone(shared), alone(chain(t.Moments(), t.VarianceFloor(floor=9.0), t.Normalize()))
    for got, a, b in zip(found, floored, alone(chain(t.Moments(), t.Normalize())), strict=True):
        torch.testing.assert_close(got, a + b, rtol=1e-10, atol=1e-12)


def test_a_gate_that_a_branch_closes_is_closed():
    p = param(3)
    optimizer = chain(parallel({"adopt": t.ADOPT(), "ball": BALL}), RATE).optimizer([p])
    steps(optimizer)
    assert torch.equal(p, param(3)) and optimizer.state[p]["ball/momentum/buffer"].any()
    steps(optimizer)
    assert not torch.equal(p, param(3))


@pytest.mark.parametrize("merge", ["sum", "mean", "graft"])
def test_degenerate_updates_stay_finite(merge):
    for p in (param(3), param(), param(0), param(1)):
        optimizer = chain(parallel(BOTH, merge=merge), RATE).optimizer([p])
        for _ in range(2):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        assert torch.equal(p, param(*p.shape))


def test_shared_links_windows_and_masks_work_in_branches():
    limited = chain(ADAM, t.GlobalSpeedLimit(speed_limit=0.5))
    recipe = chain(parallel({"slow": limited, "ball": t.Phase(t.Momentum(momentum=0.7), start=3)}, merge="graft"), RATE)
    for wrapped in (recipe, chain(masked(parallel(BOTH), by=matrices), RATE)):
        a, b = param(3, 2), param(4)
        steps(wrapped.optimizer([a, b]), 4)
        assert a.isfinite().all() and b.isfinite().all() and not torch.equal(a, param(3, 2))
    a, plain = param(4), param(4)
    steps(chain(masked(parallel(BOTH), by=matrices), RATE).optimizer([a]), 2)
    steps(chain(RATE).optimizer([plain]), 2)
    assert torch.equal(a, plain)


def test_surgery_keeps_links_in_their_branch():
    recipe = chain(parallel(BOTH), RATE)
    assert recipe.names == ("adam", "adam/moments", "adam/normalize", "ball", "ball/momentum", "parallel", "learning_rate")
    assert recipe.without("adam/normalize").names[:3] == ("adam", "adam/moments", "ball")
    assert recipe.replace(**{"adam/normalize": t.Normalize(eps=0.5)})["adam/normalize"].eps == 0.5
    assert recipe.insert_after("adam", t.AGR()).names[1] == "adam/agr"
    assert recipe.insert_before("ball/momentum", t.AGR()).names[4] == "ball/agr"
    assert list(recipe.ablations()) == ["adam/moments", "adam/normalize", "ball/momentum"]
    for part in ("adam", "parallel"):
        with pytest.raises(ChainError, match="Leave out a parallel as a whole"):
            recipe.without(part)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: parallel({"a": BALL}), "'parallel' needs two branches or more; found a. Pass"),
        (
            lambda: parallel({**BOTH, "c": BALL}, merge="graft"),
            "two branches, the first for the length; found adam, ball, c",
        ),
        (lambda: parallel({"a": presets.adam(), "b": BALL}), r"branch 'a' has 'learning_rate'.*\.without\('learning_rate'\)"),
        (
            lambda: parallel({"a": chain(t.SAM(), BALL), "b": BALL}),
            "branch 'a' has 'sam', which moves the parameters for all branches. Put it first",
        ),
        (lambda: parallel(BOTH, merge="product"), "merge must be one of 'sum', 'mean', 'graft' or a function; found 'product'"),
        (lambda: chain(parallel(BOTH), parallel(BOTH)), "two links are named 'adam'"),
        (lambda: chain(Branch(name="a", first=True), BALL), "is not closed"),
        (lambda: chain(Merge()), "'merge' has no parallel"),
        (lambda: chain(parallel({"a/b": BALL, "b": BALL})), "'a/b' cannot name a link"),
    ],
)
def test_what_it_refuses(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()


def test_normalizing_in_two_branches_is_sense_and_before_them_is_not():
    chain(parallel({"a": ADAM, "b": chain(t.SecondMoment(), t.Normalize())}), RATE)
    with pytest.warns(ChainWarning, match="'normalize' and 'a/adopt' normalize the update"):
        chain(t.Moments(), t.Normalize(), parallel({"a": t.ADOPT(), "b": BALL}), RATE)


def test_saving_loading_copies_and_writing_down():
    recipe = chain(parallel(BOTH, merge="graft"), RATE)
    p = param(4, 3)
    optimizer = recipe.optimizer([p])
    steps(optimizer, 2)
    other = copy.deepcopy(p)
    resumed = recipe.optimizer([other])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=True)
    pickled, _ = pickle.loads(pickle.dumps((optimizer, p)))
    for one in (optimizer, resumed, pickled):
        steps(one, 2, start=2)
    assert identical(snapshot(resumed), snapshot(optimizer)) and identical(snapshot(pickled), snapshot(optimizer))
    assert eval(repr(recipe), {**vars(t), "chain": chain, "Branch": Branch, "Merge": Merge}) == recipe
    shorter = recipe.without("adam/moments", "adam/normalize").optimizer([param(4, 3)])
    with pytest.warns(ChainWarning, match="dropped: adam/moments; fresh: none"):
        shorter.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.slow
def test_the_step_is_still_one_graph():
    torch._dynamo.reset()
    recipe = chain(parallel(BOTH, merge="graft"), RATE)
    a, b = param(4, 3), param(4, 3)
    eager, compiled = recipe.optimizer([a]), recipe.optimizer([b])
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend="eager")
    for optimizer in (eager, compiled):
        steps(optimizer, 3)
    torch.testing.assert_close(a, b)
