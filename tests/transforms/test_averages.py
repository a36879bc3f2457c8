"""Other averages, divisions and writes: their figures, bounds, limits, and what is left without them."""

import pytest
import torch

from gradchain import ChainError, chain, presets
from gradchain import transforms as t

K = torch.arange(24, dtype=torch.float64).reshape(4, 6)
DECAY = {"lr": 0.05, "weight_decay": 0.1}


def train(recipe, steps=12, dtype=torch.float64, scale=1.0):
    """theta_0 = cos(1 + k), g_t = 0.1 sin(1 + t (k + 1))."""
    param = torch.nn.Parameter(torch.cos(1 + K).to(dtype))
    optimizer = recipe.optimizer([param], driver="reference")  # another driver rounds otherwise
    for step in range(1, steps + 1):
        param.grad = (scale * 0.1 * torch.sin(1 + step * (K + 1))).to(dtype)
        optimizer.step()
    return param.detach(), optimizer.state[param]


FIGURES = {  # of the authors' programs: the first and ninth element and the sum of squares
    "ademamix": (presets.ademamix(**DECAY, alpha_warmup=8, beta3_warmup=8), 0.455851303707, -0.756564427846, 8.366305173515),
    "adam_atan2": (presets.adam_atan2(**DECAY), 0.460689146964, -0.746145917907, 8.366334118667),
    "adan": (presets.adan(**DECAY), 0.529650849200, -0.835439025569, 9.493168614651),
    "adan no_prox": (presets.adan(**DECAY, no_prox=True), 0.529604687850, -0.835075681189, 9.486475508895),
    "mars": (presets.mars(**DECAY), 0.461471136753, -0.779597575180, 8.551089400482),
}


@pytest.mark.parametrize(("recipe", "first", "ninth", "squares"), FIGURES.values(), ids=FIGURES)
def test_twelve_steps_of_a_rule(recipe, first, ninth, squares):
    param, _ = train(recipe)
    assert (*param.flatten()[[0, 8]].tolist(), param.square().sum().item()) == pytest.approx((first, ninth, squares), abs=2e-11)


def test_twelve_steps_of_laprop():
    param, _ = train(presets.laprop(**DECAY))  # recorded from a program with float32 scalars
    assert param.flatten()[[0, 8]].tolist() == pytest.approx((0.478996201758, -0.778007037088), abs=5e-8)


def test_without_their_link_they_are_the_classic_bit_for_bit():
    adamw = presets.adamw(lr=0.05, weight_decay=0.1)
    for recipe in (presets.ademamix(**DECAY, alpha=0.0), presets.kahan_adamw(**DECAY).without("kahan")):
        assert torch.equal(train(recipe)[0], train(adamw)[0])
    mars = presets.mars(**DECAY, betas=(0.9, 0.999), optimize_1d=True)
    assert torch.equal(train(mars.without("mars"))[0], train(adamw)[0])
    plain = chain(t.UncorrectedMoments(), t.Normalize(), t.WeightDecay(weight_decay=0.1), t.LearningRate(lr=0.05))
    assert torch.equal(train(presets.prodigy(**DECAY).without("prodigy_distance"))[0], train(plain)[0])


