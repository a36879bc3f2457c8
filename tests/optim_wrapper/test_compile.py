"""The whole step as one graph."""

import copy

import pytest
import torch
from table import PRESETS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import StepLR
from training import param, steps

from gradchain import presets

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def parameters(dtype=torch.float64):
    return [param(4, 6, dtype=dtype), param(5, seed=1, dtype=dtype), param(3, 2, 2, seed=2, dtype=dtype), param(dtype=dtype)]


def pair(recipe, backend):
    """The same optimizer twice, the second with its step compiled, and the counter of graphs."""
    eager, compiled = recipe.optimizer(parameters()), recipe.optimizer(parameters())
    counter = CompileCounterWithBackend(backend)
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend=counter)
    return eager, compiled, counter


def agree(eager, compiled):
    ours, theirs = (o.param_groups[0]["params"] for o in (compiled, eager))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        assert compiled.state[a].keys() == eager.state[b].keys() and compiled.state[a]["step"] == eager.state[b]["step"]


def covering():
    """Presets, few, that have each kind of link of all of them: tracing one takes seconds."""
    kinds = {name: {type(link) for link in recipe.links} for name, recipe in PRESETS.items()}
    chosen, left = ["adamw"], set().union(*kinds.values()) - kinds["adamw"]
    while left:
        chosen.append(max(kinds, key=lambda name: len(kinds[name] & left)))
        left -= kinds[chosen[-1]]
    return chosen


@pytest.mark.parametrize("name", covering())
def test_the_step_of_a_preset_is_one_graph_and_gives_the_eager_numbers(name):
    eager, compiled = (PRESETS[name].optimizer([param(4, 6, dtype=torch.float64)]) for _ in "ab")
    for optimizer in (eager, compiled):
        steps(optimizer)  # makes the state
    counter = CompileCounterWithBackend("eager")
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend=counter)
    for optimizer in (eager, compiled):
        steps(optimizer, 2, start=1)
    agree(eager, compiled)
    assert counter.frame_count == 1 + compiled.counts_total  # a number in the groups is made dynamic when it first changes


def test_it_survives_functionalization():
    eager, compiled, counter = pair(presets.ladam(c2=0.1), "aot_eager")
    for optimizer in (eager, compiled):
        steps(optimizer, 3)
    agree(eager, compiled)
    assert counter.frame_count <= 2  # the first makes the state


@pytest.mark.parametrize(("kind", "more"), [(float, 1), (torch.tensor, 0)], ids=["float", "tensor"])
def test_a_learning_rate_that_changes_every_step_hardly_compiles_again(kind, more):
    eager, compiled, counter = pair(presets.adamw(), "eager")
    for optimizer in (eager, compiled):
        optimizer.param_groups[0]["lr"] = kind(0.1)
        steps(optimizer, 2)
    steady = counter.frame_count
    for i in range(2, 8):
        for optimizer in (eager, compiled):
            group = optimizer.param_groups[0]
            if kind is float:
                group["lr"] = 0.1 / i
            else:
                group["lr"].fill_(0.1 / i)
            steps(optimizer, start=i)
    assert counter.frame_count <= steady + more
    agree(eager, compiled)


def absent(optimizer):
    optimizer.param_groups[0]["params"][0].grad = None


def joined(optimizer):
    late = param(7, dtype=torch.float64)
    late.grad = torch.ones_like(late)
    optimizer.add_param_group({"params": [late]})


def reloaded(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_what_happens_between_steps_costs_few_graphs():
    """Loading costs none; a missing gradient one; a group that joins one that makes its state, and one for the steps behind."""
    _, optimizer, counter = pair(presets.adamw(), "eager")
    steps(optimizer, 3)
    for event, more in ((reloaded, 0), (absent, 1), (joined, 2)):
        steady = counter.frame_count
        for i in range(3):
            for p in parameters_of(optimizer):
                p.grad = torch.sin(p.detach() + i)
            if event is not joined or i == 0:
                event(optimizer)
            optimizer.step()
        assert counter.frame_count == steady + more


def parameters_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def test_a_scheduler_goes_around_before_the_step_is_compiled():
    """The other way round torch's schedulers raise AttributeError, with any optimizer."""
    eager, compiled, rates = presets.adamw().optimizer(parameters()), presets.adamw().optimizer(parameters()), []
    schedulers = [StepLR(optimizer, 1, 0.5) for optimizer in (eager, compiled)]
    compiled.step = torch.compile(compiled.step, backend="eager")
    for i in range(3):
        for optimizer, scheduler in zip((eager, compiled), schedulers, strict=True):
            steps(optimizer, start=i)
            scheduler.step()
        rates.append(compiled.param_groups[0]["lr"])
    assert rates == [0.0005, 0.00025, 0.000125]
    agree(eager, compiled)
    assert not hasattr(compiled, "_init_group")  # a name that dynamo runs by itself


def test_parameters_that_live_in_groups_of_their_own_compile_together():
    eager, compiled = (
        presets.adam().optimizer([{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(parameters())]) for _ in "ab"
    )
    compiled.step = torch.compile(compiled.step, fullgraph=True, backend="eager")
    for optimizer in (eager, compiled):
        steps(optimizer, 3)
    mine, theirs = (nn.ParameterList(g["params"][0] for g in o.param_groups) for o in (compiled, eager))
    torch.testing.assert_close(list(mine), list(theirs), rtol=1e-11, atol=1e-12)
