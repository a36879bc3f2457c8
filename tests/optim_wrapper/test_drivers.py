"""Every driver gives the loop's numbers, and what each does with graphs, plans and failures."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from table import PRESETS
from training import param, steps

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.drivers import graphs, plan
from gradchain.optim_wrapper.execution import compiler, ready
from gradchain.types import Transform

SHAPES = [(4, 6), (5,), (4, 6), (3, 2, 2), (4, 6), (5,), ()]


def trained(recipe, driver, count=50, shapes=SHAPES, dtype=torch.float64, absent=None):
    """Parameters and state after steps on gradients that are the same for every driver; one may miss one, by its place."""
    params = [param(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    optimizer = recipe.optimizer(params, driver=driver)
    random = torch.Generator().manual_seed(1)
    for i in range(count):
        for at, p in enumerate(params):
            grad = torch.randn(p.shape, generator=random, dtype=dtype)
            p.grad = None if i == 2 and at == absent else grad
        optimizer.step()
    return params, optimizer


def agree(ours, theirs, rtol=1e-6, atol=1e-9):
    (params, optimizer), (others, other) = ours, theirs
    torch.testing.assert_close(params, others, rtol=rtol, atol=atol)
    for p, q in zip(params, others, strict=True):
        assert optimizer.state[p].keys() == other.state[q].keys()
        assert optimizer.state[p]["step"] == other.state[q]["step"]


@pytest.mark.parametrize("recipe", list(PRESETS.values()), ids=PRESETS)
def test_eager_gives_the_reference_s_numbers_for_every_preset(recipe):
    agree(trained(recipe, "eager", absent=1), trained(recipe, "reference", absent=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_graphs_for_the_compiler_give_the_reference_s_numbers_for_every_preset(name, monkeypatch):
    """What is handed to inductor, in its own decompositions, run as it is: compiling each takes seconds to a minute."""
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    recipe, alone = PRESETS[name], list(PRESETS).index(name) % 2  # every other preset with a parameter alone beside the stack
    shapes = [(4, 6), (4, 6), *[(5,)] * alone]
    agree(trained(recipe, "compiled", 12, shapes), trained(recipe, "reference", 12, shapes))


COMPILED = ["nadam", "lion", "ladam_wave", "adafactor", "schedule_free_adamw"]  # elementwise, signs, neighbors, means, averages


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_gives_the_reference_s_numbers(name):
    shapes = [(4, 6), (4, 6)]
    agree(trained(PRESETS[name], "compiled", 12, shapes), trained(PRESETS[name], "reference", 12, shapes))


@pytest.mark.slow
def test_a_large_parameter_is_compiled_alone_and_gives_the_reference_s_numbers():
    recipe, shapes = presets.ladam(c2=0.1, weight_decay=0.01), [(256, 192)]
    agree(trained(recipe, "compiled", 5, shapes), trained(recipe, "reference", 5, shapes))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(100,), (8, 768), (64, 64)])
def test_the_crash_of_a_stack_with_a_mean_that_feeds_elementwise_code_is_got_round(shape):
    """torch 2.13's C++ back end raises KeyError on some forms of this chain: vmap, a mean, a result written in place."""
    recipe = chain(t.Moments(), t.Normalize(), t.Cautious(), t.WeightDecay(weight_decay=0.1), t.LearningRate(lr=1e-2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it compiles, it does not fall back
        ours = trained(recipe, "compiled", 4, [shape] * 3, torch.float32)
    agree(ours, trained(recipe, "reference", 4, [shape] * 3, torch.float32), rtol=1e-5, atol=1e-8)  # last digits of lr


@pytest.mark.usefixtures("graphs_only")
def test_a_compiler_that_fails_is_told_of_once_and_the_graph_runs_uncompiled(monkeypatch):
    asked = []

    def broken(body, options):
        asked.append(options)
        raise RuntimeError("no compiler")

    monkeypatch.setattr(graphs, "_through_inductor", broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = trained(presets.nadam(), "compiled", 5, [(4, 6), (4, 6)])
    told = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert len(told) == 1 and "runs uncompiled (RuntimeError: no compiler)" in told[0]
    assert len(asked) == 4  # both forms were tried, once with symbols for sizes and once with numbers
    agree(ours, trained(presets.nadam(), "reference", 5, [(4, 6), (4, 6)]))


@pytest.mark.usefixtures("graphs_only")
def test_a_crash_in_the_first_form_is_got_round_by_the_second(monkeypatch):
    through = []

    def picky(body, options):
        through.append(options)
        if len(through) == 1:
            raise KeyError("buf4")
        return body.forward

    monkeypatch.setattr(graphs, "_through_inductor", picky)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(presets.c_adamw(), "compiled", 3, [(100,)] * 3)
    assert through[0] != through[1]


@pytest.mark.usefixtures("graphs_only")
def test_a_scheduler_makes_no_new_graph(monkeypatch):
    """Hyperparameters are inputs: one graph a shape, whatever their values; the compiler is not asked again."""
    compiled = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: compiled.append(body) or body.forward)
    torch._dynamo.utils.counters.clear()
    params = [param(4, 6), param(4, 6, seed=1), param(5)]
    optimizer = presets.nadam(lr=1.0).optimizer(params, driver="compiled")
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=102)  # changes lr and betas
    for i in range(100):
        for p in params:
            p.grad = torch.sin(p.detach() + i)
        optimizer.step()
        scheduler.step()
    assert len(compiled) == 2  # for matrices, and for vectors
    assert not torch._dynamo.utils.counters["stats"]  # dynamo has not been asked at all


@pytest.mark.usefixtures("graphs_only")
def test_parameters_of_a_known_shape_share_its_graph(monkeypatch):
    compiled = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: compiled.append(body) or body.forward)
    large = [param(256, 192, seed=i) for i in range(4)]
    optimizer = presets.nadam().optimizer(large, driver="compiled")
    for p in large:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert len(compiled) == 1


