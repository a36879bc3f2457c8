"""Large parameters in tiles: the numbers of the whole, without temporaries as large as the parameter."""

import warnings

import pytest
import torch
from table import PRESETS
from training import param

from benchmarks.contestants import eight_links
from benchmarks.measure import extra
from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs, parts, tiles

SHAPES = [(7, 4), (4, 3, 2), (50,), (2, 30)]  # uneven tiles, more than two dimensions, one, a row a tile

MEETING = ["ladam", "c_adamw", "came", "adafactor", "lamb", "relativistic_adam", "adaptive_hina", "schedule_free_adamw"]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of few elements, whatever the number of questions."""
    monkeypatch.setattr(tiles, "TILE", 8)
    monkeypatch.setattr(tiles, "READS", 99)
    monkeypatch.setattr(parts, "SMALL", 0)


@pytest.fixture
def runs(monkeypatch):
    """The shapes of the tiles that are run, by the number of questions that are answered."""
    seen = {}
    run = tiles.Round.run

    def noted(self, i, known):
        seen.setdefault(len(self.kinds), set()).add(tuple(self.tiles[i][0].shape))
        return run(self, i, known)

    monkeypatch.setattr(tiles.Round, "run", noted)
    return seen


def trained(recipe, driver, count, shapes=SHAPES, dtype=torch.float64):
    params = [param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    optimizer = recipe.optimizer(params, driver=driver)
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random, dtype=dtype)
        optimizer.step()
    return params, [{key: value.clone() for key, value in optimizer.state[p].items()} for p in params]


def equal(ours, theirs, rtol=1e-6, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", PRESETS)
def test_tiles_give_the_reference_s_numbers_for_every_preset(name, small_tiles):
    recipe, uneven = PRESETS[name], list(PRESETS).index(name) % 2  # in turn: a form more is a trace more of each part
    shapes = [(7, 4) if uneven else (6, 4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # nothing is run one by one for want of a trace
        equal(trained(recipe, "eager", 5, shapes), trained(recipe, "reference", 5, shapes))


@pytest.mark.parametrize("name", MEETING)
def test_tiles_of_every_form_give_the_reference_s_numbers(name, small_tiles):
    equal(trained(PRESETS[name], "eager", 5), trained(PRESETS[name], "reference", 5))


@pytest.mark.slow
@pytest.mark.parametrize("name", MEETING)
def test_graphs_of_tiles_for_the_compiler_give_the_reference_s_numbers(name, small_tiles, monkeypatch):
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    equal(trained(PRESETS[name], "compiled", 4, SHAPES[:1]), trained(PRESETS[name], "reference", 4, SHAPES[:1]))


@pytest.mark.slow
def test_compiled_tiles_give_the_reference_s_numbers(monkeypatch, runs):
    monkeypatch.setattr(tiles, "TILE", 1 << 10)
    monkeypatch.setattr(parts, "SMALL", 0)
    ours = trained(eight_links(), "compiled", 4, [(70, 64)], torch.float32)
    equal(ours, trained(eight_links(), "reference", 4, [(70, 64)], torch.float32), rtol=1e-5, atol=1e-7)
    assert runs == {known: {(16, 64), (6, 64)} for known in range(4)}  # a border, two sums, and the step


def test_the_smaller_tile_of_the_last_rows_has_the_graph_of_the_others(monkeypatch, small_tiles):
    seen = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: seen.append(body) or body.forward)
    monkeypatch.setattr(tiles, "TILE", 64)
    shapes = [(131, 9), (11, 10)]  # tiles of 4 rows, and at the end 3
    equal(trained(presets.ladam(), "compiled", 3, shapes), trained(presets.ladam(), "reference", 3, shapes))
    assert len(seen) == 2  # a border and the step


def test_a_compiled_chain_with_one_sum_is_not_cut(small_tiles, runs):
    equal(trained(presets.c_adamw(), "compiled", 3, [(131, 4)]), trained(presets.c_adamw(), "reference", 3, [(131, 4)]))
    assert not runs


def test_links_before_a_question_run_again_and_tiles_of_the_last_rows_are_smaller(small_tiles, runs):
    trained(presets.c_adamw(), "eager", 1, [(7, 4)])
    assert runs == {0: {(2, 4), (1, 4)}, 1: {(2, 4), (1, 4)}}


def test_borders_are_asked_for_when_they_are_needed(small_tiles, monkeypatch):
    order, run = [], tiles.Round.run
    monkeypatch.setattr(tiles.Round, "run", lambda self, i, known: order.append((len(self.kinds), i)) or run(self, i, known))
    trained(presets.ladam(c2=0.1), "eager", 1, [(10, 4)])
    tell, last = 0, 1
    assert order == [
        *[(tell, 0), (tell, 4), (tell, 1), (last, 0), (tell, 2), (last, 1), (tell, 3), (last, 2), (last, 3), (last, 4)]
    ]


def test_what_concerns_whole_tensors_is_not_cut(small_tiles, runs):
    trained(chain(t.Orthogonalize(), t.LearningRate(lr=0.1)), "eager", 1, [(8, 8)])
    assert not runs


def test_a_global_norm_is_that_of_the_parameters(small_tiles, runs):
    recipe = chain(t.ClipGlobalNorm(max_norm=0.1), t.Moments(), t.Normalize(), t.LearningRate(lr=0.1))
    equal(trained(recipe, "eager", 5), trained(recipe, "reference", 5))
    assert len(runs) == 2


def test_bfloat16_and_other_strides(small_tiles, runs):
    recipe, shapes = presets.ladam(), [(16, 4)]
    equal(trained(recipe, "eager", 3, shapes, torch.bfloat16), trained(recipe, "reference", 3, shapes, torch.bfloat16))
    assert runs
    runs.clear()
    params = [torch.nn.Parameter(param(8, 4, seed=3).detach().t().contiguous().t()) for _ in "12"]
    for p, driver in zip(params, ("eager", "reference"), strict=True):
        optimizer = presets.ladam().optimizer([p], driver=driver)
        p.grad = torch.ones(8, 4).cumsum(0)
        optimizer.step()
    equal(*params)
    assert not runs  # its rows lie apart


@pytest.mark.parametrize("recipe", [presets.adamw(), presets.ladam(), presets.c_adamw()], ids=["adamw", "ladam", "c_adamw"])
def test_no_temporary_is_as_large_as_the_parameter(recipe):
    p = torch.nn.Parameter(torch.randn(4096, 2048))
    p.grad = torch.randn(4096, 2048)
    optimizer = recipe.optimizer([p], driver="eager")
    optimizer.step()
    assert extra(optimizer, "cpu") < 0.3 * 4 * p.numel()


def test_a_compiled_parameter_that_is_one_of_many_is_left_whole(monkeypatch):
    """Its temporaries may take a twentieth of all parameters' memory."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    monkeypatch.setattr(tiles, "TILE", 32)
    monkeypatch.setattr(parts, "SMALL", 0)
    shapes = [(16, 8), *[(64, 2 * i) for i in range(30, 32)]]  # 128 of 7,936 elements

    def kinds(driver):
        params = [param(*shape) for shape in shapes]
        optimizer = presets.ladam().optimizer(params, driver=driver)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return [type(home) is tiles.TiledHome for home in optimizer._drive.plan.homes]

    assert kinds("compiled") == [False, True, True]
    assert kinds("eager") == [True, True, True]
