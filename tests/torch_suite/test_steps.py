"""Steps: what torch's optimizer suite asks of its own optimizers, asked of every preset class with every one of its inputs."""

import copy
import inspect
from dataclasses import replace

import pytest
import torch
from harness import CASES, CLASSES, INFOS, ErrorOptimizerInput, OptimizerErrorEnum, make, over
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from training import identical

from gradchain import Chain, ChainError, SharedTransform
from gradchain.optim_wrapper.drivers.registry import DRIVERS

DECAYS = {"weight_decay", "weight_decay_rate"}


def network(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 1), nn.Sigmoid()).to(dtype)


def batch(dtype=torch.float32):
    return torch.linspace(-1, 1, 12, dtype=dtype).reshape(3, 4)


def backward(model):
    model.zero_grad()
    loss = model(batch(next(model.parameters()).dtype)).sum()
    loss.backward()
    return loss


def trained(entry, case, count, model=None, **more):
    model = network() if model is None else model
    optimizer = make(entry, case, list(model.parameters()), **more)
    for _ in range(count):
        backward(model)
        optimizer.step()
    return model, optimizer


def test_every_class_is_in_the_database():
    assert INFOS.keys() == CLASSES.keys() and len(INFOS) >= 19
    for cls in CLASSES.values():
        names = list(inspect.signature(cls).parameters)
        assert names[:2] == ["params", "lr"] and not {"foreach", "fused", "differentiable", "capturable"} & set(names)


@over()
def test_the_loss_goes_down(entry, case):
    """A regression by one step of the default learning rate, twenty times; torch asks no more."""
    contiguous = scheduled = case.desc != "default"
    random = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(shape, generator=random) for shape in ((10, 5), (10,)))
    if not contiguous:
        weight, bias = torch.stack((weight, weight), -1)[..., 0], torch.stack((bias, bias), -1)[..., 0]
    weight, bias, x = nn.Parameter(weight), nn.Parameter(bias), torch.randn(5, generator=random)
    assert weight.is_contiguous() == contiguous
    signature = inspect.signature(entry.optim_cls).parameters
    smaller = signature["lr"].default == 1.0 and "lr" not in case.kwargs  # 1 overshoots: the curvature here is above 2
    more = ({"lr": 0.01} if smaller else {}) | ({"d0": 1e-2} if "d0" in signature else {})  # 1e-6 of 0.001 is lost in float32
    optimizer = make(entry, case, [weight, bias], **more)
    builds = entry.scheduler_inputs[-1]  # which the inputs take in turn
    scheduler = builds[CASES.index((entry, case)) % len(builds)](optimizer) if scheduled else None
    losses = []
    for _ in range(20):

        def closure():
            optimizer.zero_grad()
            loss = (weight.mv(x) + bias).square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).detach())
        if scheduler:
            scheduler.step(*([losses[-1]] if isinstance(scheduler, ReduceLROnPlateau) else []))
    assert losses[-1] < losses[0]


@over()
def test_every_driver_gives_the_reference_s_numbers(entry, case):
    """With a step at which there are no gradients, and a layer that is frozen for a while, as torch tests foreach."""
    assert DRIVERS.keys() == {"reference", "eager", "compiled", "auto"}  # on a CPU auto is stacked, asked for with the defaults
    results = []
    for name in ("reference", "auto" if case.desc == "default" else "eager"):
        model = network()
        optimizer = make(entry, case, list(model.parameters()), driver=name)
        for i in range(7):
            model[2].requires_grad_(i not in (3, 4))
            model.zero_grad()
            if i != 2:
                backward(model)
            optimizer.step()
        model.requires_grad_()
        results.append((list(model.parameters()), [dict(optimizer.state[p]) for p in model.parameters()]))
    torch.testing.assert_close(*results, rtol=5e-5, atol=1e-5)  # single precision, and gradients follow the parameters
    assert [s.keys() for s in results[0][1]] == [s.keys() for s in results[1][1]]


@over(every_input=False)
@pytest.mark.parametrize("dims", [0, 1, 2])
def test_a_one_element_tensor_is_a_learning_rate(entry, case, dims):
    numbers, _ = trained(entry, case, 5, lr=0.25)
    tensors, optimizer = trained(entry, case, 5, lr=torch.tensor(0.25).reshape([1] * dims))
    assert all(map(torch.equal, numbers.parameters(), tensors.parameters()))
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor) and optimizer.param_groups[0]["lr"].item() == 0.25
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5).reshape([1] * dims)
    backward(tensors)
    optimizer.step()
    assert [p.shape for p in tensors.parameters()] == [p.shape for p in numbers.parameters()]


