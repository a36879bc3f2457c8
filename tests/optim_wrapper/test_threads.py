"""Threads, each with a model and an optimizer of its own, come to what one thread alone comes to, bit for bit."""

import copy
import sys
import threading

import pytest
import torch
from training import identical, param

from gradchain import chain, partition, presets
from gradchain import transforms as t
from gradchain.chains import matrices
from gradchain.optim_wrapper.drivers import graphs, parts, tiles

THREADS = 4
SHAPES = [(4, 6), (5,), (4, 6), (40, 30), (), (0, 3)]

RECIPES = {
    "adamw": presets.adamw(lr=0.05),  # a kernel of torch's
    "ladam": presets.ladam(lr=0.05, c2=0.1, min_spatial_size=1),  # tiles ask for borders
    "clip": chain(t.ClipGlobalNorm(max_norm=1.0), presets.c_adamw(lr=0.05)),  # parameters meet
    "adafactor": presets.adafactor(lr=0.05),  # work on whole tensors, traced beforehand
    "lookahead": chain(presets.adam(lr=0.05), t.Lookahead(la_steps=2)),
    "partition": partition({"muon": presets.muon(lr=0.05), "adam": presets.adam(lr=0.05)}, by={"muon": matrices}),
}


@pytest.fixture(autouse=True)
def eager_switching():
    """Threads take turns as often as they can, and tiles are of few elements."""
    interval, own = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-4)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(interval)
    torch.set_num_threads(own)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 300)
    monkeypatch.setattr(parts, "SMALL", 100)


def together(works):
    """Run every work in a thread of its own, started at once; what they give, in order."""
    given, raised, barrier = [None] * len(works), [], threading.Barrier(len(works))

    def run(i, work):
        try:
            barrier.wait()
            given[i] = work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return given


def trained(recipe, driver, steps=4, shapes=SHAPES, **options):
    """What parameters and state come to."""
    params = [param(*shape, seed=i) for i, shape in enumerate(shapes)]
    optimizer = recipe.optimizer([(f"{i}.weight", p) for i, p in enumerate(params)], driver=driver, **options)
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float32) * 1.7 + step + i).reshape(p.shape)
        optimizer.step()
    return [p.detach().clone() for p in params], [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params]


def equal_to_one_alone(work, rounds=1):
    alone = work()
    for _ in range(rounds):
        for given in together([work] * THREADS):
            assert identical(given, alone)


PAIRS = [  # every chain stacked; of the others enough to take each of their ways
    *((name, "eager") for name in RECIPES),
    *((name, "compiled") for name in ("ladam", "clip", "adafactor")),
    *((name, "flat") for name in ("adamw", "clip")),
    ("clip", "auto"),
    ("partition", "reference"),
]


@pytest.mark.parametrize(("name", "driver"), PAIRS)
def test_threads_train_as_one_alone(name, driver, small_tiles, monkeypatch):
    """Of the compiled driver, all but the compiler."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    options = {"flatten": True} if driver == "flat" else {}
    driver = "eager" if driver == "flat" else driver
    equal_to_one_alone(lambda: trained(RECIPES[name], driver, **options))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inductor's own, when it is loaded
@pytest.mark.parametrize("name", ["ladam", "clip"])
def test_threads_compile_as_one_alone(name):
    equal_to_one_alone(lambda: trained(RECIPES[name], "compiled", 2, [(4, 6), (4, 6), (5,)]))


def test_large_parameters_in_tiles_train_as_in_one_thread():
    """With no limit lowered: several tiles that ask each other."""
    equal_to_one_alone(lambda: trained(presets.ladam(lr=0.1, c2=0.01), "auto", 2, [(700, 500)]), rounds=3)


def test_parameters_in_inference_mode_of_another_thread_are_no_concern_of_this():
    def plain():
        return trained(RECIPES["lookahead"], "eager", 6)

    def inferring():
        with torch.inference_mode():
            return [torch.ones(3) + i for i in range(200)] and None

    alone = plain()
    for given in together([plain, inferring, plain, inferring])[::2]:
        assert identical(given, alone)


def test_chains_and_optimizers_are_made_copied_saved_and_loaded_side_by_side(small_tiles):
    def lived(driver):
        recipe = chain(t.ClipGlobalNorm(max_norm=1.0), t.Moments(), t.Normalize(), t.LearningRate(lr=0.05))
        recipe = recipe.override({"lr": 0.1})
        params = [param(*shape, seed=i) for i, shape in enumerate(SHAPES[:4])]
        optimizer = recipe.optimizer(params, driver=driver)
        for step in range(6):
            for i, p in enumerate(params):
                p.grad = torch.cos(torch.arange(p.numel(), dtype=torch.float32) + step + i).reshape(p.shape)
            optimizer.step()
            if step == 1:
                params, optimizer = copy.deepcopy((params, optimizer))
            if step == 3:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = recipe.optimizer(params, driver=driver)
                assert optimizer.load_state_dict(saved).clean
        return [p.detach() for p in params], [dict(optimizer.state[p]) for p in params]

    alone = {driver: lived(driver) for driver in ("reference", "eager")}
    works = [(driver, lambda driver=driver: lived(driver)) for driver in ("reference", "eager") for _ in range(THREADS // 2)]
    for (driver, _), given in zip(works, together([work for _, work in works]), strict=True):
        assert identical(given, alone[driver])


def test_one_optimizer_made_in_one_thread_is_stepped_in_others():
    def train(step):
        params = [param(*shape, seed=i) for i, shape in enumerate(SHAPES)]
        optimizer = RECIPES["clip"].optimizer(params, driver="eager")
        for k in range(6):
            for i, p in enumerate(params):
                p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float32) + k + i).reshape(p.shape)
            step(optimizer)
        return [p.detach() for p in params]

    def elsewhere(optimizer):
        together([optimizer.step])

    assert identical(train(lambda optimizer: optimizer.step()), train(elsewhere))