def test_rows_of_a_stack_are_the_parameters_state():
    _, optimizer = trained(presets.ladam(), "eager", 2, [(3,), (3,)])
    first, second = (optimizer.state[p]["moments/first"] for p in optimizer.param_groups[0]["params"])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


@pytest.mark.parametrize("triton", [True, False])
def test_without_being_asked_a_gpu_is_compiled_for_where_triton_is(triton, monkeypatch):
    monkeypatch.setattr(compiler, "has_triton", lambda: triton)
    here, there = param(3), SimpleNamespace(is_cuda=True, device=torch.device("cuda"))
    pays = [compiler.compiling_pays(params) for params in ([there, there], [there, here], [here], [])]
    assert pays == [triton, False, False, False]


@pytest.mark.parametrize("found", [True, False])
def test_without_being_asked_large_parameters_are_compiled_where_a_compiler_is(found, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "REPAID", 100)
    monkeypatch.setattr(compiler, "PARAMETER", 30)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name if found else None)
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    compiler._found.cache_clear()
    for shapes, compiled in (([(4, 4)], False), ([(40, 4)], found), ([(9, 9), (5, 4)], found), ([(1,)] * 4, found)):
        ours = presets.ladam().optimizer([param(*shape) for shape in shapes])
        steps(ours, 1)
        assert ours._drive.plan.compile is compiled
    told = [record for record in caplog.records if record.name == "gradchain"]
    assert len(told) == (not found)  # once, not for each optimizer
    compiler._found.cache_clear()


def test_a_compiler_that_is_asked_for_and_missing_is_told_of(monkeypatch):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    ours = presets.ladam().optimizer([param(4, 4)], driver="compiled")
    with pytest.warns(RuntimeWarning, match="C\\+\\+ compiler '.*' was not found. Install one"):
        steps(ours, 1)
    assert not ours._drive.plan.compile


@pytest.mark.usefixtures("graphs_only")
def test_one_graph_serves_all_shapes_of_a_number_of_dimensions(monkeypatch):
    compiled = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: compiled.append(body) or body.forward)
    shapes = [(40, 30), (30, 40), (20, 20), (7, 90), (6, 5, 4), (4, 4, 4), (50,), (60,)]
    agree(trained(presets.ladam(), "compiled", 3, shapes), trained(presets.ladam(), "reference", 3, shapes))
    assert len(compiled) == 3


@pytest.mark.usefixtures("graphs_only")
def test_a_graph_is_not_used_for_sizes_that_its_links_treat_in_another_way(monkeypatch):
    """Laplacian leaves alone what has fewer than 16 elements, or fewer than 3 rows."""
    compiled = []
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: compiled.append(body) or body.forward)
    shapes = [(6, 6), (3, 4), (2, 9), (9, 2), (8, 5)]
    agree(trained(presets.ladam(), "compiled", 3, shapes), trained(presets.ladam(), "reference", 3, shapes))
    assert len(compiled) == 4


@pytest.mark.usefixtures("graphs_only")
def test_a_link_that_asks_for_sizes_as_numbers_has_a_graph_for_each(monkeypatch):
    compiled = []

    class Whole(Transform):
        def update(self, carry, state, ctx):
            return carry._replace(update=carry.update * float(int(carry.param.shape[0]))), state

    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: compiled.append(body) or body.forward)
    recipe, shapes = chain(Whole(), t.LearningRate(lr=0.1)), [(4, 5), (6, 5), (6, 7)]
    agree(trained(recipe, "compiled", 3, shapes), trained(recipe, "reference", 3, shapes))
    assert len(compiled) == 2  # one for four rows, one for six


@pytest.mark.usefixtures("graphs_only")
def test_a_changed_learning_rate_is_looked_at_once_for_all_shapes(monkeypatch):
    params, made, split = [param(i, 2) for i in range(3, 7) for _ in "12"], [], plan.Split
    monkeypatch.setattr(graphs, "_through_inductor", lambda body, options: body.forward)
    optimizer = presets.ladam().optimizer(params, driver="compiled")
    steps(optimizer, 1)
    assert len(optimizer._drive.plan.homes) == 4
    for module in (plan, ready):
        monkeypatch.setattr(module, "Split", lambda links: made.append(links) or split(links))
    steps(optimizer, 2)
    assert not made
    optimizer.param_groups[0]["lr"] = 0.5
    steps(optimizer, 2)
    assert len(made) == 1
