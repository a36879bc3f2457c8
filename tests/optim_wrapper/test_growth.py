"""Nothing grows with the number of steps, and a dropped optimizer is gone at once."""

import functools
import gc
import sys
import tracemalloc
import warnings
import weakref
from itertools import pairwise

import pytest
import torch
from harness import CLASSES
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from training import param, steps

import gradchain
from gradchain import ChainError, chain, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.optim_wrapper.drivers import graphs, parts, tiles

STEPS, SETTLED = 20_000, 5_000
# Python's memory is compared several times: the first steps that are traced make anew the numbers of a whole schedule,
# which had been there untraced, and a leak adds to every difference.
TRACED = range(SETTLED + 600, SETTLED + 2401, 600)
ADAM = presets.adam(lr=0.01)

LONG = {  # chain, driver, options
    "lion reference": (presets.lion(lr=0.01), "reference", {}),
    "adamw flat": (presets.adamw(lr=0.01), "eager", {"flatten": True}),
    "clip auto": (chain(t.ClipGlobalNorm(max_norm=1.0), t.Momentum(), t.LearningRate(lr=0.01)), "auto", {}),
    "lookahead compiled": (chain(t.Momentum(), t.LearningRate(lr=0.01), t.Lookahead(la_steps=3)), "compiled", {}),
    "partition eager": (
        partition({"ball": chain(t.Momentum(), t.LearningRate(lr=0.01)), "adam": ADAM}, by={"ball": matrices}),
        "eager",
        {},
    ),
    "several calls behind a gate": (
        chain(t.Momentum(), t.LearningRate(lr=lambda step: 0.01 / step)),
        "eager",
        {"accumulate": 2, "finite_gate": True},
    ),
}


@pytest.fixture
def small(monkeypatch):
    """Graphs for the compiler run as they are; all paths with few elements; one thread."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    monkeypatch.setattr(tiles, "TILE", 4)
    monkeypatch.setattr(parts, "SMALL", 4)
    monkeypatch.setattr(parts, "MANY", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def containers(package):
    """The number of entries in every collection that a module or class of the package holds for the whole process."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for key, value in vars(module).items():
                if isinstance(value, dict | list | set) and not key.startswith("__"):
                    found[name, key] = len(value)
                if isinstance(value, functools._lru_cache_wrapper):
                    found[name, key] = value.cache_info().currsize
    return found


def held(root):
    """The number of objects that can be reached from it through the package's own objects and plain collections."""
    seen, open_ = {}, [root]
    while open_:
        one = open_.pop()
        if id(one) in seen or isinstance(one, type(gc) | type):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            continue
        if isinstance(one, dict):
            open_ += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            open_ += one
        elif isinstance(one, functools.partial):
            open_ += [*one.args, *one.keywords.values()]
        elif type(one).__module__.startswith("gradchain"):
            open_ += vars(one).values() if hasattr(one, "__dict__") else []
    return len(seen)


def census(optimizer):
    """All that could grow."""
    gc.collect()
    tensors = sum(issubclass(type(one), Tensor) for one in gc.get_objects())
    return {"tensors": tensors, "held": held(optimizer), **containers("gradchain")}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_twenty_thousand_steps_leave_nothing_behind(name, small):
    recipe, driver, options = LONG[name]
    params = [param(*shape, seed=i) for i, shape in enumerate([(2, 2), (2, 2), (2, 3)][: 3 if driver == "compiled" else 2])]
    groups = [{"params": params[:-1]}, {"params": params[-1:]}]
    optimizer = recipe.optimizer(groups, driver=driver, **options)
    scheduled = "scheduled" in optimizer.param_groups[0]
    if not scheduled:
        optimizer.param_groups[-1]["lr"] = torch.tensor(0.01)
    ways = LambdaLR(optimizer, lambda step: 1.0 / (1 + step % 1000)) if not scheduled else None
    grads = [torch.ones_like(p) for p in params]
    random = torch.Generator().manual_seed(0)
    absent = torch.randint(0, 30, (997,), generator=random).tolist()
    before, memory = {}, []
    for step in range(STEPS):
        gone = absent[step % len(absent)]
        for i, (p, grad) in enumerate(zip(params, grads, strict=True)):
            p.grad = None if i == gone else grad
        optimizer.step()
        if ways is not None:
            ways.step()
        if step + 1 == SETTLED:
            before = census(optimizer)
            tracemalloc.start()  # for some of the steps, as it makes them slow
        if step + 1 in TRACED:
            gc.collect()
            memory.append(tracemalloc.get_traced_memory()[0])
        if step + 1 == TRACED[-1]:
            tracemalloc.stop()
    after = census(optimizer)
    assert {key: (before.get(key), now) for key, now in after.items() if now > before.get(key, 0)} == {}
    grown = [later - earlier for earlier, later in pairwise(memory)]
    assert min(grown) < 10_000, f"{grown} bytes of Python objects more after each {TRACED.step} steps"
    assert all(p.isfinite().all() for p in params)


def test_numbers_in_every_form_leave_nothing_behind(small):
    """A learning rate that is never the same twice, in groups of their own."""
    params = [param(2, 2, seed=i) for i in range(3)]
    optimizer = presets.lion(lr=0.01).optimizer([{"params": [p]} for p in params], driver="eager")
    before = None
    for step in range(3000):
        for i, group in enumerate(optimizer.param_groups):
            rate = 0.01 / (1 + step + i)
            group["lr"] = torch.tensor(rate) if i == 1 else rate
            group["betas"] = (0.9, 0.99 - 1e-6 * step)
        steps(optimizer, 1, step)
        if step == 500:
            before = census(optimizer)
    after = census(optimizer)
    assert {key: (before.get(key), now) for key, now in after.items() if now > before.get(key, 0)} == {}


