"""Steps inside the backward pass give what steps after it give."""

import copy
import weakref

import pytest
import torch
from table import PRESETS
from torch import nn
from torch._dynamo.compiled_autograd import _enable
from torch.optim.lr_scheduler import StepLR

from gradchain import ChainError, SharedTransform, chain, optim_wrapper, partition, presets
from gradchain import transforms as t
from gradchain.optim_wrapper import step_in_backward

ALONE = {
    key: one
    for key, one in PRESETS.items()
    if not any(isinstance(link, SharedTransform) or "perturbs" in link.traits for link in one.links)
}


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def loss(net, i):
    return (net(torch.eye(3) + i) ** 2).sum()


@pytest.mark.parametrize("recipe", ALONE.values(), ids=ALONE)
def test_it_is_a_step_after_the_backward_pass(recipe):
    ours, theirs = model(), model()
    inside, optimizer = step_in_backward(recipe, ours.named_parameters()), recipe.optimizer(theirs.named_parameters())
    schedulers = [StepLR(one, 2, 0.5) for one in (*inside.values(), optimizer)]
    for i in range(5):
        loss(ours, i).backward()
        assert all(p.grad is None for p in ours.parameters())
        optimizer.zero_grad()
        loss(theirs, i).backward()
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert list(inside) == [name for name, _ in ours.named_parameters()]
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_one_gradient_is_held_at_a_time():
    net, held, most = model(), [], []

    def note(param):
        held.append(weakref.ref(param.grad))
        most.append(sum(ref() is not None for ref in held))

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(note)
    step_in_backward(presets.adamw(), net.parameters())
    loss(net, 0).backward()
    assert len(most) == 4 and max(most) <= 2  # of all four; a layer's bias and weight may arrive together


@pytest.mark.filterwarnings("ignore:.torch.jit")  # torch's own, as it is imported
@pytest.mark.parametrize("cls", [optim_wrapper.AdamW, optim_wrapper.LAdam])
def test_torch_s_own_way_of_doing_it_takes_preset_classes(cls):
    from torch.distributed.optim import _apply_optimizer_in_backward

    ours, theirs = model(), model()
    _apply_optimizer_in_backward(cls, ours.parameters(), {"lr": 0.01})
    optimizer = cls(theirs.parameters(), lr=0.01)
    for i in range(3):
        loss(ours, i).backward()
        optimizer.zero_grad()
        loss(theirs, i).backward()
        optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters())) and all(p.grad is None for p in ours.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
def test_a_compiled_backward_pass_steps_too():
    ours, theirs = model(), model()
    inside = step_in_backward(presets.adamw(lr=0.01), ours.named_parameters())
    optimizer = presets.adamw(lr=0.01).optimizer(theirs.named_parameters())
    torch._dynamo.reset()
    for i in range(3):
        with _enable(torch.compile(backend="eager")):
            loss(ours, i).backward()
        optimizer.zero_grad()
        loss(theirs, i).backward()
        optimizer.step()
    torch._dynamo.reset()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-6, atol=1e-7)
    assert all(one.state[one.param_groups[0]["params"][0]]["step"] == 3 for one in inside.values())


def test_groups_partitions_and_schedules_of_the_chain_come_along():
    recipe = partition({"a": presets.sgd(lr=lambda n: 1.0 / n), "b": presets.adam(lr=0.1)}, by={"b": "2.*"})
    ours, theirs = model(), model()
    inside, optimizer = step_in_backward(recipe, ours.named_parameters()), recipe.optimizer(theirs.named_parameters())
    for i in range(3):
        loss(ours, i).backward()
        optimizer.zero_grad()
        loss(theirs, i).backward()
        optimizer.step()
    assert inside["0.weight"].param_groups[0]["lr"] == 1 / 3 and inside["2.bias"].param_groups[0]["label"] == "b"
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_each_saves_and_loads_by_itself_and_shared_weights_are_stepped_once():
    net = model()
    net[0].bias.requires_grad_(False)
    net.append(nn.Linear(2, 4)).append(nn.Tanh()).append(net[2])
    inside = step_in_backward(presets.adam(), net.named_parameters())
    for i in range(2):
        loss(net, i).backward()
    assert "0.bias" not in inside
    assert all(one.state[one.param_groups[0]["params"][0]]["step"] == 2 for one in inside.values())
    saved = copy.deepcopy({name: one.state_dict() for name, one in inside.items()})
    loss(net, 2).backward()
    assert all(one.load_state_dict(saved[name]).clean for name, one in inside.items())
    assert inside["2.weight"].state[net[2].weight]["step"] == 2


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (chain(t.ClipGlobalNorm(max_norm=1.0), t.LearningRate(lr=0.1)), "clip_global_norm"),
        (chain(t.SAM(), t.LearningRate(lr=0.1)), "sam"),
    ],
)
def test_what_needs_all_parameters_is_refused_and_nothing_is_hooked(recipe, name):
    net = model()
    with pytest.raises(ChainError, match=rf"'{name}' needs the gradients of all parameters.*one at a time\. Leave it out"):
        step_in_backward(recipe, net.parameters())
    loss(net, 0).backward()
    assert all(p.grad is not None for p in net.parameters())
