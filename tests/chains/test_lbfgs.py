"""LBFGS of torch as a link that solves once a step."""

import copy
import pickle

import pytest
import torch
from distributed.ranks import on_ranks
from torch import nn, optim
from training import identical, param, snapshot

from gradchain import ChainError, chain, from_torch, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices, parallel
from gradchain.optim_wrapper import step_in_backward

FORMS = {
    "plain": {"lr": 0.5, "max_iter": 4},
    "strong_wolfe": {"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 5},
}


def net(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def closure_of(model, optimizer, calls=None):
    x = torch.linspace(-1, 1, 24, dtype=model[0].weight.dtype).reshape(8, 3)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - torch.sin(3 * x[:, :2])).square().mean()
        loss.backward()
        if calls is not None:
            calls.append(float(loss.detach()))
        return loss

    return closure


def run(model, optimizer, count, calls=None):
    return [float(optimizer.step(closure_of(model, optimizer, calls)).detach()) for _ in range(count)]


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("driver", ["reference", "eager", "compiled"])
def test_alone_it_is_lbfgs_itself_with_as_many_evaluations(arguments, driver):
    ours, theirs = net(), net()
    mine, real = chain(from_torch(optim.LBFGS, **arguments)), optim.LBFGS(theirs.parameters(), **arguments)
    seen, expected = [], []
    losses = run(ours, mine.optimizer(ours.named_parameters(), driver=driver), 10, seen)
    assert losses == pytest.approx(run(theirs, real, 10, expected), rel=1e-11) and losses[-1] < 0.3 * losses[0]
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-11, atol=1e-12)
    assert len(seen) == len(expected)


def test_links_behind_work_on_the_displacement():
    model = net()
    optimizer = chain(from_torch(optim.LBFGS, lr=1.0), t.SpeedLimit(speed_limit=0.01)).optimizer(model.parameters())
    for _ in range(5):
        before = [p.detach().clone() for p in model.parameters()]
        run(model, optimizer, 1)
        moved = [float((p.detach() - b).norm()) for p, b in zip(model.parameters(), before, strict=True)]
        assert all(0 < one <= 0.01 * (1 + 1e-9) for one in moved)


def test_links_before_work_on_the_gradient_of_every_trial_point():
    """L2 before LBFGS is LBFGS on the regularized loss, where nothing but gradients counts."""
    ours, theirs = net(), net()
    mine = chain(t.L2(weight_decay=0.1), from_torch(optim.LBFGS, **FORMS["plain"])).optimizer(ours.parameters())
    real = optim.LBFGS(theirs.parameters(), **FORMS["plain"])
    plain = closure_of(theirs, real)

    def regularized():
        loss = plain()
        for p in theirs.parameters():
            p.grad += 0.1 * p.detach()
        return loss

    run(ours, mine, 6)
    for _ in range(6):
        real.step(regularized)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-11, atol=1e-12)


def test_a_shared_link_before_it_meets_at_every_trial_point():
    ours, theirs, arguments = net(), net(), {"lr": 0.1, "max_iter": 2}
    mine = chain(t.ClipGlobalNorm(max_norm=0.05), from_torch(optim.LBFGS, **arguments)).optimizer(ours.parameters())
    real = optim.LBFGS(theirs.parameters(), **arguments)
    plain, norms = closure_of(theirs, real), []

    def clipped():
        loss = plain()
        norms.append(nn.utils.clip_grad_norm_(theirs.parameters(), 0.05))
        return loss

    run(ours, mine, 1)
    real.step(clipped)
    assert len(norms) == 2 and all(norm > 0.05 for norm in norms)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_parameters_of_every_dtype_that_lbfgs_takes(dtype):
    def problem():
        return [nn.Parameter(torch.full(shape, 2.0, dtype=dtype)) for shape in ((3, 2), (), (0,), (4,))]

    ours, theirs = problem(), problem()
    mine = chain(from_torch(optim.LBFGS, lr=0.5, max_iter=3)).optimizer(ours)
    for params, optimizer in ((ours, mine), (theirs, optim.LBFGS(theirs, lr=0.5, max_iter=3))):

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            loss = sum(((p - i).abs() ** 2 * (i + 1)).sum() for i, p in enumerate(params[:3])).float()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    torch.testing.assert_close(ours, theirs)
    assert ours[3].grad is None and ours[0].grad is not None


