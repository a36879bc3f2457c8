"""Optimizers of torch as links."""

import copy
import pickle

import pytest
import torch
from torch import optim
from training import identical, param, snapshot, steps

from gradchain import ChainError, chain, from_torch, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices

ROWS = {
    "adam": (optim.Adam, {"betas": (0.8, 0.99), "weight_decay": 0.1, "amsgrad": True}),
    "adamw": (optim.AdamW, {"lr": 0.05}),
    "sgd": (optim.SGD, {"momentum": 0.9, "dampening": 0.1, "lr": 0.05}),
    "plain sgd": (optim.SGD, {"lr": 0.05}),
    "rmsprop": (optim.RMSprop, {"momentum": 0.5, "centered": True}),
    "adagrad": (optim.Adagrad, {"initial_accumulator_value": 0.5}),
    "adamax": (optim.Adamax, {}),
    "nadam": (optim.NAdam, {"lr": 0.05}),
    "radam": (optim.RAdam, {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    "rprop": (optim.Rprop, {}),
    "asgd": (optim.ASGD, {}),
    "adadelta": (optim.Adadelta, {}),
    "adafactor": (optim.Adafactor, {"lr": 0.05}),
}


class Evaluates(optim.SGD):
    def step(self, closure):
        return super().step(closure)


def params():
    return [param(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate([(4, 6), (5,), ()])]


@pytest.mark.parametrize(("kind", "arguments"), ROWS.values(), ids=ROWS)
def test_alone_it_is_the_optimizer_itself(kind, arguments):
    ours, theirs = params(), params()
    pairs = [(chain(from_torch(kind, **arguments)).optimizer(ours), kind(theirs, **arguments))]
    for i in range(20):
        for optimizer in pairs[0]:
            if i == 10:
                optimizer.param_groups[0]["lr"] *= 0.5
            steps(optimizer, start=i)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_muon_is_a_base_for_matrices():
    ours, theirs = param(4, 6), param(4, 6)
    mine = chain(masked(from_torch(optim.Muon, lr=0.1), by=matrices)).optimizer([ours, param(3)])
    for optimizer in (mine, optim.Muon([theirs], lr=0.1)):
        steps(optimizer, 5)
    torch.testing.assert_close(ours, theirs)


def test_links_before_see_the_gradient_and_links_behind_the_step():
    p, q = param(4, 3, dtype=torch.float64), param(4, 3, dtype=torch.float64)
    optimizer = chain(t.AGR(), from_torch(optim.RAdam, lr=0.5), t.SpeedLimit(speed_limit=0.1)).optimizer([p])
    base = optim.RAdam([q], lr=0.5)
    for i in range(12):
        g, before = torch.sin(p.detach() + i), p.detach().clone()
        p.grad, q.grad = g, g * (1 - g.abs() / g.abs().sum())
        optimizer.step()
        base.step()
        step = before - q.detach()
        torch.testing.assert_close(p.detach(), before - step / torch.hypot(torch.ones(()), step.norm() / 0.1))
        with torch.no_grad():
            q.copy_(p)


def test_its_numbers_are_hyperparameters_and_its_state_is_flat():
    p = param(4, 6)
    optimizer = chain(from_torch(optim.AdamW, lr=0.1, foreach=False)).optimizer([p])
    steps(optimizer)
    assert {"lr", "betas", "eps", "weight_decay"} <= optimizer.param_groups[0].keys()
    assert set(optimizer.state[p]) == {"step", "adamw/step", "adamw/exp_avg", "adamw/exp_avg_sq"}
    cycle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=5)
    for i in range(4):
        steps(optimizer, start=i)
        cycle.step()
    assert optimizer.param_groups[0]["betas"][0] != 0.9
    scheduled = chain(from_torch(optim.SGD, lr=lambda n: 1.0 / n)).optimizer([param(2)])
    steps(scheduled, 4)
    assert scheduled.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(("kind", "arguments"), ROWS.values(), ids=ROWS)
def test_saving_loading_copies_and_writing_down(kind, arguments):
    recipe = chain(from_torch(kind, **arguments))
    ours = [param(4, 6), param(5), param(0)]
    optimizer = recipe.optimizer(ours)
    steps(optimizer, 3)
    others = copy.deepcopy(ours)
    resumed = recipe.optimizer(others)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=True)
    pickled, _ = pickle.loads(pickle.dumps((optimizer, ours)))
    for one in (optimizer, resumed, pickled, copy.deepcopy((optimizer, ours))[0]):
        steps(one, 3, start=3)
    assert identical(snapshot(optimizer), snapshot(resumed)) and identical(snapshot(optimizer), snapshot(pickled))
    names = {"chain": chain, "from_torch": from_torch, "torch": torch}
    assert eval(repr(recipe), names) == recipe and pickle.loads(pickle.dumps(recipe)) == recipe


def test_it_stands_beside_chains_in_a_partition_and_under_a_mask_it_is_written_down():
    recipe = partition({"a": from_torch(optim.RAdam, lr=0.1), "b": presets.adamw()}, by={"a": matrices})
    p, alone = param(3, 2), param(3, 2)
    steps(recipe.optimizer([p, param(3)]), 8)
    steps(optim.RAdam([alone], lr=0.1), 8)
    torch.testing.assert_close(p, alone)
    assert repr(masked(from_torch(optim.SGD, name="x"), by=matrices)).startswith("masked(from_torch(torch.optim.SGD, lr=0.001")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: from_torch(Evaluates), "Evaluates evaluates the loss again within its step.*cannot be a link. Use it alone"),
        (lambda: from_torch(optim.SparseAdam), "SparseAdam cannot be a link: .*dense gradients.*Change its arguments"),
        (lambda: from_torch(optim.Adam, lr=-1.0), "Adam cannot be a link: Invalid learning rate"),
        (lambda: from_torch(optim.Adam, momentum=0.1), "Adam cannot be a link: .*unexpected keyword"),
        (lambda: from_torch(presets.adam), "takes a class of torch optimizers; found"),
    ],
)
def test_what_cannot_be_a_link_is_refused(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()


@pytest.mark.parametrize(("kind", "arguments"), ROWS.values(), ids=ROWS)
def test_it_is_described_and_a_rate_of_zero_changes_nothing(kind, arguments):
    recipe = chain(from_torch(kind, **arguments))
    assert f"{kind.__name__.lower()}" in recipe.describe()
    optimizer = recipe.optimizer(params := [param(4, 6), param(5)], lr=0.0)
    steps(optimizer, 3)
    assert torch.equal(params[0], param(4, 6)) and torch.equal(params[1], param(5))


@pytest.mark.parametrize("driver", ["eager", "compiled"])
@pytest.mark.filterwarnings("error")
def test_every_driver_runs_it_one_by_one(driver):
    recipe = chain(t.AGR(), from_torch(optim.RAdam, lr=0.1))
    runs = [[param(4, 3), param(4, 3, seed=1), param(dtype=torch.bfloat16), param(0)] for _ in "ab"]
    for params, how in zip(runs, (driver, "reference"), strict=True):
        steps(recipe.optimizer(params, driver=how), 7)
    assert all(map(torch.equal, *runs))
