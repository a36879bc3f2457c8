"""On a GPU: the loop's numbers from every driver, steps that wait for nothing, and steps captured in a CUDA graph."""

import warnings

import pytest
import torch
from table import PRESETS, WHOLE_CHAINS
from torch import nn
from training import param

from gradchain import ChainError, chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import parts
from gradchain.optim_wrapper.drivers.fused import Fused

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROWS = pytest.mark.parametrize("recipe", list(PRESETS.values()), ids=PRESETS)
SHAPES = [(64, 48), (48,), (64, 48), (64, 48), (48,), ()]
SMALL = 1000  # elements, so that the matrices count as large


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(parts, "SMALL", SMALL)


@pytest.fixture
def waiting_is_an_error():
    def within(act):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        try:
            act()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return within


def parameters(dtype=torch.float64):
    return [nn.Parameter(param(*shape, seed=i, dtype=dtype).detach().cuda()) for i, shape in enumerate(SHAPES)]


def give(params, i):
    """Gradients of the i-th step, written into those of the first."""
    for at, p in enumerate(params):
        grad = torch.sin((i + 2) * p.detach() + at)
        p.grad = grad if p.grad is None else p.grad.copy_(grad)


def trained(recipe, driver, last=lambda step: step(), count=5):
    """Parameters and state after some steps; ``last`` takes the last one."""
    params = parameters()[: -1 if by_chance(recipe) else None]
    optimizer = recipe.optimizer(params, driver=driver)
    for i in range(count):
        give(params, i)
        last(optimizer.step) if i == count - 1 else optimizer.step()
    return params, optimizer


def by_chance(recipe):
    """Whether a step of a single weight is made of rounding: what is orthogonal to it is taken however small it is."""
    return any(getattr(link, "tolerance", None) == 0 for link in recipe.links)


def agree(ours, theirs):
    (params, optimizer), (others, other) = ours, theirs
    torch.testing.assert_close(params, others, rtol=1e-6, atol=1e-9)
    for p, q in zip(params, others, strict=True):
        assert optimizer.state[p].keys() == other.state[q].keys()
        assert optimizer.state[p]["step"] == other.state[q]["step"]


WAITING = [PRESETS["hina_adaptive"]]  # it takes eigenvalues, for which torch itself waits


def last(recipe, waiting_is_an_error):
    """How the last step is taken."""
    return (lambda step: step()) if recipe in WAITING else waiting_is_an_error


@ROWS
def test_eager_gives_the_reference_s_numbers_and_waits_for_nothing(recipe, waiting_is_an_error):
    agree(trained(recipe, "eager", last(recipe, waiting_is_an_error)), trained(recipe, "reference"))


@pytest.mark.slow
@ROWS
def test_compiled_gives_the_reference_s_numbers_and_waits_for_nothing(recipe, waiting_is_an_error):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "a graph did not compile")
        warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")  # of spectra
        agree(trained(recipe, "compiled", last(recipe, waiting_is_an_error)), trained(recipe, "reference"))


@pytest.mark.slow
def test_large_parameters_of_a_shape_run_in_one_call():
    params = parameters()
    optimizer = presets.ladam().optimizer(params, driver="compiled")
    give(params, 0)
    optimizer.step()
    assert sorted(len(home.raw) for home in optimizer._drive.plan.homes) == [1, 2, 3]


