"""Optimizers in several processes: sent to one, and stepped by two over shared memory (Hogwild)."""

import copy

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from gradchain import chain, presets
from gradchain import transforms as t

pytestmark = pytest.mark.slow

RECIPES = {
    "adamw": presets.adamw(lr=0.05),
    "clip": chain(t.ClipGlobalNorm(max_norm=1.0), t.Moments(), t.Normalize(), t.LearningRate(lr=0.05)),
}
ALL = pytest.mark.parametrize(
    ("name", "driver"),
    [*((name, driver) for name in RECIPES for driver in ("reference", "eager")), ("adamw", "auto"), ("clip", "auto")],
)
SHAPES = [(3, 4), (3, 4), (3, 4), (5,), ()]


def made(name, driver):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    return params, RECIPES[name].optimizer(params, driver=driver)


def step(params, optimizer, n):
    for i, p in enumerate(params):
        p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float32) + n + i).reshape(p.shape)
    optimizer.step()


def stepped(params, optimizer, first, count, answer=None):
    """Some steps, in whatever process this is; what they come to goes back as plain numbers."""
    torch.set_num_threads(1)
    for n in range(first, first + count):
        step(params, optimizer, n)
    if answer is not None:
        states = [{key: value.tolist() for key, value in optimizer.state[p].items()} for p in params]
        answer.put(([p.detach().tolist() for p in params], states))


def in_process(*args):
    """Run ``stepped`` in another process; what it has come to there."""
    context = mp.get_context("spawn")
    answer = context.SimpleQueue()
    process = context.Process(target=stepped, args=(*args, answer))
    process.start()
    process.join(120)
    assert process.exitcode == 0, f"the process ended with {process.exitcode}"
    return answer.get()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def share(params, optimizer):
    """Put parameters and state into shared memory, as Hogwild does."""
    for p in params:
        p.share_memory_()
        for value in optimizer.state.get(p, {}).values():
            value.share_memory_()


def begun(params, optimizer, when):
    """Bring an optimizer to where its state is to be shared; the number of steps that takes.

    Before the first step there is state where a step at a learning rate of 0 on gradients of 0 has made it.
    """
    if when == "before the first step":
        rates = [group["lr"] for group in optimizer.param_groups]
        for p in params:
            p.grad = torch.zeros_like(p)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return 0
    if when == "before all":
        return 0
    stepped(params, optimizer, 0, 2)
    if when == "after loading":
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.state.clear()
        optimizer.load_state_dict(saved)
    return 2


@ALL
def test_an_optimizer_is_sent_to_a_process_after_steps(name, driver):
    params, optimizer = made(name, driver)
    stepped(params, optimizer, 0, 2)
    there = in_process(params, optimizer, 2, 2)
    others, other = made(name, driver)
    stepped(others, other, 0, 4)
    states = [{key: value.tolist() for key, value in other.state[p].items()} for p in others]
    close(there, ([p.detach().tolist() for p in others], states))


@ALL
@pytest.mark.parametrize("when", ["before all", "before the first step", "after some steps", "after loading"])
def test_what_is_shared_stays_where_it_is(name, driver, when):
    params, optimizer = made(name, driver)
    before = begun(params, optimizer, when)
    share(params, optimizer)
    places = [p.data_ptr() for p in params]
    states = {(i, k): v.data_ptr() for i, p in enumerate(params) for k, v in optimizer.state.get(p, {}).items()}
    stepped(params, optimizer, before, 3)
    assert [p.data_ptr() for p in params] == places and all(p.is_shared() for p in params)
    now = {(i, k): v for i, p in enumerate(params) for k, v in optimizer.state[p].items()}
    assert {key: now[key].data_ptr() for key in states} == states
    assert all(now[key].is_shared() for key in states)


@ALL
@pytest.mark.parametrize("when", ["before the first step", "after some steps"])
def test_two_processes_in_turn_do_what_one_does(name, driver, when):
    """Parameters and state are shared; each process makes some steps and ends before the next begins."""
    params, optimizer = made(name, driver)
    before = begun(params, optimizer, when)
    share(params, optimizer)
    in_process(params, optimizer, before, 2)
    in_process(params, optimizer, before + 2, 2)
    stepped(params, optimizer, before + 4, 1)  # and here, where a plan may have been made before
    others, other = made(name, driver)
    stepped(others, other, 0, before + 5)
    for p, q in zip(params, others, strict=True):
        close(p.detach(), q.detach())
        assert optimizer.state[p]["step"] == before + 5
        close(dict(optimizer.state[p]), dict(other.state[q]))


@pytest.mark.parametrize("driver", ["reference", "eager", "auto"])
def test_both_of_two_processes_at_once_move_the_parameters(driver):
    """Hogwild: with a constant gradient and no momentum each update counts, but for those that meet in time."""
    params = [nn.Parameter(torch.zeros(3, 4)) for _ in range(3)]
    optimizer = presets.sgd(lr=1.0, momentum=0.5).optimizer(params, driver=driver)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    share(params, optimizer)
    context = mp.get_context("spawn")
    processes = [context.Process(target=descended, args=(params, optimizer, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    for p in params:
        assert 21 < float(optimizer.state[p]["step"]) <= 41, "only one process has counted"
        assert p.max() < -45, "only one process has moved the parameters, by at most 2 in each of 21 steps"


def descended(params, optimizer, count):
    torch.set_num_threads(1)
    for _ in range(count):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
