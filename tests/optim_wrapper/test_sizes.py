"""A graph that was traced with symbols for sizes is used for the sizes that it is right for, and for no others."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from training import param

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs
from gradchain.optim_wrapper.drivers.sizes import holds, likeness, stand_in, stand_in_shapes

RECIPES = {
    "ladam": presets.ladam,
    "came": presets.came,
    "lamb": presets.lamb,
    "muon": presets.muon,
    "adafactor": presets.adafactor,
    "c_adamw": presets.c_adamw,
    "relativistic_adam": presets.relativistic_adam,
    "relational_gradient": presets.relational_gradient,
    "adaptive_hina": presets.adaptive_hina,
    "cameamp": presets.cameamp,
    "floors": lambda: chain(t.Moments(), t.Laplacian(c2=1e-2), t.VarianceFloor(), t.Normalize(), t.LearningRate(lr=0.1)),
}
SHAPES = [
    *[(1, 1), (1, 7), (7, 1), (2, 3), (3, 2), (5, 5), (6, 6), (4, 12), (12, 4), (20, 3)],
    *[(2, 3, 4), (3, 3, 3), (4, 1, 1), (1, 3, 1), (4, 4, 3, 3), (5, 4, 3, 3), (5, 4, 2, 2), (), (1,), (2,), (3,), (17,)],
]


@pytest.fixture
def compiled(monkeypatch):
    """The graphs that the compiler would be given; they run as they are."""
    seen = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: seen.append(body) or body.forward)
    return seen


def stepped(recipe, driver, shapes, count=3):
    params = [param(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate(shapes)]
    optimizer = recipe.optimizer(params, driver=driver)
    random = torch.Generator().manual_seed(2)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=random, dtype=p.dtype)
        optimizer.step()
    return params, [optimizer.state[p] for p in params]


@pytest.mark.parametrize("name", RECIPES)
def test_every_shape_gets_the_numbers_of_the_reference(name, compiled):
    many = name in ("relational_gradient", "adaptive_hina", "cameamp")  # operations to trace
    for shapes in (SHAPES[1::3],) if many else (SHAPES, SHAPES[::-1]):  # AGR leaves rounding alone of a single element
        ours, theirs = (stepped(RECIPES[name](), driver, shapes) for driver in ("compiled", "reference"))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-5)


def test_matrices_of_one_chain_share_a_graph(compiled):
    stepped(presets.cameamp(), "compiled", [(40, 30), (30, 40), (25, 25), (64, 64), (32, 90)])
    assert len({id(body) for body in compiled}) == len(compiled) <= 3  # one for each of the steps, which differ


def traced(f, *tensors):
    return make_fx(f, tracing_mode="symbolic")(*tensors).graph


def test_a_graph_holds_where_its_sizes_and_conditions_do():
    graph = traced(lambda x, y: x @ y if x.shape[0] >= 4 else x, torch.ones(5, 3), torch.ones(3, 7))
    x = torch.ones
    assert holds(graph, [x(5, 3), x(3, 7)]) and holds(graph, [x(8, 2), x(2, 9)])
    assert not holds(graph, [x(3, 2), x(2, 9)])  # the condition on the rows
    assert not holds(graph, [x(8, 2), x(3, 9)])  # one symbol, two sizes


def test_a_graph_for_sizes_that_are_products_of_others_holds_where_they_are():
    graph = traced(lambda x, y: x.flatten() + y, torch.ones(5, 3), torch.ones(15))
    assert holds(graph, [torch.ones(4, 7), torch.ones(28)])
    assert not holds(graph, [torch.ones(4, 7), torch.ones(29)])


def test_no_two_dimensions_of_a_stand_in_are_equal():
    x = torch.ones(4, 4, 3, 3)
    shapes = stand_in_shapes([x, x, torch.ones(4, 1, 1, 1), torch.ones(36), torch.ones(9)], lambda shape: [])
    assert shapes == [[4, 5, 3, 6], [4, 5, 3, 6], [4, 1, 1, 1], [90], [9]]


def test_a_state_has_the_shape_that_its_link_makes_for_the_stand_in():
    x = torch.ones(4, 4)
    states = [x, x, torch.ones(4), torch.ones(4, 2)]
    shapes = stand_in_shapes(states, lambda shape: [(shape[1],), (shape[1], 2)])
    assert shapes == [[4, 5], [4, 5], (5,), (5, 2)]
    unlike = stand_in_shapes([x, x, torch.ones(4)], lambda shape: [(9,)])  # a loaded state, say
    assert unlike == [[4, 5], [4, 5], [4]]


def test_the_rows_of_the_whole_are_not_those_of_a_tile():
    tile, whole = torch.ones(4, 8), torch.ones(8, 8)
    assert stand_in_shapes([tile, tile, whole], lambda shape: [], own=(-1,)) == [[4, 8], [4, 8], [9, 8]]


def test_tensors_are_alike_in_what_is_no_size():
    x = torch.ones(3, 4)
    assert likeness([x]) == likeness([torch.ones(5, 6)]) is not None
    others = [x.double(), x.t(), torch.ones(3, 1), torch.ones(3), torch.ones(3, 4, 1)]
    assert all(likeness([other]) != likeness([x]) for other in others)
    assert likeness([torch.ones(3, 8)[:, ::2]]) is None  # with gaps
    assert stand_in(x.t(), (7, 5)).stride() == (1, 7)
