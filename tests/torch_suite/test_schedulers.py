"""All of torch's schedulers on every preset class: the values are those that torch's own optimizers get, and they count."""

import copy
import warnings

import pytest
import torch
from harness import CLASSES, make, over
from torch import nn, optim
from torch.optim import lr_scheduler as s
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

SCHEDULERS = {
    "LambdaLR": lambda o: s.LambdaLR(o, lambda n: 0.9**n),
    "MultiplicativeLR": lambda o: s.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: s.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: s.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda o: s.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: s.LinearLR(o, 0.2, 1.0, 5),
    "ExponentialLR": lambda o: s.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: s.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: s.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    "SequentialLR": lambda o: s.SequentialLR(o, [s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)], [2]),
    "ChainedScheduler": lambda o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 2), s.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda o: s.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "CyclicLR": lambda o: s.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    "OneCycleLR": lambda o: s.OneCycleLR(o, 0.2, total_steps=9, cycle_momentum=False),
    "SWALR": lambda o: SWALR(o, 0.05, 3),
}
STEPS = 8


def test_no_scheduler_of_torch_is_left_out():
    there = {name for name in s.__all__ if name not in ("LRScheduler", "_LRScheduler")}
    assert there <= SCHEDULERS.keys()


def tick(scheduler):
    scheduler.step(*([1.0] if isinstance(scheduler, s.ReduceLROnPlateau) else []))


