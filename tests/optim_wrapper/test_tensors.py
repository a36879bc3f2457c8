"""Parameters and gradients of every kind: absent, repeated, empty, complex, strided, sparse."""

import copy

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from training import identical, param, snapshot, steps

from gradchain import presets


def test_parameters_without_gradient_or_frozen_are_left_alone_and_have_no_state():
    used, unused, frozen = param(3), param(3), param(3).requires_grad_(False)
    optimizer = presets.adamw(weight_decay=0.1).optimizer([used, unused, frozen])
    optimizer.step()
    assert not optimizer.state
    used.grad = torch.ones(3)
    optimizer.step()
    assert list(optimizer.state) == [used]
    assert torch.equal(unused, param(3)) and torch.equal(frozen, param(3))


def test_a_repeated_parameter_is_stepped_once():
    p, alone = param(3), param(3)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = presets.sgd(lr=0.1).optimizer([p, p])
    steps(optimizer)
    steps(presets.sgd(lr=0.1).optimizer([alone]))
    assert torch.equal(p, alone) and len(optimizer.param_groups[0]["params"]) == 1
    with pytest.raises(ValueError, match="more than one parameter group"):
        presets.sgd().optimizer([{"params": [p]}, {"params": [p]}])


def test_tied_weights_of_a_model_are_stepped_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer = presets.adam().optimizer(model.named_parameters())
    steps(optimizer)
    assert len(optimizer.state) == 1 and optimizer.state[model[0].weight]["step"] == 1


def test_scalars_empty_tensors_and_mixed_dtypes_share_an_optimizer():
    shapes = [
        ((), torch.float32),
        ((0,), torch.float32),
        ((4, 5), torch.float64),
        ((3,), torch.bfloat16),
        ((2,), torch.float16),
    ]
    params = [param(*shape, dtype=dtype) for shape, dtype in shapes]
    before = copy.deepcopy(params)
    optimizer = presets.ladam(lr=0.1, c2=0.1).optimizer(params)
    steps(optimizer, 3)
    for p, old in zip(params, before, strict=True):
        assert p.dtype == old.dtype and p.shape == old.shape and p.isfinite().all()
        assert p.numel() == 0 or not torch.equal(p, old)
    assert optimizer.state[params[2]]["moments/first"].dtype == torch.float64
    assert optimizer.state[params[3]]["moments/first"].dtype == torch.float32


@pytest.mark.parametrize(
    "recipe", [presets.adam(lr=0.1), presets.ladam(lr=0.1, c2=0.1, min_spatial_size=1), presets.lion(lr=0.1)]
)
def test_complex_parameters_are_stepped_as_real_pairs(recipe):
    numbers = [param(4, 5, dtype=torch.complex128), param(dtype=torch.complex128)]
    pairs = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in numbers]
    complexes, reals = recipe.optimizer(numbers, driver="reference"), recipe.optimizer(pairs, driver="reference")
    for i in range(5):
        for p, pair in zip(numbers, pairs, strict=True):
            pair.grad = torch.sin(pair.detach() + i)
            p.grad = torch.view_as_complex(pair.grad)
        complexes.step()
        reals.step()
    assert all(torch.equal(torch.view_as_real(p.detach()), pair) for p, pair in zip(numbers, pairs, strict=True))


def test_memory_format_and_identity_of_parameters_are_kept():
    p = nn.Parameter(param(2, 3, 4, 4).detach().to(memory_format=torch.channels_last))
    strides, address = p.stride(), p.data_ptr()
    optimizer = presets.ladam(c2=0.1).optimizer([p])
    steps(optimizer, 2)
    assert p.stride() == strides and p.data_ptr() == address
    assert optimizer.state[p]["moments/first"].stride() == strides


def test_a_sparse_gradient_is_refused_and_everything_stays():
    table, p = nn.Embedding(4, 2, sparse=True), param(3)
    optimizer = presets.adam(lr=lambda step: 0.1 / step).optimizer([("p", p), ("table.weight", table.weight)])
    p.grad = torch.ones(3)
    table(torch.tensor([1])).sum().backward()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"gradient of 'table.weight' is torch.sparse_coo.*Use sparse=False"):
        optimizer.step()
    assert identical(snapshot(optimizer), before)