def test_a_parameter_that_misses_a_step_stays_where_it_is():
    a, b = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in "ab")
    base = from_torch(optim.LBFGS, max_iter=2, line_search_fn="strong_wolfe")
    optimizer, losses = chain(base).optimizer([a, b]), []
    for i in range(12):

        def closure(i=i):
            optimizer.zero_grad()
            loss = (a - 3).square().sum() + (0.0 if i in (2, 3) else ((b + 1) ** 4).sum())
            loss.backward()
            return loss

        before = b.detach().clone()
        losses.append(float(optimizer.step(closure).detach()))
        assert i not in (2, 3) or torch.equal(before, b)
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(arguments, dtype):
    recipe, ours = chain(from_torch(optim.LBFGS, **arguments), t.SpeedLimit(speed_limit=0.5)), net(dtype=dtype)
    optimizer = recipe.optimizer(ours.named_parameters())
    run(ours, optimizer, 4)
    others = copy.deepcopy(ours)
    resumed = recipe.optimizer(others.named_parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()), strict=True)
    run(ours, optimizer, 4)
    run(others, resumed, 4)
    assert identical(snapshot(optimizer), snapshot(resumed))
    names = {"chain": chain, "from_torch": from_torch, "torch": torch, "SpeedLimit": t.SpeedLimit}
    assert eval(repr(recipe), names) == recipe and pickle.loads(pickle.dumps(recipe)) == recipe
    assert "lbfgs" in recipe.describe()


def test_gradients_and_parameters_come_back_and_a_failure_leaves_no_trace():
    model = net()
    optimizer = chain(t.L2(weight_decay=0.1), from_torch(optim.LBFGS)).optimizer(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    good, count = closure_of(model, optimizer), []

    def failing():
        count.append(1)
        if len(count) == 3:
            raise KeyError("no data")
        return good()

    with pytest.raises(KeyError):
        optimizer.step(failing)
    assert all(map(torch.equal, model.parameters(), before))
    start = [p.grad.clone() for p in model.parameters()]
    good()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), start, strict=True))


def test_a_rate_of_zero_and_a_gradient_that_is_not_finite_change_nothing():
    for options in ({"lr": 0.0}, {"finite_gate": True}):
        model = net()
        optimizer = chain(from_torch(optim.LBFGS)).optimizer(model.parameters(), **options)
        before, good = [p.detach().clone() for p in model.parameters()], closure_of(model, optimizer)

        def closure(good=good, model=model, gate="finite_gate" in options):
            loss = good()
            if gate:
                model[0].weight.grad[0, 0] = torch.nan
            return loss

        optimizer.step(closure)
        assert all(map(torch.equal, model.parameters(), before))
        assert all(x.isfinite().all() for state in optimizer.state.values() for x in state.values())


def test_under_a_mask_or_a_label_it_solves_for_its_parameters_while_others_wait():
    base, part = from_torch(optim.LBFGS, **FORMS["plain"]), {"b": presets.adamw()}
    for recipe in (partition({"a": base, **part}, by={"a": matrices}), chain(masked(base, by=matrices))):
        ours, theirs = net(), net()
        optimizer = recipe.optimizer(ours.named_parameters())
        real = optim.LBFGS([p for p in theirs.parameters() if p.dim() == 2], **FORMS["plain"])
        run(ours, optimizer, 1)
        theirs_closure = closure_of(theirs, real)
        real.step(theirs_closure)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            if p.dim() == 2:
                torch.testing.assert_close(p, q)
            else:
                assert not torch.equal(p, q)


LINK = from_torch(optim.LBFGS)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda: chain(LINK).optimizer([param(2)]).step(),
            "'lbfgs' takes the gradients .* found no closure. Call optimizer.step",
        ),
        (lambda: chain(LINK).optimizer([param(2)], accumulate=2), "'lbfgs' needs all gradients of a step in its closure"),
        (lambda: chain(t.SAM(), LINK).optimizer([param(2)]), "'lbfgs' evaluates the loss at its own points, and so does 'sam'"),
        (
            lambda: partition({"a": LINK, "b": chain(LINK)}, by={"a": matrices}).optimizer([param(2)]),
            "both solve in one step.*Keep one",
        ),
        (lambda: chain(t.Phase(LINK, start=3)).optimizer([param(2)]), "solves at every step; found the window"),
        (lambda: step_in_backward(chain(LINK), [param(2)]), "needs the gradients of all parameters"),
        (lambda: chain(LINK).init([param(2)]), "takes the gradients twice"),
        (lambda: parallel({"a": LINK, "b": t.Lion()}), "which belongs behind the merge"),
        (lambda: from_torch(optim.LBFGS, line_search_fn="armijo"), "LBFGS cannot be a link: only 'strong_wolfe'"),
        (lambda: from_torch(optim.LBFGS, lr=-1.0), "LBFGS cannot be a link: Invalid learning rate"),
    ],
)
def test_what_makes_no_sense_is_refused(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()


def test_groups_must_agree():
    model = net()
    optimizer = chain(LINK).optimizer([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.1}])
    with pytest.raises(ChainError, match="solves for all its parameters at once; its values differ by group"):
        run(model, optimizer, 1)


def on_shards():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    p = nn.Parameter(distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,)), [Shard(0)]))
    p.grad = p.detach().clone()
    optimizer = chain(LINK).optimizer([p])
    with pytest.raises(ChainError, match="'lbfgs' knows nothing of sharded parameters"):
        optimizer.step(lambda: 1.0)
    return not optimizer.state and torch.equal(p.to_local(), torch.ones(4))


@pytest.mark.slow
def test_shards_are_refused():
    assert all(on_ranks(1, on_shards))