def captured(optimizer, params, lr, count):
    """Steps that are taken as they are, then as many replays of one that was captured, at falling rates."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for i in range(count):
            give(params, i)
            lr.mul_(0.9)
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for i in range(count, 2 * count):
        give(params, i)
        lr.mul_(0.9)
        graph.replay()


def plain(optimizer, params, lr, count):
    for i in range(2 * count):
        give(params, i)
        lr.mul_(0.9)
        optimizer.step()


def both_ways(recipe, driver, dtype=torch.float64):
    runs = []
    for run in (captured, plain):
        params = parameters(dtype)
        optimizer = recipe.optimizer(params, driver=driver, lr=torch.tensor(0.01, device="cuda"))
        run(optimizer, params, optimizer.param_groups[0]["lr"], 3)
        runs.append((params, optimizer))
    return runs


def repeats(recipe):
    """Whether every step is the same work on the GPU alone."""
    return recipe not in WAITING and all(link.window == (1, None) and link.refresh_schedule is None for link in recipe.links)


CAPTURED = {name: recipe for name, recipe in PRESETS.items() if repeats(recipe)}


@pytest.mark.parametrize("recipe", list(CAPTURED.values()), ids=CAPTURED)
def test_a_captured_step_goes_on_as_plain_steps_do(recipe):
    agree(*both_ways(recipe, "eager"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "ladam", "c_adamw", "adafactor", "radam"])
def test_a_captured_compiled_step_goes_on_as_plain_steps_do(name):
    agree(*both_ways(PRESETS[name], "compiled"))


def on_gpu(value):
    return torch.tensor(value, device="cuda")


FUSED = pytest.mark.parametrize("recipe", list(WHOLE_CHAINS.values()), ids=WHOLE_CHAINS)


@FUSED
@pytest.mark.parametrize("rate", [float, on_gpu])
def test_whole_chains_go_to_torch_s_kernels(recipe, rate, waiting_is_an_error):
    runs = []
    for driver in ("eager", "reference"):
        params = parameters(torch.float32)
        optimizer = recipe.optimizer(params, driver=driver, lr=rate(0.01))
        for i in range(5):
            give(params, i)
            optimizer.step() if i < 4 else waiting_is_an_error(optimizer.step)
        runs.append(params)
        if driver == "eager":
            assert {type(home) for home in optimizer._drive.plan.homes} == {Fused}
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


@FUSED
def test_a_captured_kernel_goes_on_as_plain_steps_do(recipe):
    ours, theirs = both_ways(recipe, "eager", torch.float32)
    assert {type(home) for home in ours[1]._drive.plan.homes} == {Fused}
    agree(ours, theirs)


def test_a_rate_that_goes_to_the_gpu_takes_the_count_along():
    runs = []
    for driver in ("eager", "reference"):
        params = parameters(torch.float32)
        optimizer = presets.adamw(lr=0.01).optimizer(params, driver=driver)
        for i in range(4):
            if i == 2:
                optimizer.param_groups[0]["lr"] = on_gpu(0.01)
            give(params, i)
            optimizer.step()
        runs.append(params)
        assert all(state["step"].is_cuda for state in optimizer.state.values())
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_what_a_graph_would_freeze_is_refused():
    timed = chain(t.Moments(), t.Normalize(), t.LearningRate(lr=torch.tensor(0.1, device="cuda")), t.Lookahead(la_steps=2))
    for recipe, message in ((presets.adamw(), "learning rate on the host"), (timed, "same in every step")):
        params = parameters()
        optimizer = recipe.optimizer(params)
        give(params, 0)
        optimizer.step()
        torch.cuda.synchronize()
        with pytest.raises(ChainError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()


@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_a_step_with_a_gate_waits_for_nothing(driver, waiting_is_an_error):
    params = parameters()
    optimizer = presets.adamw().optimizer(params, driver=driver, finite_gate=True)
    for i in range(2):
        give(params, i)
        optimizer.step()
    before = [p.detach().clone() for p in params]
    params[0].grad[0, 0] = torch.nan
    waiting_is_an_error(optimizer.step)
    assert all(map(torch.equal, params, before))
    assert {int(state["step"]) for state in optimizer.state_dict()["state"].values()} == {2}
    give(params, 3)
    optimizer.step()
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("driver", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_gradient_scaler_changes_nothing_and_skips_what_overflows(driver):
    runs = []
    for scaled in (True, False):
        params = parameters(torch.float32)
        optimizer = presets.ladam(lr=0.01).optimizer(params, driver=driver)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, enabled=scaled)
        for i in range(5):
            optimizer.zero_grad()
            loss = sum(torch.sin((i + 2) * p).sum() for p in params)
            if scaled and i == 2:
                scaler.scale(loss * torch.inf).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            loss = sum(torch.sin((i + 2) * p).sum() for p in params)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        runs.append(params)
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_without_being_asked_a_chain_is_compiled():
    params = parameters()
    optimizer = presets.ladam().optimizer(params)
    give(params, 0)
    optimizer.step()
    assert optimizer._drive.plan.compile and not optimizer._drive.failures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "ladam", "muon", "c_adamw"])
def test_one_rank_of_nccl_steps_as_no_rank_does(name, tmp_path):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        runs = []
        for sharded in (True, False):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 8)).cuda()
            if sharded:
                fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cuda", (1,)))
            optimizer = PRESETS[name].optimizer(model.named_parameters())
            for i in range(3):
                optimizer.zero_grad()
                model(torch.full((2, 16), float(i), device="cuda")).square().sum().backward()
                optimizer.step()
            runs.append([p.full_tensor() if sharded else p for p in model.parameters()])
        torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-7)
    finally:
        dist.destroy_process_group()