@over()
def test_complex_parameters_are_pairs_of_real_ones(entry, case):
    random = torch.Generator().manual_seed(0)
    mixed = [
        torch.randn(s, dtype=d, generator=random) for s, d in (((5, 4, 3), torch.complex64), ((2, 3, 2, 2), torch.complex64))
    ]
    mixed = [nn.Parameter(p) for p in (*mixed, torch.randn(10, 5, generator=random))]  # no complex matrices: links may choose
    real = [nn.Parameter(torch.view_as_real(p.detach()).clone() if p.is_complex() else p.detach().clone()) for p in mixed]
    ours, theirs = (make(entry, case, params, driver="reference") for params in (mixed, real))  # fused kernels round otherwise
    for _ in range(3):
        for p, q in zip(mixed, real, strict=True):
            q.grad = torch.randn(q.shape, generator=random)
            p.grad = torch.view_as_complex(q.grad) if p.is_complex() else q.grad.clone()
        ours.step()
        theirs.step()
    assert all(
        torch.equal(torch.view_as_real(p.detach()) if p.is_complex() else p, q) for p, q in zip(mixed, real, strict=True)
    )


def twin_steps(build, shape):
    """A complex parameter, the pair of reals it is, and its halves as two parameters, after the same steps; all as pairs."""
    random = torch.Generator().manual_seed(0)
    pair = torch.randn(*shape, 2, generator=random)
    forms = [torch.view_as_complex(pair)], [pair], pair.unbind(-1)
    params = [[nn.Parameter(value.clone()) for value in values] for values in forms]
    optimizers = [build(ps) for ps in params]
    for _ in range(3):
        grad = torch.randn(pair.shape, generator=random)
        for ps, grads in zip(params, ([torch.view_as_complex(grad)], [grad], grad.unbind(-1)), strict=True):
            for p, value in zip(ps, grads, strict=True):
                p.grad = value.clone()
        for optimizer in optimizers:
            optimizer.step()
    (number,), (reals,), halves = [[p.detach() for p in ps] for ps in params]
    return torch.view_as_real(number), reals, torch.stack(halves, -1)


@over(every_input=False)
def test_a_complex_parameter_is_its_halves_where_a_real_one_may_be_cut_in_two(entry, case):
    """Torch asks that it be a pair of reals, and also its halves: both can be only where cutting a real one changes nothing."""
    for shape in ((6,), (4, 3)):
        number, reals, halves = twin_steps(lambda params: make(entry, case, params, driver="reference"), shape)
        if torch.allclose(reals, halves, rtol=1e-6, atol=1e-7):
            torch.testing.assert_close([number, number], [reals, halves])
        elif not torch.equal(number, reals):  # a rule takes a complex vector for the vector that it is
            for part in make(entry, case, [nn.Parameter(torch.ones(1))]).chain.parts.values():
                everywhere = Chain(tuple(replace(link, only=None) for link in part.links))
                number, reals, _ = twin_steps(lambda ps: everywhere.optimizer(ps, driver="reference"), shape)  # noqa: B023 (called at once)
                assert torch.equal(number, reals)


@over(every_input=False)
def test_a_rate_near_zero_moves_nothing(entry, case):
    """Learning rate masks have rates of their own, so that theirs are put to zero too."""
    optimizer, before = make(entry, case, ps := list(network().parameters()), lr=1e-28), list(network().parameters())
    for group in optimizer.param_groups:
        group.update({key: 0.0 for key in group if key.endswith(("lr_bump", "min_lr"))})
    for i in range(5):
        for p in ps:
            p.grad = torch.cos(p.detach() + i)
        optimizer.step()
    assert all(map(torch.equal, ps, before)) and all(optimizer.state[p]["step"] == 5 for p in ps)


@over(every_input=False)
def test_without_gradients_nothing_happens_and_no_state_appears(entry, case):
    params = [nn.Parameter(torch.randn(2, 3)) for _ in range(2)]
    before = copy.deepcopy(params)
    optimizer = make(entry, case, params)
    assert optimizer.step(lambda: torch.tensor(1.0)) == 1
    assert all(map(torch.equal, params, before)) and not optimizer.state and not optimizer.state_dict()["state"]


PULLS = ("decay", "diffusion", "l2", "penalty", "regularization")  # what these links do needs no gradient


@over()
def test_zero_gradients_move_nothing_but_what_decays(entry, case):
    p = nn.Parameter(torch.randn(5, 1))
    pulls = PULLS if "CameAMP" in entry.name or any(kind in case.desc for kind in ("weight_lap", "penalty")) else ()
    more = {name: 0.0 for name in inspect.signature(entry.optim_cls).parameters if name in DECAYS}
    optimizer, before = make(entry, case, [p], **more), p.detach().clone()
    for _ in range(2):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert p.isfinite().all() and (torch.equal(p, before) or any(pull in "".join(optimizer.chain.names) for pull in pulls))