def test_vectors_keep_plain_adamw_under_mars():
    def vector(recipe):
        param = torch.nn.Parameter(torch.ones(3))
        optimizer = recipe.optimizer([param], driver="reference")
        for step in range(5):
            param.grad = torch.sin(step + torch.arange(3.0))
            optimizer.step()
        return param.detach()

    plain = presets.adamw(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    assert torch.equal(vector(presets.mars()), vector(plain))
    assert not torch.equal(vector(presets.mars(optimize_1d=True)), vector(plain))


def test_the_arc_tangent_is_bounded_and_knows_no_scale_of_the_gradient():
    recipe = chain(t.Moments(), t.Atan2(), t.LearningRate(lr=0.05))
    torch.testing.assert_close(train(recipe)[0], train(recipe, scale=1e-12)[0], rtol=1e-12, atol=0)
    one_step = (train(recipe, steps=1)[0] - torch.cos(1 + K)).abs().max()
    assert one_step <= 0.05 * 1.27 * torch.pi / 2


def test_the_distance_never_falls_and_does_not_depend_on_the_scale_of_the_loss():
    def distances(scale):
        param = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = presets.prodigy(d0=1e-3, eps=0.0).optimizer([param])
        for step in range(20):
            param.grad = scale * param.detach() * (1 + torch.arange(3) + step % 2)
            optimizer.step()
            yield optimizer.state[param]["prodigy_distance/growth"].item()

    found = list(distances(1.0))
    assert found == sorted(found) and found[-1] > 10
    assert list(distances(1e-3)) == pytest.approx(found, rel=1e-9)


def test_there_is_one_distance_for_the_whole_model():
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    optimizer = presets.prodigy(d0=1e-2).optimizer(params)
    for step in range(10):
        for p in params:
            p.grad = torch.ones_like(p) * (1 + step)
        optimizer.step()
    first, second = (optimizer.state[p]["prodigy_distance/growth"] for p in params)
    assert torch.equal(first, second) and first > 1


def drift(recipe):
    param = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    optimizer = recipe.optimizer([param])
    for _ in range(1000):
        param.grad = -torch.ones_like(param)
        optimizer.step()
    return param.detach().float(), optimizer.state[param]


@pytest.mark.parametrize("driver", ["reference", "eager"])
def test_small_steps_add_up_in_bfloat16(driver):
    recipe = chain(t.LearningRate(lr=1e-4), t.Kahan())
    assert torch.equal(drift(recipe.without("kahan"))[0], torch.ones(5))
    param = [torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16)) for _ in range(3)]
    optimizer = recipe.optimizer(param, driver=driver)
    for _ in range(1000):
        for p in param:
            p.grad = -torch.ones_like(p)
        optimizer.step()
    total = param[0].detach().float() + optimizer.state[param[0]]["kahan/compensation"]
    torch.testing.assert_close(total, torch.full((5,), 1.1), rtol=1e-5, atol=1e-5)


def test_one_link_owns_the_write():
    with pytest.raises(ChainError, match="both own the parameter's write"):
        chain(t.LearningRate(), t.Kahan(), t.Lookahead())
    with pytest.raises(ChainError, match="no link behind it may change the step"):
        chain(t.LearningRate(), t.Kahan(), t.SpeedLimit())


def test_keywords_that_mean_something_else_here_are_refused():
    with pytest.raises(ChainError, match="mars does not take 'lr_1d': give vectors a group"):
        presets.mars(lr_1d=1e-3)
    with pytest.raises(ChainError, match="prodigy does not take 'slice_p'"):
        presets.prodigy(slice_p=11)
    with pytest.raises(ChainError, match="adam_atan2 does not take 'regen_reg_rate'"):
        presets.adam_atan2(regen_reg_rate=0.1)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.99, 0.5)], ids=str)
def test_a_step_of_laprop_is_bounded_whatever_both_averages_are(betas):
    """By the longest normalized gradient, sqrt((1 - b2^t) / (1 - b2)); a spike after silence is nearly that long."""
    param = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    optimizer = presets.laprop(lr=1.0, betas=betas).optimizer([param])
    for step in range(1, 40):
        before = param.detach().clone()
        param.grad = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) * 10.0 ** (step % 7)
        optimizer.step()
        assert (before - param).abs().max() <= ((1 - betas[1] ** step) / (1 - betas[1])) ** 0.5 * (1 + 1e-9)


def test_nothing_over_nothing_is_no_step_of_the_arc_tangent():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = presets.adam_atan2().optimizer([param])
    param.grad = torch.zeros(3)
    optimizer.step()
    assert param.tolist() == [1, 1, 1]


def test_mars_keeps_gradients_not_the_tensors_they_came_in():
    found = []
    for fresh in (True, False):
        param = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
        param.grad = torch.zeros_like(param)
        optimizer = presets.mars(gamma=0.5).optimizer([param])
        for step in range(6):
            g = torch.sin(step + K[:2, :3])
            param.grad = g if fresh else param.grad.copy_(g)
            optimizer.step()
        found.append(param.detach())
    assert torch.equal(*found)


def test_the_distance_does_not_depend_on_how_parameters_are_grouped():
    found = []
    for sizes in ((3,), (1, 2), (1, 1, 1)):
        params = [torch.nn.Parameter(torch.ones(n + 1, dtype=torch.float64)) for n in range(3)]
        stack = iter(params)
        groups = [{"params": [next(stack) for _ in range(size)]} for size in sizes]
        optimizer = presets.prodigy(d0=1e-3).optimizer(groups)
        for step in range(10):
            for i, p in enumerate(params):
                p.grad = p.detach() * (1 + i + step % 3)
            optimizer.step()
        found.append(optimizer.state[params[0]]["prodigy_distance/growth"].item())
    assert found == pytest.approx([found[0]] * 3, rel=1e-12) and found[0] > 10
