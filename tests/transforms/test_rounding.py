"""Differences that are zero but for rounding: no link makes a direction, or a number of standard deviations, of them."""

import numpy as np
import pytest
import torch

from gradchain import chain, presets
from gradchain import transforms as t
from gradchain.optim_wrapper.layouts import WHOLE
from gradchain.types import Carry, Context

SHAPES = pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (7,), (50, 60), (700, 900)], ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def once(link, g, w):
    one = torch.ones((), dtype=torch.float64)
    carry = Carry(grad=g, param=w, update=g, processed=g)
    ctx = Context(step=one, lr=one, shared=None, layout=WHOLE)
    if isinstance(link, t.GroupAdaDecay):
        from gradchain.types import ParamInfo

        infos = [ParamInfo("a", w, group := {}), ParamInfo("b", w, group)]
        measured = link.measure(carry, link.init(w), ctx)
        ctx = ctx._replace(shared=link.share([measured, measured], infos)[0])
    return link.update(carry, link.init(w), ctx)[0].update


def draws(shape, dtype, count=20):
    random = torch.Generator().manual_seed(0)
    for _ in range(count if len(shape) < 2 or shape[0] < 100 else 3):
        for factor in (1.0, -3.0, 1e-3, 7e4):
            yield torch.randn(shape, generator=random, dtype=dtype), factor


@SHAPES
@DTYPES
@pytest.mark.parametrize("tolerance", [0.0, 1e-6])
def test_a_gradient_along_the_parameter_is_kept_to_the_bit(shape, dtype, tolerance):
    for w, factor in draws(shape, dtype):
        g = factor * w
        assert torch.equal(once(t.OrthogonalGradient(tolerance=tolerance), g, w), g)


@SHAPES
@DTYPES
def test_the_component_across_the_parameter_of_a_gradient_along_it_is_nothing(shape, dtype):
    for w, factor in draws(shape, dtype):
        across = once(t.OrthogonalComponent(), factor * w, w)
        assert not across.any() if w.dim() > 1 else torch.equal(across, factor * w)


@DTYPES
@pytest.mark.parametrize("share", [1e-2, 1e-3])
def test_what_lies_beside_the_parameter_by_more_than_rounding_is_found(dtype, share):
    random = torch.Generator().manual_seed(1)
    w, aside = (torch.randn(6, 5, generator=random, dtype=dtype) for _ in range(2))
    aside -= (aside * w).sum() / (w * w).sum() * w
    g = w / w.norm() + share * aside / aside.norm()
    for link in (t.OrthogonalGradient(tolerance=0.0), t.OrthogonalComponent()):
        found = once(link, g, w)
        assert torch.cosine_similarity(found.flatten(), aside.flatten(), 0) > 0.99


def test_parameters_too_short_to_be_measured_keep_their_gradient():
    for size in (1e-22, 1e-21, 1e-20, 1e-40):
        w, g = torch.full((3,), size), torch.tensor([1.0, 2.0, 4.0])
        assert torch.equal(once(t.OrthogonalGradient(tolerance=0.0), g, w), g)


def test_a_gradient_that_is_not_a_number_is_not_taken_for_rounding():
    w, g = torch.ones(2, 2), torch.tensor([[1.0, float("nan")], [1.0, 1.0]])
    assert once(t.OrthogonalComponent(), g, w).isnan().any() and once(t.OrthogonalGradient(), g, w).isnan().any()


@SHAPES
@DTYPES
@pytest.mark.parametrize("kind", [t.AdaDecay, t.GroupAdaDecay])
def test_elements_of_one_size_decay_at_the_plain_rate(shape, dtype, kind):
    for size in (0.1, 0.3, 1 / 3, 1e-5, 12345.678):
        g, w = torch.full(shape, size, dtype=dtype), torch.ones(shape, dtype=dtype)
        decay = once(kind(weight_decay=size), g, w) - g
        torch.testing.assert_close(decay, size * w, rtol=1e-3, atol=0)


@pytest.mark.parametrize("preset", ["cameamp_adopt", "cameamp_last", "cameamp_ges", "cameamp_dual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_a_parameter_of_one_element_does_not_go_uphill(preset, dtype):
    """Beside others, as the share of a lone element in its group's gradient is all of it."""
    random = np.random.default_rng(0)
    settings = {"lr": 1e-3, "warmup_steps": 40, "weight_decay": 0.0}
    start = [random.standard_normal(shape) for shape in [(1,), (), (5,)]]
    params = [torch.nn.Parameter(torch.tensor(p).to(dtype)) for p in start]
    optimizer = getattr(presets, preset)(**settings).optimizer(params, driver="reference")
    for _ in range(15):
        before = [p.detach().clone() for p in params[:2]]
        for p in params:
            p.grad = torch.as_tensor(random.uniform(0.5, 1.5, p.shape)).to(dtype)
        optimizer.step()
        assert all((p.detach() <= old).all() for p, old in zip(params, before, strict=False))


@DTYPES
def test_a_matrix_of_one_element_rests_where_adam_would_follow_the_rounding(dtype):
    recipe = chain(t.OrthogonalComponent(), t.Moments(), t.Normalize(), t.LearningRate(lr=0.1))
    param = torch.nn.Parameter(torch.tensor([[0.3]], dtype=dtype))
    optimizer = recipe.optimizer([param])
    for value in (0.7, 0.9, 1.3):
        param.grad = torch.full_like(param, value)
        optimizer.step()
    assert param.item() == torch.tensor(0.3, dtype=dtype).item()
