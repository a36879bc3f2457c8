"""A second closure, several calls a step, steps that are not taken."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, ChainWarning, chain, masked, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices

BASE = chain(t.Momentum(momentum=0.9), t.LearningRate(lr=0.1))
NAN = float("nan")


def model(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def closure_of(net, optimizer, calls=None):
    x = torch.linspace(-1, 1, 15).reshape(5, 3).to(net[0].weight.dtype)

    def closure():
        if calls is not None:
            calls.append([p.detach().clone() for p in net.parameters()])
        optimizer.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        return loss

    return closure


def by_hand(net, rho, stretch, small, count=3):
    """The paper's rule around heavy-ball momentum."""
    buffers = [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(count):
        loss = closure_of(net, net)
        loss()
        w = [p.detach().clone() for p in net.parameters()]
        g = [p.grad.clone() for p in net.parameters()]
        scale = [stretch(name, p.detach()) for name, p in net.named_parameters()]
        length = sum(((s * x) ** 2).sum() for s, x in zip(scale, g, strict=True)).sqrt()
        with torch.no_grad():
            for p, s, x in zip(net.parameters(), scale, g, strict=True):
                p += rho * s**2 * x / (length + small)
        loss()
        with torch.no_grad():
            for p, value, m in zip(net.parameters(), w, buffers, strict=True):
                m.mul_(0.9).add_(p.grad)
                p.copy_(value - 0.1 * m)


@pytest.mark.parametrize(
    ("link", "rule"),
    [
        (t.SAM(rho=0.3), (0.3, lambda name, p: torch.ones_like(p), 1e-12)),
        (
            t.ASAM(rho=0.3, asam_eta=0.1),
            (0.3, lambda name, p: p.abs() + 0.1 if "weight" in name else torch.ones_like(p), 1e-16),
        ),
    ],
    ids=["sam", "asam"],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_sharpness_aware_steps_are_those_of_the_paper(link, rule, named):
    ours, theirs = model(), model()
    optimizer = chain(link, BASE).optimizer(ours.named_parameters() if named else ours.parameters())
    for _ in range(3):
        optimizer.step(closure_of(ours, optimizer))
    by_hand(theirs, *rule)
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-12, atol=1e-13)


def test_the_ascent_has_length_rho_and_leaves_every_bit_in_place():
    net, calls = model(torch.float32), []
    optimizer = chain(t.SAM(rho=0.5), presets.sgd(lr=0.0)).optimizer(net.parameters())
    before = [p.detach().clone() for p in net.parameters()]
    loss = optimizer.step(closure_of(net, optimizer, calls))
    assert all(torch.equal(p, value) for p, value in zip(net.parameters(), before, strict=True)) and len(calls) == 2
    moved = torch.cat([(b - a).flatten() for a, b in zip(*calls, strict=True)])
    assert moved.norm() == pytest.approx(0.5, rel=1e-5) and loss == closure_of(net, optimizer)()


def test_a_second_closure_that_fails_leaves_the_parameters_where_they_were():
    net, calls = model(), []
    optimizer = chain(t.SAM(), BASE).optimizer(net.parameters())
    before, first = [p.detach().clone() for p in net.parameters()], closure_of(net, optimizer)

    def closure():
        calls.append(0)
        if len(calls) == 2:
            raise ArithmeticError("stumbled")
        return first()

    with pytest.raises(ArithmeticError):
        optimizer.step(closure)
    assert all(torch.equal(p, value) for p, value in zip(net.parameters(), before, strict=True))


def test_sam_needs_a_closure_and_goes_out_like_any_link():
    recipe = chain(t.SAM(), BASE)
    optimizer = recipe.optimizer([param(3)])
    with pytest.raises(ChainError, match=r"'sam' takes the gradients twice in a step; found no closure. Call optimizer.step\("):
        steps(optimizer)
    assert recipe.without("sam") == BASE
    with pytest.raises(ChainError, match="'sam' and 'asam' both send the parameters uphill in one step; one link can"):
        chain(t.SAM(), t.ASAM(name="asam"), BASE)
    zeros = chain(t.ASAM(), BASE).optimizer([p := param(3)])
    zeros.step(lambda: setattr(p, "grad", torch.zeros(3)))
    assert torch.equal(p, param(3))


def test_a_climb_that_adapts_does_not_know_the_unit_of_the_weights():
    def climb(unit):
        p, calls = nn.Parameter(unit * param(4, 3, dtype=torch.float64).detach()), []
        optimizer = chain(t.ASAM(rho=0.3, asam_eta=0.0), BASE).optimizer([p])

        def closure():
            calls.append(p.detach().clone())
            optimizer.zero_grad()
            (p / unit).sin().sum().backward()

        optimizer.step(closure)
        return (calls[1] - calls[0]) / unit

    assert climb(1.0).norm() > 0.1
    torch.testing.assert_close(climb(100.0), climb(1.0), rtol=1e-12, atol=1e-13)


def test_groups_have_their_own_rho_and_masked_parameters_do_not_climb():
    net, calls = model(), []
    recipe = chain(masked(t.SAM(rho=0.5), by=matrices), BASE)
    groups = [{"params": list(net[0].parameters())}, {"params": list(net[2].parameters()), "rho": 0.0}]
    optimizer = recipe.optimizer(groups)
    optimizer.step(closure_of(net, optimizer, calls))
    moved = [not torch.equal(a, b) for a, b in zip(*calls, strict=True)]
    assert moved == [True, False, False, False]


def test_several_calls_make_one_step_with_the_mean_gradient():
    ours, theirs = [param(4, 3), param(2)], [param(4, 3), param(2)]
    recipe = presets.adamw(lr=0.1)
    optimizer, plain = recipe.optimizer(ours, accumulate=3), recipe.optimizer(theirs)
    for step in range(4):
        parts = [[torch.randn_like(p) for p in ours] for _ in range(3)]
        for grads in parts:
            before = [p.detach().clone() for p in ours]
            for p, grad in zip(ours, grads, strict=True):
                p.grad = grad
            delivered = [p.grad for p in ours]
            optimizer.step()
            assert all(p.grad is grad for p, grad in zip(ours, delivered, strict=True))
            assert all(map(torch.equal, ours, before)) is (grads is not parts[-1])
        for i, p in enumerate(theirs):
            p.grad = (parts[0][i] + parts[1][i] + parts[2][i]) / 3
        plain.step()
        assert optimizer.state[ours[0]]["step"] == step + 1
    assert all(map(torch.equal, ours, theirs))


def test_micro_batches_are_the_large_batch_to_rounding():
    x = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(24, 3)
    ours, theirs = model(), model()
    optimizer, plain = (
        presets.adam(lr=0.1).optimizer(ours.parameters(), accumulate=4),
        presets.adam(lr=0.1).optimizer(theirs.parameters()),
    )
    for _ in range(5):
        for part in x.chunk(4):
            optimizer.zero_grad()
            ours(part).square().mean().backward()
            optimizer.step()
        plain.zero_grad()
        theirs(x).square().mean().backward()
        plain.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-12, atol=1e-13)