@over(every_input=False)
def test_empty_parameters_and_groups_are_ordinary(entry, case):
    empty, p = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(3))
    optimizer = make(entry, case, [{"params": [empty, p]}, {"params": []}])
    empty.grad, p.grad = torch.empty(0, 3), torch.ones(3)
    optimizer.step()
    optimizer.step()
    assert p.isfinite().all() and not torch.equal(p, torch.ones(3)) and optimizer.state[empty]["step"] == 2
    again = make(entry, case, [{"params": [empty, p]}, {"params": []}])
    again.load_state_dict(optimizer.state_dict())
    assert identical(again.state_dict(), optimizer.state_dict())


@over(every_input=False)
def test_dtypes_mix(entry, case):
    mixed, alone = [
        [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3).to(d)) for d in (torch.float64, torch.float32, torch.bfloat16)]
        for _ in "ab"
    ]
    together, apart = make(entry, case, mixed), [make(entry, case, [p]) for p in alone]
    shared = any(isinstance(link, SharedTransform) or link.common for link in together.chain.links)
    for i in range(3):
        for p in (*mixed, *alone):
            p.grad = torch.full_like(p, 0.1 * (i + 1)) * p.detach().sign()
        together.step()
        for optimizer in apart:
            optimizer.step()
    for p, q in zip(mixed, alone, strict=True):
        assert p.dtype == q.dtype and (shared or torch.equal(p, q))


@over(every_input=False)
def test_the_default_dtype_and_device_do_not_matter(entry, case):
    plain, _ = trained(entry, case, 3)
    model = network()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            optimizer = make(entry, case, list(model.parameters()))
            for _ in range(3):
                backward_on_cpu(model)
                optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, plain.parameters(), model.parameters()))


@over()
def test_it_is_made_and_steps_on_the_meta_device(entry, case):
    """With every switch thrown: what reads a number on the host raises here."""
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in ((4, 6), (5,), (3, 2, 2, 2), (), (0,))]
    optimizer = make(entry, case, params)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step()
    assert all(value.is_meta for p in params for key, value in optimizer.state[p].items() if key != "step")


def backward_on_cpu(model):
    with torch.device("cpu"):
        model.zero_grad()
        x = torch.linspace(-1, 1, 12, dtype=torch.float32).reshape(3, 4)
        model(x).sum().backward()


@over(every_input=False)
def test_a_closure_is_called_once_and_none_is_fine(entry, case):
    model, optimizer = trained(entry, case, 1)
    calls = []
    assert optimizer.step(closure=lambda: calls.append(1) or backward(model)) is not None and calls == [1]
    assert optimizer.step(None) is None and optimizer.step() is None and optimizer.step(closure=None) is None


@over(every_input=False)
def test_sparse_gradients_are_refused_in_one_sentence(entry, case):
    p = nn.Parameter(torch.ones(2))
    optimizer = make(entry, case, [p])
    p.grad = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (2,), check_invariants=False)
    with pytest.raises(RuntimeError, match="chains work on dense gradients"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2)) and not optimizer.state


def refusals(entry):
    found = []
    for error in entry.optim_error_inputs_func("cpu", torch.float32):
        assert isinstance(error, ErrorOptimizerInput) and error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR
        found.append(error)
    return found


@pytest.mark.parametrize("number", range(6))
@over(every_input=False)
def test_what_torch_refuses_is_refused(entry, case, number):
    error = refusals(entry)[number]
    params, kwargs = error.optimizer_error_input.params, error.optimizer_error_input.kwargs
    params = [nn.Parameter(torch.ones(1))] if params is None else params
    if issubclass(error.error_type, Warning):
        with pytest.warns(error.error_type, match=error.error_regex):
            entry.optim_cls(params, **kwargs)
        return
    words = error.error_regex.replace("lr must", "[a-z_]* must")  # some presets hand their lr to links under other names
    with pytest.raises(error.error_type, match=words):
        entry.optim_cls(params, **kwargs)


def test_the_database_has_no_other_refusals():
    assert len(refusals(INFOS["Adam"])) == 6


@pytest.mark.parametrize(
    "wrong",
    [{"lr": -1.0}, {"lr": float("nan")}, {"lr": "fast"}, {"lr": None}, {"betas": (1.0, 0.9)}, {"weight_decay": -1}],
    ids=str,
)
@over(every_input=False)
def test_values_out_of_range_are_refused(entry, case, wrong):
    known = inspect.signature(entry.optim_cls).parameters
    if "betas" in wrong and "betas" in known:
        wrong = {"betas": (1.0, *known["betas"].default[1:])}
    if wrong.keys() <= known.keys():
        with pytest.raises(ChainError, match=r"must be (each )?(a|1-element|one of).*; found .*\. Pass "):
            make(entry, case, [nn.Parameter(torch.ones(1))], **wrong)


@over(every_input=False)
def test_it_prints_its_groups_and_is_an_optimizer(entry, case):
    optimizer = make(entry, case, [nn.Parameter(torch.ones(1))], lr=0.125)
    assert isinstance(optimizer, Optimizer) and type(optimizer) is entry.optim_cls
    assert f"{entry.name} (\nParameter Group 0\n" in repr(optimizer) and "lr: 0.125" in repr(optimizer)