def values(optimizer, build):
    """The hyperparameters of each of the next steps, and those after a scheduler was saved and loaded half way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's SequentialLR warns of itself
        scheduler, seen = build(optimizer), []
        for i in range(STEPS):
            seen.append([(float(g["lr"]), tuple(map(float, g.get("betas", ())))) for g in optimizer.param_groups])
            optimizer.step()
            tick(scheduler)
            if i == STEPS // 2:
                saved, theirs = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(optimizer.state_dict())
                scheduler = build(optimizer)
                optimizer.load_state_dict(theirs)
                scheduler.load_state_dict(saved)
    return seen


def groups():
    return [{"params": [nn.Parameter(torch.ones(2))], "lr": lr} for lr in (0.1, 0.03)]


@over(every_input=False)
@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["float", "tensor"])
def test_every_scheduler_gives_what_it_gives_to_torch_s_own_optimizers(entry, case, kind):
    for name, build in SCHEDULERS.items():
        ours, theirs = ([{**g, "lr": kind(g["lr"])} for g in groups()] for _ in "ab")
        ours, theirs = values(make(entry, case, ours), build), values(optim.SGD(theirs), build)
        assert [[lr for lr, _ in step] for step in ours] == [[lr for lr, _ in step] for step in theirs], name


def params():
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((3, 4), (4,))]


def advance(optimizer, i):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.sin(3 * p.detach() + i)
    optimizer.step()


@over(every_input=False)
@pytest.mark.parametrize("build", [s.OneCycleLR, s.CyclicLR], ids=["OneCycleLR", "CyclicLR"])
def test_cycled_momentum_is_the_momentum_set_by_hand(entry, case, build):
    kwargs = {"max_lr": 0.1, "total_steps": STEPS + 1} if build is s.OneCycleLR else {"base_lr": 0.01, "max_lr": 0.1}
    cycled = make(entry, case, ps := params())
    keys = [key for key in ("betas", "momentum") if key in cycled.defaults]
    if not keys:
        with pytest.raises(ValueError, match="momentum"):
            build(cycled, cycle_momentum=True, **kwargs)
        one_chain = len(cycled.chain.parts) == 1  # beside others, each may keep its momentum under another key
        assert not (one_chain and any("momentum" in name or "moments" in name for name in cycled.chain.names))
        return
    scheduler, seen = build(cycled, cycle_momentum=True, **kwargs), []
    for i in range(STEPS):
        seen.append({key: copy.copy(cycled.param_groups[0][key]) for key in ("lr", keys[0])})
        advance(cycled, i)
        scheduler.step()
    assert len({str(one[keys[0]]) for one in seen}) > 2
    if keys == ["betas"]:
        assert len({one["betas"][1:] for one in seen}) == 1  # the rest of the tuple is kept
    by_hand = make(entry, case, qs := params())
    for i, one in enumerate(seen):
        by_hand.param_groups[0].update(one)
        advance(by_hand, i)
    assert all(map(torch.equal, ps, qs))


@over(every_input=False)
def test_averaged_models_go_along(entry, case):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    averaged, moving = AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = make(entry, case, model.parameters(), lr=0.01, driver="reference")  # which traces no chain
    scheduler, seen = SWALR(optimizer, swa_lr=0.02, anneal_epochs=2), []
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.eye(3)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        averaged.update_parameters(model)
        moving.update_parameters(model)
        seen.append(model[0].weight.detach().clone())
    torch.testing.assert_close(averaged.module[0].weight.detach(), torch.stack(seen).mean(0))
    assert optimizer.param_groups[0]["lr"] == 0.02 and "swa_lr" in optimizer.param_groups[0]


@over(every_input=False)
def test_every_number_may_be_a_schedule_of_the_step(entry, case):
    """What the chain calls a float may be a function of the step; a constant one changes nothing."""
    plain = make(entry, case, ps := params())
    known = {key for chain in plain.chain.parts.values() for key in chain.hyperparameters}
    floats = {key: v for group in plain.param_groups for key, v in group.items() if isinstance(v, float) and key in known}
    scheduled = plain.chain.optimizer(qs := params(), **{key: (lambda n, v=value: v) for key, value in floats.items()})
    for i in range(3):
        advance(plain, i)
        advance(scheduled, i)
    assert "lr" in floats and all(map(torch.equal, ps, qs))
    assert set(floats) == {key for group in scheduled.param_groups for key in group["scheduled"]}


CYCLING = {
    "CyclicLR with momentum": lambda o: s.CyclicLR(o, 0.01, 0.1, 3),
    "CyclicLR down": lambda o: s.CyclicLR(o, 0.01, 0.1, 2, 3, mode="exp_range", gamma=0.9),
    "OneCycleLR with momentum": lambda o: s.OneCycleLR(o, 0.2, total_steps=13),
    "OneCycleLR linear": lambda o: s.OneCycleLR(o, 0.2, total_steps=13, anneal_strategy="linear", three_phase=True),
    "chained": lambda o: s.ChainedScheduler([s.LinearLR(o, 0.2, 1.0, 5), s.CosineAnnealingLR(o, 7), s.StepLR(o, 4, 0.5)]),
    "sequential": lambda o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 3), s.CosineAnnealingLR(o, 6), s.ExponentialLR(o, 0.5)], [3, 9]
    ),
    "warm restarts of one cycle": lambda o: s.CosineAnnealingWarmRestarts(o, 2, 2, eta_min=1e-3),
}
TORCH = {"SGD": optim.SGD, "Adam": optim.Adam}
KWARGS = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"maximize": True}, {"weight_decay": 0.1}],
    "Adam": [{}, {"weight_decay": 0.1, "amsgrad": True}, {"maximize": True}],
}
KEYS = ("lr", "momentum", "betas")


def run_of(build, optimizer, ps):
    """Rates, momenta and parameters of 12 steps; or the error with which it ends."""
    seen = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = build(optimizer)
            for i in range(12):
                advance(optimizer, i)
                tick(scheduler)
                values = [
                    [torch.as_tensor(group[key]).tolist() for key in KEYS if key in group] for group in optimizer.param_groups
                ]
                seen.append((values, [p.detach().clone() for p in ps]))
    except (ValueError, TypeError, KeyError) as error:
        return type(error)
    return seen


@pytest.mark.parametrize("build", [*SCHEDULERS.values(), *CYCLING.values()], ids=[*SCHEDULERS, *CYCLING])
@pytest.mark.parametrize(("name", "kwargs"), [(n, k) for n, all_ in KWARGS.items() for k in all_], ids=str)
@pytest.mark.parametrize("kind", [float, lambda lr: torch.tensor(lr, dtype=torch.float64)], ids=["float", "tensor"])
def test_our_sgd_and_adam_run_under_every_scheduler_as_torch_s(build, name, kwargs, kind):
    """Where torch's own class fails, so does ours."""
    runs = []
    for cls in (TORCH[name], CLASSES[name]):
        ps = [nn.Parameter(p.detach().double()) for p in params()]
        groups = [{"params": ps[:1], "lr": kind(0.1)}, {"params": ps[1:], "lr": kind(0.03)}]
        runs.append(run_of(build, cls(groups, **kwargs), ps))
    theirs, ours = runs
    if isinstance(theirs, type) or isinstance(ours, type):
        assert theirs is ours
        return
    for i, ((their_values, a), (our_values, b)) in enumerate(zip(theirs, ours, strict=True)):
        assert our_values == their_values, f"step {i}"
        torch.testing.assert_close(b, a, rtol=1e-11, atol=1e-11)


def test_what_schedulers_write_into_groups_is_no_link_s():
    """OneCycleLR keeps its bounds under max_lr and min_lr; links with fields of these names keep theirs elsewhere."""
    written = set()
    for build in (*SCHEDULERS.values(), lambda o: s.OneCycleLR(o, 0.1, 9), lambda o: s.CyclicLR(o, 0.01, 0.1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = set((optimizer := optim.Adam(groups())).param_groups[0])
            build(optimizer)
        written |= set(optimizer.param_groups[0]) - before
    taken = [cls([nn.Parameter(torch.ones(2))]).param_groups[0].keys() & written for cls in CLASSES.values()]
    assert {"initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"} == written and not any(taken)
    optimizer = CLASSES["AdaptiveHina"]([nn.Parameter(torch.ones(2))], max_lr=0.5)
    assert optimizer.param_groups[0]["lr_mask/max_lr"] == 0.5