@pytest.fixture
def uncollected():
    """Nothing is freed by the collector meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def trained(cls):
    params = [param(4, 3, seed=i) for i in range(3)] + [param(5, seed=3)]
    optimizer = cls([(f"{i}.weight", p) for i, p in enumerate(params)])
    take(params, optimizer)
    return params, optimizer


def take(params, optimizer):
    def closure():
        for i, p in enumerate(params):
            p.grad = torch.cos(torch.arange(p.numel(), dtype=torch.float32) + i).reshape(p.shape)
        return 0.0

    closure()
    optimizer.step(closure)


def traces(optimizer):
    """Weak references to the optimizer and to all tensors of its state."""
    tensors = [value for own in optimizer.state.values() for value in own.values()]
    return [weakref.ref(optimizer), *map(weakref.ref, tensors)]


def gone(found):
    return [one() for one in found if one() is not None] == []


@pytest.mark.parametrize("name", CLASSES)
def test_a_dropped_optimizer_is_gone_without_the_collector(name, uncollected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        params, optimizer = trained(CLASSES[name])
    found = traces(optimizer)
    assert len(found) > 1
    del optimizer
    assert gone(found)
    del params


@pytest.mark.parametrize("driver", ["reference", "eager", "compiled"])
def test_a_dropped_optimizer_is_gone_under_every_driver(driver, small, uncollected):
    params = [param(4, 3, seed=i) for i in range(3)] + [param(5, seed=3)]
    optimizer = chain(t.ClipGlobalNorm(max_norm=1.0), presets.lion()).optimizer(params, driver=driver)
    take(params, optimizer)
    found = traces(optimizer)
    del optimizer
    assert gone(found)


@pytest.mark.parametrize("recipe", [presets.schedule_free_adamw(), chain(ADAM, t.WeightEMA())], ids=["schedule_free", "ema"])
def test_an_average_is_gone_after_evaluation(recipe, uncollected):
    params = [param(4, 3, seed=i) for i in range(2)]
    optimizer = recipe.optimizer(params)
    take(params, optimizer)
    optimizer.eval()
    optimizer.train()
    take(params, optimizer)
    optimizer.eval()
    found = traces(optimizer)
    del optimizer
    assert gone(found)


def test_it_is_gone_after_loading(uncollected):
    params, optimizer = trained(CLASSES["AdamW"])
    optimizer.load_state_dict(optimizer.state_dict())
    take(params, optimizer)
    found = traces(optimizer)
    del optimizer
    assert gone(found)


@pytest.mark.parametrize("reached", ["add_param_group", "bind_names", "report"])
def test_it_is_gone_after_what_looks_at_it(reached, uncollected):
    params, optimizer = trained(CLASSES["AdamW"])
    if reached == "add_param_group":
        optimizer.add_param_group({"params": [("late", param(2))]})
    elif reached == "bind_names":
        optimizer.bind_names([(f"new.{i}", p) for i, p in enumerate(params)])
    else:
        str(optimizer.report())
    found = traces(optimizer)
    del optimizer
    assert gone(found)


def test_it_is_gone_with_options_and_schedules(uncollected):
    params = [param(4, 3, seed=i) for i in range(2)]
    recipe = chain(t.Momentum(), t.LearningRate(lr=lambda step: 0.1 / step))
    optimizer = recipe.optimizer(params, accumulate=2, finite_gate=True, flatten=True)
    take(params, optimizer)
    take(params, optimizer)
    found = traces(optimizer)
    del optimizer
    assert gone(found)


@pytest.mark.parametrize(
    "make", [lambda o: CosineAnnealingLR(o, 10), lambda o: OneCycleLR(o, 0.1, 10)], ids=["cosine", "one cycle"]
)
@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "torch's"])
def test_it_is_gone_after_a_scheduler(make, theirs, uncollected):
    """A scheduler holds its optimizer; with both dropped, what torch's own leave is left, and no more."""
    params = [param(4, 3, seed=i) for i in range(2)]
    optimizer = torch.optim.AdamW(params) if theirs else presets.adamw().optimizer(params)
    scheduler = make(optimizer)
    take(params, optimizer)
    scheduler.step()
    found = traces(optimizer)
    del scheduler
    del optimizer
    assert gone(found)


def test_it_is_gone_after_a_step_that_raised(uncollected):
    params, optimizer = trained(CLASSES["ScheduleFreeAdamW"])
    optimizer.eval()
    with pytest.raises(ChainError):
        take(params, optimizer)
    optimizer.train()
    found = traces(optimizer)
    del optimizer
    assert gone(found)


def test_modules_of_the_package_are_looked_at():
    assert len(containers("gradchain")) > 5 and gradchain.__name__ == "gradchain"


def test_the_reach_of_an_optimizer_is_counted():
    """What counts growth sees what stands in an optimizer."""
    optimizer = presets.adamw().optimizer([nn.Parameter(torch.ones(2))])
    before = held(optimizer)
    optimizer.param_groups[0]["more"] = [object() for _ in range(7)]
    assert held(optimizer) >= before + 7