def test_integers_are_accepted_and_left_alone():
    count, p = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False), param(2)
    optimizer = presets.adamw().optimizer([count, p])
    steps(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(count, torch.ones(2, dtype=torch.int64)) and list(optimizer.state) == [p]


@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_parameters_exchanged_inside_the_groups_are_the_ones_that_are_stepped(driver):
    """As accelerate does when it shards a model whose optimizer is made already; nothing of the old ones is kept in use."""
    old, new, alone = ([param(3, 4, seed=i) for i in range(3)] for _ in "abc")
    optimizer, other = (presets.ladam(c2=0.1, min_spatial_size=1).optimizer(ps, driver=driver) for ps in (old, alone))
    steps(optimizer, 2)
    before = copy.deepcopy(old)
    optimizer.param_groups[0]["params"] = new
    for one in (optimizer, other):
        steps(one, 3)
    assert all(map(torch.equal, old, before)) and all(map(torch.equal, new, alone))
    assert all(optimizer.state[p]["step"] == 3 for p in new)


def test_a_model_may_change_its_dtype_before_the_first_step():
    module = nn.Linear(3, 2)
    optimizer = presets.adam().optimizer(module.parameters())
    module.double()
    steps(optimizer)
    assert optimizer.state[module.weight]["moments/first"].dtype == torch.float64


@pytest.mark.skipif(not hasattr(nn.Parameter, "grad_dtype"), reason="this torch has no gradients of another dtype")
def test_a_gradient_in_full_precision_is_not_rounded_to_the_parameter_s():
    p, grad = param(6, dtype=torch.bfloat16), torch.linspace(0.1, 0.3, 6) * 1.001
    p.grad_dtype = torch.float32
    p.grad = grad
    optimizer = presets.sgd(momentum=0.9).optimizer([p])
    optimizer.step()
    (average,) = (value for key, value in optimizer.state[p].items() if key != "step")
    assert torch.equal(average, grad) and not torch.equal(grad, grad.bfloat16().float())


class Plain(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "wrap", [lambda x: x.as_subclass(Plain), lambda x: TwoTensor(x.clone(), x.clone())], ids=["plain", "two"]
)
def test_subclasses_of_tensors_are_stepped_as_what_they_hold(wrap):
    ours, theirs = nn.Parameter(wrap(param(6).detach())), param(6)
    optimizer, other = (presets.adamw().optimizer([p], driver="reference") for p in (ours, theirs))  # a kernel rounds otherwise
    for i in range(3):
        theirs.grad = torch.sin(theirs.detach() + i)
        ours.grad = wrap(theirs.grad)
        optimizer.step()
        other.step()
    held = [ours.a, ours.b] if isinstance(ours, TwoTensor) else [ours.as_subclass(torch.Tensor)]
    assert all(torch.equal(one, theirs) for one in held)
    again = presets.adamw().optimizer([ours])
    assert again.load_state_dict(optimizer.state_dict()).clean


@pytest.mark.parametrize("view", [lambda x: x[:, ::2], torch.t], ids=["gaps", "transposed"])
def test_views_are_stepped_in_place(view):
    base = param(6, 10).detach()
    p, alone = nn.Parameter(view(base)), nn.Parameter(view(base).clone(memory_format=torch.contiguous_format))
    strides, rest = p.stride(), base.clone()
    for one in (p, alone):
        steps(presets.ladam(c2=0.1, min_spatial_size=1).optimizer([one]), 3)
    assert torch.equal(p, alone) and p.stride() == strides and p.data_ptr() == base.data_ptr()
    view(rest).copy_(alone.detach())
    assert torch.equal(base, rest)  # and what lies between is as it was


def test_gradients_are_never_written():
    p = param(4, 5)
    optimizer = presets.ladam(c2=0.1, weight_decay=0.1, decay="coupled").optimizer([p])
    p.grad = torch.ones(4, 5)
    optimizer.step()
    assert torch.equal(p.grad, torch.ones(4, 5))


def test_parameters_on_different_devices_share_an_optimizer():
    here, there = param(3, 4), nn.Parameter(torch.empty(3, 4, device="meta"))
    alone = nn.Parameter(here.detach().clone())
    for group in ([here, there], [alone]):
        optimizer = presets.ladam(c2=0.1, min_spatial_size=1).optimizer(group)
        for p in group:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert all(optimizer.state[p]["moments/first"].device == p.device for p in group)
    assert torch.equal(here, alone)
