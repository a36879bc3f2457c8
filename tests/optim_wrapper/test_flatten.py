"""Parameters as views of one buffer: the same numbers, and what else may hold or take their memory."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from training import identical, param, snapshot, steps

from gradchain import ChainError, presets

RECIPES = {"adamw": presets.adamw(lr=0.1), "ladam": presets.ladam(lr=0.1, c2=0.1, weight_decay=0.1)}
SHAPES = [(4, 8), (16,), (4, 8), (300, 200), (), (4, 8), (16,)]
either = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def made(recipe, shapes=SHAPES, dtype=torch.float32, **options):
    return recipe.optimizer([param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)], **options)


def params(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def flat(*tensors):
    """Whether they lie one behind the other in one memory."""
    size = tensors[0].numel() * tensors[0].element_size()
    one = len({x.untyped_storage().data_ptr() for x in tensors}) == 1
    return one and all(x.data_ptr() == tensors[0].data_ptr() + i * size for i, x in enumerate(tensors))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@either
def test_small_parameters_of_a_shape_lie_together_and_take_the_same_steps_to_the_bit(recipe, dtype):
    ours, theirs = (made(recipe, dtype=dtype, flatten=flatten) for flatten in (True, False))
    for optimizer in (ours, theirs):
        steps(optimizer, 5)
    assert identical(snapshot(ours), snapshot(theirs))
    a, b, c, large, scalar, d, e = params(ours)
    assert flat(a, c, d) and flat(b, e)
    fused = recipe is RECIPES["adamw"] and dtype is not torch.bfloat16  # then small parameters of one shape lie together
    assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in (large, *[scalar] * fused))
    assert len({p.untyped_storage().data_ptr() for p in (a, b, scalar)}) == (3 if fused else 1)


def test_a_fused_kernel_that_runs_over_the_buffer_differs_at_the_ends_of_rows_in_the_last_digit():
    ours, theirs = (made(presets.adamw(lr=0.1), [(7,)] * 3, flatten=flatten) for flatten in (True, False))
    for optimizer in (ours, theirs):
        steps(optimizer, 5)
    torch.testing.assert_close(params(ours), params(theirs), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@either
def test_it_compiles(recipe):
    ours, theirs = (made(recipe, driver="compiled", flatten=flatten) for flatten in (True, False))
    for optimizer in (ours, theirs):
        steps(optimizer, 3)
    torch.testing.assert_close(params(ours), params(theirs), rtol=1e-5, atol=1e-6)  # only what is not flat is compiled
    assert flat(*params(ours)[0:6:2][:2])


@either
def test_copies_and_pickles_lie_together_again_and_go_on_to_the_bit(recipe):
    optimizer = made(recipe, flatten=True)
    steps(optimizer, 3)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        before = snapshot(optimizer)
        steps(twin, 2)
        assert identical(snapshot(optimizer), before)  # they have nothing in common
        straight = made(recipe, flatten=True)
        steps(straight, 3)
        steps(straight, 2)
        assert identical(snapshot(twin), snapshot(straight))
        a, _, c, *_ = params(twin)
        assert flat(a, c, params(twin)[5])


def model_of():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))


def train(model, optimizer, count, start=0):
    for i in range(start, start + count):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 8) + 0.1 * i).square().sum().backward()
        optimizer.step()


@either
def test_a_model_is_saved_and_loaded_in_place(recipe):
    model = model_of()
    optimizer = recipe.optimizer(model.named_parameters(), flatten=True)
    train(model, optimizer, 3)
    weights = [layer.weight for layer in model]
    assert flat(*weights)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, 2, 3)
    after = snapshot(optimizer)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert flat(*weights)
    train(model, optimizer, 2, 3)
    assert identical(snapshot(optimizer), after)
    other = model_of()
    other.load_state_dict(saved["model"])
    assert other[0].weight.untyped_storage().nbytes() == 256  # what was loaded is a copy


@either
def test_parameters_whose_memory_the_user_exchanges_lie_together_again(recipe):
    model, plain = model_of(), model_of()
    optimizer, other = (recipe.optimizer(m.named_parameters(), flatten=m is model) for m in (model, plain))
    for m, o in ((model, optimizer), (plain, other)):
        train(m, o, 2)
        m[1].weight.data = m[1].weight.data * 2
        train(m, o, 2, 2)
    assert identical(snapshot(optimizer), snapshot(other))
    assert flat(*[layer.weight for layer in model])
    model.double()
    model.float()
    train(model, optimizer, 1, 4)
    assert flat(*[layer.weight for layer in model])


@either
def test_a_gradient_that_is_absent_for_a_while_changes_nothing_else(recipe):
    ours, theirs = (made(recipe, flatten=flatten) for flatten in (True, False))
    for optimizer in (ours, theirs):
        for missing in (None, 2, None, 0, None):
            for i, p in enumerate(params(optimizer)):
                p.grad = None if i == missing else torch.cos(p.detach())
            optimizer.step()
    assert identical(snapshot(ours), snapshot(theirs))


def test_memory_that_something_else_holds_is_left_where_it_is():
    whole = torch.ones(3, 8)
    views = [nn.Parameter(whole[i]) for i in range(3)]
    held = [param(8, seed=i) for i in range(3)]
    average = [p.detach() for p in held]
    alone = [param(8, seed=9 + i) for i in range(3)]
    for group in (views, held, alone):
        optimizer = RECIPES["ladam"].optimizer(group, flatten=True)
        steps(optimizer, 2)
    assert all(p.data_ptr() == whole[i].data_ptr() for i, p in enumerate(views)) and torch.equal(whole[0], views[0])
    assert all(torch.equal(a, p) for a, p in zip(average, held, strict=True)) and not flat(*held)
    assert flat(*alone)


def test_tied_weights_and_frozen_ones():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    frozen = nn.Parameter(torch.ones(8, 8), requires_grad=False)
    optimizer = presets.adamw().optimizer([*model.parameters(), frozen], flatten=True)
    train(model, optimizer, 2)
    assert flat(model[0].weight, model[1].weight) and model[2].weight is model[0].weight
    assert frozen.untyped_storage().nbytes() == 256


@either
def test_autograd_still_sees_that_a_parameter_was_written(recipe):
    model = model_of()
    optimizer = recipe.optimizer(model.named_parameters(), flatten=True)
    train(model, optimizer, 2)
    loss = model(torch.ones(8)).square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.slow
def test_a_compiled_parameter_that_runs_alone_is_marked_as_written():
    p = param(256, 192)
    optimizer = presets.nadam().optimizer([p], driver="compiled")
    steps(optimizer)
    version = p._version
    steps(optimizer)
    assert p._version > version


def test_a_step_that_is_compiled_as_a_whole_leaves_them_where_they_are():
    optimizer = made(presets.sgd(lr=0.1), [(4, 8)] * 2, flatten=True)
    for p in params(optimizer):
        p.grad = torch.ones_like(p)
    torch.compile(optimizer.step, backend="eager")()
    assert not flat(*params(optimizer))


def test_wrong_use_is_refused():
    with pytest.raises(ChainError, match=r"flatten must be a bool; found 1"):
        made(presets.adamw(), flatten=1)
    with pytest.raises(ChainError, match=r"flatten=True is for drivers that stack; found driver='reference'"):
        made(presets.adamw(), flatten=True, driver="reference")


def test_shards_are_refused_and_the_optimizer_is_as_before():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    optimizer = presets.adamw().optimizer([param(3)], flatten=True)
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        shards = distribute_tensor(torch.ones(4), init_device_mesh("cpu", (2,)), [Replicate()])
        with pytest.raises(ChainError, match=r"found a DTensor of shape \(4,\)"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(shards)]})
    finally:
        torch.distributed.destroy_process_group()
    assert len(optimizer.param_groups) == 1
