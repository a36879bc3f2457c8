"""What is compiled: nothing of a number for each element, nothing that nobody asks for, NaN where the loop has it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from training import param

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs, tiles
from gradchain.optim_wrapper.drivers import step as step_module
from gradchain.optim_wrapper.drivers.step import Step
from gradchain.optim_wrapper.drivers.vectorized import decompositions, prepared, store_early

aten = torch.ops.aten
SHAPE = (200, 200)  # alone: more elements than in a stack


def bodies(recipe, monkeypatch, shape=SHAPE):
    """The graphs that the compiler would be given in two steps."""
    seen = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: seen.append(body) or body.forward)
    p = param(*shape)
    optimizer = recipe.optimizer([p], driver="compiled")
    for i in range(2):
        p.grad = torch.sin(p.detach() + i)
        optimizer.step()
    return seen


def number(node):
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 0


@pytest.mark.usefixtures("graphs_only")
def test_numbers_made_of_a_sum_are_stored_before_the_loop_that_uses_them(monkeypatch):
    recipe = chain(t.Cautious(), t.LearningRate(lr=0.1), t.SpeedLimit(speed_limit=10.0))
    (body,) = bodies(recipe, monkeypatch)
    uses = [(node, user) for node in body.graph.nodes if number(node) for user in node.users if user.op != "output"]
    crossing = [
        node for node, user in uses if not number(user) and node.op != "placeholder" and user.target != aten.copy_.default
    ]
    assert crossing and {node.target for node in crossing} == {aten.as_strided.default}


@pytest.mark.usefixtures("graphs_only")
def test_numbers_of_answers_are_not_worked_out_for_each_element(monkeypatch):
    """Of a tile the graph has sums alone, none of which is made where it is answered already."""
    monkeypatch.setattr(tiles, "FEW", 0)
    found = bodies(presets.c_adamw(), monkeypatch, (1024, 1024))
    assert len(found) == 2
    for body in found:
        targets = [node.target for node in body.graph.nodes if "val" in node.meta and not number(node)]
        assert not {aten.clamp_min.Tensor, aten.reciprocal.default, aten.pow.Tensor_Tensor} & set(targets)
    assert [sum(node.target == aten.sum.default for node in body.graph.nodes) for body in found] == [1, 0]


@pytest.mark.usefixtures("graphs_only")
def test_what_is_made_of_hyperparameters_is_made_once_for_all_parameters(monkeypatch):
    """Also where parameters have answers of their own: two graphs of one chain, three parameters."""
    steps = []
    monkeypatch.setattr(tiles, "FEW", 0)
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    monkeypatch.setattr(step_module, "Step", lambda *args, **more: steps.append(Step(*args, **more)) or steps[-1])
    params = [param(1024, 1024, seed=i) for i in range(3)]
    optimizer = presets.c_adamw().optimizer(params, driver="compiled")
    for p in params:
        p.grad = torch.sin(p.detach())
    optimizer.step()
    assert len(steps[0].numbers) == 2


@pytest.mark.parametrize(
    ("shape", "narrow"), [((300, 8), True), ((300, 2, 2), True), ((300, 9), False), ((300, 4, 4), False), ((8,), False)]
)
def test_short_rows_take_narrow_vectors_where_there_are_wider_ones(monkeypatch, shape, narrow):
    def widths(stacked):
        x = torch.ones((5, *shape) if stacked else shape)
        return {form.get("cpp.simdlen") for form in graphs._options(SimpleNamespace(stacked=stacked), x, fx.Graph())}

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert widths(False) == widths(True) == {256 if narrow else None}
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert widths(False) == widths(True) == {None}


def test_what_is_read_in_any_order_is_not_read_again_for_each_use():
    x, places = torch.ones(graphs.SERIAL), torch.arange(graphs.SERIAL).flip(0)
    for f, again in ((lambda x, places: x * 2, True), (lambda x, places: x[places] * 2, False)):
        graph = make_fx(f, tracing_mode="fake")(x, places).graph
        first, _ = graphs._options(SimpleNamespace(stacked=False), x, graph)
        assert (graphs.THRESHOLDS[0] in first) is again


def test_a_number_in_the_dtype_of_its_tensor_is_not_converted():
    traced = make_fx(lambda x, a: (x * a,), tracing_mode="fake")(torch.ones(4), torch.ones(()))
    assert not prepared(traced.graph, {node for node in traced.graph.nodes if node.name.startswith("a")})
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [aten.mul.Tensor]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 2.0])
def test_clamping_from_below_is_another_operation_and_the_same_number(value):
    x = torch.tensor([value, 1.0])

    def clamped(x):
        return x.clamp(min=0), x.clamp(0, 1), x.clamp(min=-1), x.clamp(max=0)

    traced = make_fx(clamped, decomposition_table=decompositions(), tracing_mode="fake")(x)
    assert [node.target for node in traced.graph.nodes].count(aten.relu.default) == 1
    torch.testing.assert_close(traced(x), clamped(x), rtol=0, atol=0, equal_nan=True)
    whole = make_fx(lambda x: (x.clamp(min=0),), decomposition_table=decompositions(), tracing_mode="fake")(torch.ones(3).int())
    assert aten.relu.default not in [node.target for node in whole.graph.nodes]


def early(f, *tensors):
    """The graph of f with its states stored early, and how many nodes come before the copy."""
    traced = make_fx(f, tracing_mode="fake")(*tensors)
    store_early(traced.graph)
    traced.recompile()
    targets = [node.target for node in traced.graph.nodes]
    return traced, targets.index(aten.copy_.default)


def test_a_state_is_written_where_it_is_made_and_read_from_there():
    def f(x, v):
        new = v + x
        made = new.roll(1) - new
        v.copy_(new)
        x.copy_(made)
        return ()

    traced, at = early(f, torch.ones(3), torch.ones(3))
    assert at == 3
    (copy, last) = (node for node in traced.graph.nodes if node.target is aten.copy_.default)
    assert {user.target for user in copy.users} == {aten.roll.default, aten.sub.Tensor}
    x, v = torch.tensor([1.0, 2.0, 4.0]), torch.ones(3)
    traced(x, v)
    assert v.tolist() == [2.0, 3.0, 5.0] and x.tolist() == [3.0, -1.0, -2.0] and last.args[0].name == "x_1"


@pytest.mark.parametrize("look", [lambda v: v, lambda v: v.view(3, 1).squeeze(1)], ids=["itself", "a view"])
def test_a_state_whose_old_value_is_looked_at_afterwards_is_written_last(look):
    def f(x, v):
        old = look(v)
        new = v + x
        made = new * old - new
        v.copy_(new)
        x.copy_(made)
        return ()

    x, v = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 2.0)
    early(f, x, v)[0](x, v)
    assert v.tolist() == [3.0, 4.0, 6.0] and x.tolist() == [3.0, 4.0, 6.0]


def test_a_state_in_another_dtype_is_not_read_in_the_place_of_what_it_is_made_of():
    def f(x, v):
        new = v.to(torch.float32) + x
        v.copy_(new)
        x.copy_(new * new)
        return ()

    x, v = torch.tensor([1.001]), torch.ones(1, dtype=torch.bfloat16)
    early(f, x, v)[0](x, v)
    assert x.item() == pytest.approx(2.001**2, rel=1e-6)


def test_a_graph_that_calls_nothing_compiles():
    body = make_fx(lambda x, y: (y,), tracing_mode="fake")(torch.ones(2), torch.zeros(3))
    run, failure = graphs.compiled(body, [{}])
    assert failure is None
    torch.testing.assert_close(run(torch.ones(2), torch.arange(3.0)), (torch.arange(3.0),))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, (300, 8)])
def test_compiled_nan_is_where_the_loop_has_it(shape):
    params = []
    for driver in ("compiled", "reference"):
        p = param(*shape)
        optimizer = presets.ladam(lr=0.1).optimizer([p], driver=driver)
        for i in range(3):
            p.grad = torch.sin(torch.arange(p.numel()).reshape(shape) + i)
            p.grad[3, 5], p.grad[7, 2] = float("nan"), float("inf")
            optimizer.step()
        params.append(p.detach())
    assert params[0].isnan().any() and not params[0].isnan().all()
    torch.testing.assert_close(*params, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's about itself
def test_a_graph_that_was_compiled_before_comes_from_the_cache_on_disk():
    from torch._dynamo.utils import counters
    from torch._inductor.utils import fresh_cache

    def train():
        p = param(*SHAPE)
        optimizer = presets.ladam(lr=0.1).optimizer([p], driver="compiled")
        for i in range(2):
            p.grad = torch.sin(p.detach() + i)
            optimizer.step()
        return p

    with fresh_cache():
        counters.clear()
        first = train()
        assert counters["inductor"]["fxgraph_cache_bypass"] == 0 and counters["inductor"]["fxgraph_cache_miss"] > 0
        compiled = counters["inductor"]["fxgraph_cache_miss"]
        second = train()
    assert counters["inductor"]["fxgraph_cache_miss"] == compiled and counters["inductor"]["fxgraph_cache_hit"] >= compiled
    assert torch.equal(first, second)
