"""What people wrap around chains, alone and in each other: schedulers, checkpoints, copies and drivers treat all alike."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn, optim
from training import identical, snapshot

from gradchain import ChainError, chain, from_torch, masked, parallel, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.optim_wrapper.drivers import graphs

ADAM, BALL = presets.adam(lr=0.05), presets.sgd(lr=0.05, momentum=0.9)
CORE = chain(t.Moments(), t.Normalize())
RATE = t.LearningRate(lr=0.05)
BRANCHES = parallel({"adam": CORE, "ball": t.Momentum()}, merge="graft")
GATED = {"finite_gate": True}

WRAPPERS = {  # recipe, options of the optimizer
    "partition": (partition({"ball": BALL, "adam": ADAM}, by={"ball": matrices}), {}),
    "masked": (chain(masked(CORE, by=matrices), RATE), {}),
    "parallel": (chain(BRANCHES, RATE), {}),
    "schedule free": (chain(t.AGR(), RATE, t.ScheduleFree()), {}),
    "lookahead": (chain(ADAM, t.Lookahead(la_steps=2)), {}),
    "average": (chain(ADAM, t.WeightEMA(ema_decay=0.5)), {}),
    "sam": (chain(t.SAM(), ADAM), {}),
    "asam": (chain(t.ASAM(), ADAM), {}),
    "several calls": (ADAM, {"accumulate": 2}),
    "gate": (ADAM, GATED),
    "torch's own": (chain(t.AGR(), from_torch(optim.RAdam, lr=0.05)), {}),
}
TOGETHER = {
    "schedule free in a label": (
        partition({"ball": BALL, "free": presets.schedule_free_adamw(lr=0.05)}, by={"ball": matrices}),
        {},
    ),
    "schedule free in every label": (
        partition({"a": chain(BALL, t.ScheduleFree(name="f")), "b": chain(ADAM, t.ScheduleFree())}, by={"a": matrices}),
        {},
    ),
    "lookahead in a label": (partition({"a": chain(ADAM, t.Lookahead(la_steps=2)), "b": BALL}, by={"a": matrices}), {}),
    "average in a label": (partition({"a": chain(ADAM, t.WeightEMA()), "b": BALL}, by={"a": matrices}), {}),
    "average of lookahead": (chain(ADAM, t.Lookahead(la_steps=2), t.WeightEMA(ema_decay=0.5)), {}),
    "masked in parallel": (chain(parallel({"a": masked(CORE, by=matrices), "b": t.Momentum()}, merge="mean"), RATE), {}),
    "parallel in masked": (chain(masked(BRANCHES, by=~matrices), RATE), {}),
    "several calls and the gate": (ADAM, {"accumulate": 2, **GATED}),
    "several calls, gate and lookahead in a partition": (
        partition({"a": chain(ADAM, t.Lookahead(la_steps=2)), "b": BALL}, by={"a": matrices}),
        {"accumulate": 2, **GATED},
    ),
    "lbfgs": (chain(from_torch(optim.LBFGS, lr=0.1, max_iter=2, history_size=3)), {}),
    "lbfgs between links behind a gate": (
        chain(t.L2(weight_decay=0.1), from_torch(optim.LBFGS, lr=0.1, max_iter=2, history_size=3), t.Lookahead(la_steps=2)),
        GATED,
    ),
    "gate and sam": (chain(t.SAM(), ADAM), GATED),
    "sam in every label": (partition({"a": chain(t.SAM(), ADAM), "b": chain(t.SAM(), BALL)}, by={"a": matrices}), {}),
    "sam around schedule free": (chain(t.SAM(), RATE, t.ScheduleFree()), {}),
    "schedule free behind a gate that closes": (chain(t.ADOPT(), t.WeightDecay(weight_decay=0.1), RATE, t.ScheduleFree()), {}),
}
ALL = pytest.mark.parametrize(("recipe", "options"), (WRAPPERS | TOGETHER).values(), ids=WRAPPERS | TOGETHER)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def train(net, optimizer, start, stop):
    for i in range(start, stop):
        x = torch.sin(torch.arange(12.0, dtype=torch.float64) + i).reshape(4, 3)

        def closure(x=x):
            optimizer.zero_grad()
            loss = (net(x) - x.roll(1)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


@ALL
def test_schedulers_drive_it(recipe, options):
    net = model()
    optimizer = recipe.optimizer(net.named_parameters(), **options)
    before = [p.detach().clone() for p in net.parameters()]
    cycle = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9, cycle_momentum=False)
    rates = []
    for i in range(8):
        train(net, optimizer, i, i + 1)
        cycle.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert len({rate for now in rates for rate in now}) == 8 and all(len(set(now)) == 1 for now in rates)
    assert not any(map(torch.equal, before, net.parameters())) and all(p.isfinite().all() for p in net.parameters())


@ALL
def test_a_rate_of_zero_changes_no_parameter(recipe, options):
    net = model()
    train(net, recipe.optimizer(net.named_parameters(), lr=0.0, **options), 0, 4)
    assert all(map(torch.equal, net.parameters(), model().parameters()))


@ALL
def test_checkpoints_and_copies_go_on_bit_for_bit(recipe, options):
    net, file = model(), io.BytesIO()
    optimizer = recipe.optimizer(net.named_parameters(), **options)
    train(net, optimizer, 0, 5)  # between two calls of one step, where two calls make one
    torch.save((optimizer.state_dict(), net.state_dict()), file)
    file.seek(0)
    saved, weights = torch.load(file, weights_only=True)
    other = model()
    other.load_state_dict(weights)
    resumed = recipe.optimizer(other.named_parameters(), lr=0.9, **options)
    assert resumed.load_state_dict(saved, strict=True).clean
    pairs = [(net, optimizer), (other, resumed), copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for one in pairs:
        train(*one, 5, 9)
    assert all(identical(snapshot(one), snapshot(optimizer)) for _, one in pairs[1:])


@ALL
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own, when it is loaded
@pytest.mark.parametrize("driver", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_every_driver_gives_the_numbers_of_the_loop(recipe, options, driver, monkeypatch):
    """Each wrapper is compiled; of those in each other, the graphs for the compiler run as they are."""
    if (recipe, options) in TOGETHER.values():
        monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    nets = [model(), model()]
    for net, how in zip(nets, ("reference", driver), strict=True):
        train(net, recipe.optimizer(net.named_parameters(), driver=how, **options), 0, 8)
    torch.testing.assert_close(list(nets[0].parameters()), list(nets[1].parameters()), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda net: chain(RATE, t.ScheduleFree(), t.WeightEMA()), "'schedule_free' and 'weight_ema' both give the weights"),
        (lambda net: chain(RATE, t.ScheduleFree(), t.Lookahead()), "'schedule_free' and 'lookahead' both own the parameter's"),
        (
            lambda net: chain(t.SAM(), ADAM).optimizer(net.parameters(), accumulate=2, finite_gate=True),
            "'sam' needs all gradients of a step in its closure; found accumulate=2",
        ),
        (
            lambda net: partition({"a": chain(t.SAM(), ADAM), "b": chain(t.ASAM(), BALL)}, by={"a": matrices}),
            "'sam' of 'a' and 'asam' of 'b' climb in one step, and each in its own way. Use one of them in both",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make(model())


def test_a_step_behind_a_closed_gate_moves_no_owner():
    for owner in (t.ScheduleFree(), t.Lookahead(la_steps=1, la_alpha=0.5)):
        recipe, net = chain(t.ADOPT(), t.WeightDecay(weight_decay=0.5), RATE, owner), model()
        optimizer = recipe.optimizer(net.named_parameters())
        train(net, optimizer, 0, 1)
        for p, q in zip(net.parameters(), model().parameters(), strict=True):
            kept = {key: value for key, value in optimizer.state[p].items() if key.rpartition("/")[2] in ("z", "slow")}
            assert torch.equal(p, q) and all(torch.equal(value, q.detach()) for value in kept.values()) and kept
