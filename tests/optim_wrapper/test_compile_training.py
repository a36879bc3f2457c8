"""A whole training step, with the optimizer's step in it, through torch.compile; schedules cost no graph.

Dynamo itself breaks the graph at ``zero_grad``, ``backward`` and at the wrapper that a scheduler puts around ``step``, for any
optimizer; the step behind it is one graph.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim.lr_scheduler import OneCycleLR
from training import param

from gradchain import chain, presets
from gradchain import transforms as t

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's, on the loss

CHAINS = {
    "adamw": presets.adamw(lr=1e-2, weight_decay=0.1),
    "ladam": presets.ladam(lr=1e-2, c2=1e-2),
    "lion": presets.lion(lr=1e-3),
    "relativistic_adamw": presets.relativistic_adamw(lr=1e-2),
    "adaptive_hina": presets.adaptive_hina(lr=1e-3),
    "cameamp": presets.cameamp(lr=1e-4),
    "clipped": chain(t.ClipGlobalNorm(max_norm=0.5), t.Moments(), t.Normalize(), t.LearningRate(lr=1e-2)),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2, bias=False)).double()


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def stepping(recipe, backend=None, scheduled=False, tensor=False):
    """The model, one training step, and what goes on between two of them."""
    net = network()
    rate = recipe["learning_rate"].lr
    optimizer = recipe.optimizer(net.named_parameters(), **({"lr": torch.tensor(rate)} if tensor else {}))
    momentum = bool({"betas", "momentum"} & optimizer.defaults.keys())
    scheduler = OneCycleLR(optimizer, rate, total_steps=20, cycle_momentum=momentum) if scheduled else None

    def train(x):
        optimizer.zero_grad()
        loss = (net(x) - x[:, :2]).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return net, (torch.compile(train, backend=backend) if backend else train), scheduler.step if scheduler else (lambda: None)


def compared(recipe, backend, count, **kwargs):
    eager, plain, next_eager = stepping(recipe, **kwargs)
    compiled, fast, next_fast = stepping(recipe, backend, **kwargs)
    graphs = []
    for _ in range(count):
        torch.testing.assert_close(fast(X), plain(X), rtol=1e-9, atol=1e-11)
        next_eager()
        next_fast()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    torch.testing.assert_close(list(compiled.parameters()), list(eager.parameters()), rtol=1e-9, atol=1e-11)
    return graphs


def test_a_step_of_adamw_is_one_graph():
    """Not marked slow: what breaks a trace is to be seen at once."""
    p = param(3)
    optimizer = presets.adamw().optimizer([p])
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        step()
    assert counter.frame_count <= 2 and optimizer.state[p]["step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor"),
    [("adamw", False), *((name, i % 2 == 0) for i, name in enumerate(CHAINS))],  # adamw with both, the others in turn
    ids=lambda value: value if isinstance(value, str) else "tensor lr" if value else "float lr",
)
def test_a_training_step_compiles_and_one_cycle_of_lr_and_betas_adds_no_graph(name, tensor):
    graphs = compared(CHAINS[name], "eager", 9, scheduled=True, tensor=tensor)
    assert graphs[-1] == graphs[3] and graphs[-1] > 0  # the state is made in the first, floats become symbols in the second


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own
def test_it_survives_inductor():
    compared(CHAINS["adamw"], "inductor", 3)