def test_schedules_of_the_chain_count_steps_not_calls_and_not_skipped_steps():
    p = param(3)
    optimizer = presets.sgd(lr=lambda n: float(n)).optimizer([p], accumulate=2, finite_gate=True)
    rates = []
    for value in (1.0, 1.0, NAN, 1.0, 1.0, 1.0, 1.0):
        p.grad = torch.full((3,), value)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1, 1, 1, 1, 1, 2, 2] and optimizer.param_groups[0]["scheduled_step"] == 2
    torch.testing.assert_close(p.detach(), param(3).detach() - 3)


def test_a_group_that_joins_between_calls_is_in_the_next_step():
    p, q = param(3), param(2)
    optimizer = presets.sgd(lr=1.0).optimizer([p], accumulate=2)
    steps(optimizer)
    optimizer.add_param_group({"params": [q]})
    for x in (p, q):
        x.grad = torch.ones_like(x)
    optimizer.step()
    torch.testing.assert_close(q.detach(), param(2).detach() - 0.5)
    assert not torch.equal(p, param(3)) and [group["accumulated_calls"] for group in optimizer.param_groups] == [0, 0]


@pytest.mark.parametrize(("k", "calls_to_go"), [(5, 3), (3, 1), (2, 1), (1, 1)])
def test_a_checkpoint_between_calls_goes_on_with_another_number_of_calls(k, calls_to_go):
    p = param(3)
    optimizer = presets.sgd(lr=1.0).optimizer([p], accumulate=3)
    for _ in range(2):
        p.grad = torch.full((3,), 2.0)
        optimizer.step()
    resumed = presets.sgd(lr=1.0).optimizer([q := param(3)], accumulate=k)
    if k == 1:
        with pytest.warns(ChainWarning, match="dropped: accumulate"):
            resumed.load_state_dict(optimizer.state_dict())
    else:
        resumed.load_state_dict(optimizer.state_dict(), strict=True)
    for _ in range(calls_to_go):
        assert torch.equal(q, param(3))
        q.grad = torch.full((3,), 2.0)
        resumed.step()
    torch.testing.assert_close(q.detach(), param(3).detach() - 2.0)
    assert resumed.param_groups[0]["accumulated_calls"] == 0 and set(resumed.state[q]) == {"step"}


def test_a_parameter_without_gradient_in_some_calls_counts_zero_there():
    p, q, alone = param(3), param(2), param(2)
    optimizer = presets.sgd(lr=1.0).optimizer([p, q], accumulate=2)
    p.grad, q.grad = torch.ones(3), torch.ones(2)
    optimizer.step()
    p.grad, q.grad = torch.ones(3), None
    optimizer.step()
    assert torch.equal(q, alone - 0.5) and q.grad is None


@pytest.mark.parametrize("done", [1, 3, 4], ids=["before the first step", "at a step", "after it"])
def test_a_checkpoint_between_calls_goes_on(done):
    recipe, file = presets.adam(lr=0.1), io.BytesIO()
    p = param(4, 3)
    optimizer = recipe.optimizer([p], accumulate=3)
    steps(optimizer, done)
    torch.save((optimizer.state_dict(), p.detach()), file)
    file.seek(0)
    saved, value = torch.load(file, weights_only=True)
    q = nn.Parameter(value)
    resumed = recipe.optimizer([q], accumulate=3)
    resumed.load_state_dict(saved, strict=True)
    twin, r = pickle.loads(pickle.dumps((optimizer, p)))
    for one in (optimizer, resumed, twin):
        steps(one, 7, start=done)
    assert torch.equal(p, q) and torch.equal(p, r) and identical(snapshot(optimizer), snapshot(resumed))


@pytest.mark.parametrize("driver", ["reference", "eager"])
@pytest.mark.parametrize("bad", [NAN, float("inf")], ids=["nan", "inf"])
def test_a_step_with_a_gradient_that_is_not_finite_never_happened(bad, driver):
    recipe = presets.nadam(lr=0.1)
    ours, theirs = ([param(4, 3), param(5), param(dtype=torch.complex64), param(0)] for _ in "ab")
    gated, plain = recipe.optimizer(ours, driver=driver, finite_gate=True), recipe.optimizer(theirs, driver=driver)
    for i in range(6):
        if i in (0, 3):
            before = snapshot(gated)
            for p in ours:
                p.grad = torch.ones_like(p)
            ours[1].grad[2] = bad
            gated.step()
            assert all(map(torch.equal, [p.detach() for p in ours], before[1]))
        steps(gated, start=i)
        steps(plain, start=i)
    assert all(map(torch.equal, ours, theirs)) and identical(snapshot(gated), snapshot(plain))


@pytest.mark.parametrize("options", [{"finite_gate": True}, {"accumulate": 2}, {"accumulate": 2, "finite_gate": True}], ids=str)
def test_a_driver_keeps_its_plan(options):
    optimizer = presets.adam(lr=0.1).optimizer([param(3), param(3)], driver="eager", **options)
    plans = []
    for i in range(6):
        steps(optimizer, start=i)
        plans.append(optimizer._drive.plan)
    assert len(set(plans[2:])) == 1


def test_the_gate_and_several_calls_and_sam_go_together_where_it_makes_sense():
    p = param(3)
    optimizer = presets.adam(lr=0.1).optimizer([p], accumulate=2, finite_gate=True)
    for value in (NAN, 1.0, 1.0, 1.0):
        p.grad = torch.full((3,), value)
        optimizer.step()
    assert optimizer.state[p]["step"] == 1 and p.isfinite().all()
    net = model()
    optimizer = chain(t.SAM(), BASE).optimizer(net.parameters(), finite_gate=True)
    optimizer.step(closure_of(net, optimizer))


def test_options_hold_for_partitions_and_in_copies():
    recipe = partition({"a": presets.sgd(lr=0.1), "b": presets.adam()}, by={"a": matrices})
    optimizer = recipe.optimizer([param(2, 2), param(3)], accumulate=2, finite_gate=True)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.accumulate == 2 and twin.finite_gate
    steps(optimizer, 2)
    assert [group["accumulated_calls"] for group in optimizer.param_groups] == [0, 0]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: BASE.optimizer([param(1)], accumulate=0), r"accumulate must be a whole number in \[1, inf\); found 0"),
        (lambda: BASE.optimizer([param(1)], accumulate=1.5), "accumulate must be a whole number"),
        (lambda: BASE.optimizer([param(1)], finite_gate=1), "finite_gate must be a bool; found 1"),
        (
            lambda: chain(t.SAM(), BASE).optimizer([param(1)], accumulate=2),
            "'sam' needs all gradients of a step in its closure; found accumulate=2. Run the micro-batches inside",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(make, complaint):
    with pytest.raises(ChainError, match=complaint):
        make()
